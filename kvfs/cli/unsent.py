"""Sources that are not mounted and hold changes: read from their journals, with neither server nor token."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import to_builtins

from kvfs.cli.daemons import ask_mount, living_mounts, source_name
from kvfs.cli.output import say, say_json
from kvfs.cli.waiting import Waiting
from kvfs.core.errors import JournalError, JournalLockedError, UserError
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.core.names import title_names
from kvfs.host.control import Message
from kvfs.host.open_conflicts import ConflictFile
from kvfs.host.replies import ChangeItem, ConflictItem, ItemList, ItemT, RejectedItem
from kvfs.host.requests import Request
from kvfs.host.sources import SourceRecord, journals, read_source

if TYPE_CHECKING:
    from kvfs.journal.journal import Journal


@dataclass(frozen=True, slots=True)
class UnsentSource:
    """A source that is not mounted, with the changes of its journal. `error` says why the journal could not be read."""

    journal: Path
    record: SourceRecord
    pending: list[ChangeItem]
    rejected: list[RejectedItem]
    conflicts: list[ConflictItem] = field(default_factory=list)
    bytes: int = 0
    oldest_seconds: float | None = None
    error: str = ""

    @property
    def holds_anything(self) -> bool:
        """Return True if the user has to be told of it."""
        return bool(self.pending or self.rejected or self.conflicts or self.error)

    @property
    def command(self) -> str:
        """Return the command that sends the changes."""
        return (
            f"kvfs mount {self.record.source if self.record.identity else 'SOURCE'} {self.record.mountpoint}"
        )


def kept_source(text: str, state_dir: Path) -> UnsentSource:
    """Return the unmounted source of a name, a mount point or a journal's directory.

    Raises `UserError` with the known names.
    """
    kept = kept_sources(state_dir, everything=True)
    place = os.path.abspath(os.path.expanduser(text))
    found = [one for one in kept if source_name(text) == one.record.source or text == one.journal.parent.name]
    found = found or [one for one in kept if one.record.mountpoint == place]
    if len({one.record.identity for one in found}) == 1:
        found = found[:1]  # the others are of mounts to read only, which had it besides
    if len(found) == 1:
        if found[0].error:
            raise UserError(found[0].error)
        return found[0]
    if found:
        names = ", ".join(one.journal.parent.name for one in found)
        raise UserError(f"{text} is the name of several sources: write one of {names}")
    if mounted := living_mounts(text, state_dir):
        where = mounted[0].mountpoint
        raise UserError(f"{text} is mounted at {where}: kvfs sync {where} sends, kvfs umount {where} ends it")
    names = ", ".join(one.record.source for one in kept if one.holds_anything) or "none"
    raise UserError(f"{text} is no unmounted source of this machine; those that hold changes: {names}")


def kept_sources(state_dir: Path, *, everything: bool = False, quiet: bool = False) -> list[UnsentSource]:
    """Return every unmounted source that holds changes (or anything, with `everything`), by name.

    With `quiet` nothing is printed.
    """
    with Waiting("reading journals of sources that are not mounted", quiet=quiet):
        read = [_kept(path) for path in journals(state_dir)]
    found = [kept for kept in read if kept is not None and (everything or kept.holds_anything)]
    return sorted(found, key=lambda kept: (kept.record.source, str(kept.journal)))


def _kept(path: Path) -> UnsentSource | None:
    """Return the changes of one journal; None while a daemon has it locked."""
    record = read_source(path)
    if record is None:
        if not _holds_changes(path):
            return None  # of a mount that did not come about
        error = "of a source whose name is not recorded: mount that source again"
        return UnsentSource(
            path, SourceRecord(f"(journal {path.parent.name})", "", "DIR"), [], [], error=error
        )
    try:
        with opened(path, record) as journal:
            oldest = journal.totals.oldest_pending_at
            return UnsentSource(
                path,
                record,
                [ChangeItem.of(change, _path(change, record), time.time()) for change in journal.pending()],
                [RejectedItem.of(change, _path(change, record)) for change in journal.rejected()],
                conflicts_of(journal, record),
                journal.pending_bytes,
                max(0.0, time.time() - oldest) if oldest is not None else None,
            )
    except JournalLockedError:
        return None
    except JournalError as exc:
        return UnsentSource(path, record, [], [], error=str(exc))


def _holds_changes(path: Path) -> bool:
    """Return whether a journal without a name has something to send, as far as it can be read. It is not altered."""
    from kvfs.journal.opener import lock  # most often every journal has a name
    from kvfs.journal.worth import Worth, worth

    try:
        descriptor = lock(path, "")
    except (JournalLockedError, OSError):
        return False  # it is in use, or it went this very moment
    try:
        return worth(path) is Worth.CHANGES
    finally:
        os.close(descriptor)


def items_of(
    source: str | None,
    state_dir: Path,
    request: Request[ItemList[ItemT]],
    kept: Callable[[UnsentSource], Iterable[ItemT]],
) -> Iterator[Message]:
    """Yield the answers of mounts to `request`, then those of `kept` for unmounted sources: of one source, or of all.

    Each has its source and its mount point ("" for none). Raises `UserError` for a source that nobody knows.
    """
    mounted = living_mounts(source, state_dir)
    for record in mounted:
        for item in ask_mount(Path(record.mountpoint), state_dir, request).items:
            yield {"source": record.source, "mountpoint": record.mountpoint, **to_builtins(item)}
    if source is not None and mounted:
        return
    for one in kept_sources(state_dir) if source is None else [kept_source(source, state_dir)]:
        for held in kept(one):
            yield {"source": one.record.source, "mountpoint": "", **to_builtins(held)}


def say_items(items: Iterable[Message], line: Callable[[Message], str], none: str, *, as_json: bool) -> None:
    """Print items for programs, or a line for each; `none` says that there are none."""
    found = list(items)
    if as_json:
        say_json(found)
    else:
        for text in map(line, found) if found else (none,):
            say(text)


def opened(path: Path, record: SourceRecord) -> "Journal":
    """Open the journal of an unmounted source, under its lock, as a context. Raises `JournalError`."""
    from kvfs.journal.journal import Journal  # most often nothing is left to read

    return Journal.open(path, source=record.identity, now=time.time)


def _path(change: Change, record: SourceRecord) -> str:
    return "/".join(names_of(change, record))


def conflicts_of(journal: "Journal", record: SourceRecord) -> list[ConflictItem]:
    """Return conflicts that are open as far as this machine knows."""
    found = []
    for conflict in ConflictFile(journal.path).read():
        copy = journal.get(conflict.namespace, conflict.copy)
        if copy is not None and copy.is_tombstone:
            continue
        path, copy_path = (
            "/".join(path_names(conflict.namespace, key, record)) for key in (conflict.key, conflict.copy)
        )
        size = copy.size if copy is not None else None
        found.append(ConflictItem(path, copy_path, conflict.at, copy_size=size))
    return found


def names_of(change: Change, record: SourceRecord, *, is_directory_too: bool = False) -> tuple[str, ...]:
    """Return the path of a change below the mount point."""
    return path_names(change.namespace, change.key, record, is_directory_too=is_directory_too)


def path_names(
    namespace: NamespaceId, key: Key, record: SourceRecord, *, is_directory_too: bool = False
) -> tuple[str, ...]:
    """Return the path of a key below the mount point."""
    inside = key.removeprefix(record.prefix) or key
    names = record.naming.path_of(Key(inside), is_directory_too=is_directory_too)
    return names if record.namespace else (_title(record, namespace), *names)


def _title(record: SourceRecord, wanted: NamespaceId) -> str:
    """Return the directory of a namespace: its name when it was last listed, else its id."""
    for name, namespace in title_names(record.listed()).items():
        if namespace.id == wanted:
            return name
    return wanted
