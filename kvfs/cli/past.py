"""The past of a place: the versions of a path or directory, of a source that is mounted or was."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvfs.cli.daemons import ask_mount, living_mounts, recorded_path
from kvfs.config import parse_source
from kvfs.core.digest import digest
from kvfs.core.errors import KvfsError, UserError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import SELF, title_names
from kvfs.history.version import SAME_CONTENT, Version, VersionBatch
from kvfs.history.version_segment import VersionSegment, segments
from kvfs.host.replies import AtHand
from kvfs.host.requests import HistoryRequest
from kvfs.host.sources import HISTORY, SourceRecord, known_sources
from kvfs.host.state import SYSTEM_DIR, default_data_dir

GONE: Final = "its content has left the history since"


@dataclass(frozen=True, slots=True)
class PastPlace:
    """A path below the root of a source. `mountpoint` is where the source is mounted now, None while it is not."""

    text: str
    journal: Path
    record: SourceRecord
    names: tuple[str, ...]
    mountpoint: Path | None

    @property
    def directory(self) -> Path:
        """Return the directory of the versions."""
        return self.journal.with_name(HISTORY)

    @property
    def path(self) -> Path | None:
        """Return the place in the mount."""
        return self.mountpoint.joinpath(*self.names) if self.mountpoint is not None else None


@dataclass(frozen=True, slots=True)
class Past:
    """A version, the names of its path below the root of the source, and the place of its content."""

    names: tuple[str, ...]
    version: Version
    segment: VersionSegment

    @property
    def path(self) -> str:
        """Return the path below the root."""
        return "/".join(self.names)


# places


def find_place(text: str, state_dir: Path) -> PastPlace:
    """Parse PATH or SOURCE[/PATH]. Raises `UserError`."""
    place = _mounted(text, state_dir) or _of_source(text, state_dir)
    if place is not None:
        return place
    names = ", ".join(sorted(record.source for _, record in known_sources(state_dir))) or "none"
    raise UserError(f"{text} is neither in a mount nor in a source that was mounted here: {names}")


def _mounted(text: str, state_dir: Path) -> PastPlace | None:
    found_in = recorded_path(text, state_dir)
    if found_in is None:
        return None
    mounted, mountpoint, names = found_in
    known = known_sources(state_dir, SYSTEM_DIR)
    found = [(journal, record) for journal, record in known if record.source == mounted.source]
    if not found:
        return None
    # another server may have had a source of that name
    journal, record = max(found, key=lambda one: (one[1].mountpoint == mounted.mountpoint, one[1].since))
    if mounted.is_read_only:  # the journal of such a mount is empty; another of the source may have a past
        same = [one for one in found if one[1].identity == record.identity]
        journal = max(same, key=lambda one: ((one[0].with_name(HISTORY)).exists(), one[1].since))[0]
    return PastPlace(text, journal, record, names, mountpoint)


def _of_source(text: str, state_dir: Path) -> PastPlace | None:
    """Return the longest source that the text begins with, or that was mounted last where it points to."""
    found: PastPlace | None = None
    longest = 0
    mounted = reversed(living_mounts(None, state_dir))  # one that can be written to counts
    live = {one.source: Path(one.mountpoint) for one in mounted}
    for journal, record in known_sources(state_dir):
        for written in _written(text):
            for start in (record.source, record.mountpoint):
                names = _below(written, start)
                if names is not None and len(start) > longest:
                    longest = len(start)
                    found = PastPlace(text, journal, record, names, live.get(record.source))
    return found


def _written(text: str) -> Iterator[str]:
    """Return the text with its possible meanings: a path in full, the default store, the account of the environment."""
    yield text
    if text.startswith("local:"):
        rest = text.removeprefix("local:")
        yield f"local:{os.path.abspath(os.path.expanduser(rest))}"
        yield f"local:{default_data_dir() / 'store.sqlite'}{rest}"
    elif ":" in text:
        with suppress(KvfsError):
            yield str(parse_source(text, os.environ, insecure=True))
    else:
        yield os.path.abspath(os.path.expanduser(text))


def _below(text: str, start: str) -> tuple[str, ...] | None:
    if not start or not (text == start or text.startswith(start.rstrip("/") + "/")):
        return None
    return tuple(name for name in text[len(start) :].split("/") if name)


# versions


def versions_of(place: PastPlace) -> dict[tuple[str, ...], list[Past]]:
    """Return the versions at and below a place, oldest first, by the names of their paths."""
    found: dict[tuple[str, ...], list[Past]] = {}
    current = {one.id: name for name, one in title_names(place.record.listed()).items()}
    for segment in segments(place.directory):
        for batch in segment.batches():
            for past in _in_batch(place, segment, batch, current):
                found.setdefault(past.names, []).append(past)
    for pasts in found.values():
        pasts.sort(key=lambda past: past.version.at)
    return found


def _in_batch(
    place: PastPlace, segment: VersionSegment, batch: VersionBatch, current: dict[NamespaceId, str]
) -> Iterator[Past]:
    naming, wanted = place.record.naming, place.names
    below = wanted if place.record.namespace else wanted[1:]
    literal = place.record.separator.join(below) if not any("%" in name for name in below) else ""
    start = place.record.prefix + literal
    for version in batch.versions:
        if not version.key.startswith(start):
            continue
        root: tuple[str, ...] = ()
        if not place.record.namespace:
            titles = (batch.titles.get(version.namespace), current.get(version.namespace))
            if wanted and wanted[0] not in titles:
                continue
            root = (wanted[0] if wanted else titles[1] or titles[0] or version.namespace,)
        key = Key(version.key.removeprefix(place.record.prefix) or version.key)
        names = (*root, *naming.path_of(key))
        if names[: len(wanted)] == wanted:
            yield Past(names, version, segment)
        elif (*names, SELF) == wanted:
            yield Past(wanted, version, segment)


def content_of(past: Past, others: list[Past], now: bytes | None) -> bytes:
    """Return the content of a version; `others` are those of its key, `now` is what the file holds.

    Raises `UserError`.
    """
    version = past.version
    if version.why:
        raise UserError(f"{past.path}: not kept, because {version.why}")
    if version.offset == SAME_CONTENT:
        later = [one for one in others if one.version.digest == version.digest and one.version.is_kept]
        for one in later:
            if one.version.offset != SAME_CONTENT:
                return content_of(one, [], None)
        if now is not None and digest(now) == version.digest:
            return now
        raise UserError(f"{past.path}: not kept, because {GONE}")
    try:
        value = past.segment.content(version)
    except OSError as exc:
        raise UserError(f"{past.path}: not kept, because {GONE}") from exc
    if digest(value) != version.digest:
        raise UserError(f"{past.path}: the content in the history is damaged")
    return value


# knowledge of the daemon


def written(place: PastPlace, state_dir: Path) -> AtHand | None:
    """Have the daemon write the versions it noted.

    Return its knowledge of the place, None while the source is not mounted.
    """
    if place.mountpoint is None:
        return None
    return ask_mount(place.mountpoint, state_dir, _asked(place))


def _asked(place: PastPlace) -> HistoryRequest:
    """Return the namespace and key that the place stands for, as far as that is known."""
    names, namespace = place.names, place.record.namespace
    if not namespace:
        found = title_names(place.record.listed())
        if not names or names[0] not in found:
            return HistoryRequest()
        namespace, names = found[names[0]].id, names[1:]
    try:
        key = place.record.naming.key_of(names) if names else ""
    except KvfsError:
        return HistoryRequest()
    return HistoryRequest(namespace, place.record.prefix + key)
