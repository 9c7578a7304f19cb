"""Finds the daemon of a mount, and listens to one that sends pending changes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from kvfs.cli.exits import Exit
from kvfs.cli.output import complain, counted, duration_text, first_of, say
from kvfs.cli.sending import SendingProgress
from kvfs.cli.versions import understood
from kvfs.cli.waiting import Waiting
from kvfs.config import parse_source
from kvfs.core.errors import KvfsError, UserError
from kvfs.host import replies
from kvfs.host.control import SILENCE_SECONDS, Client, Message, NoDaemonError, connect
from kvfs.host.mounts import MOUNTINFO, Mount, is_stale, mount_at, mount_of, real_mountpoint
from kvfs.host.requests import A, Request, form_of, name_of
from kvfs.host.state import (
    SYSTEM_DIR,
    MountRecord,
    control_path,
    lives,
    read_record,
    record_path,
    records,
)

LEFT_SHOWN = 20


def find_record(directory: Path, state_dir: Path) -> MountRecord | None:
    """Return the record of the mount at `directory`, if this user made it."""
    record = read_record(record_path(directory, state_dir))
    if record is None and os.geteuid() == 0:  # made at boot, without a home
        record = read_record(record_path(directory, SYSTEM_DIR))
    return record


def socket_of(directory: Path, state_dir: Path) -> Path:
    """Return the control socket of the mount at `directory`; its record knows best."""
    record = find_record(directory, state_dir)
    return Path(record.socket) if record is not None else control_path(directory, state_dir)


def chosen_mounts(directory: Path | None, state_dir: Path) -> list[Path]:
    """Return the mount that was named, or all of this user; `UserError` when there is none."""
    if directory is not None:
        return [real_mountpoint(directory)]
    found = [Path(record.mountpoint) for record in records(state_dir) if is_there(record)]
    if not found:
        raise UserError("nothing is mounted")
    return found


def is_there(record: MountRecord) -> bool:
    """Return whether a record stands for a mount. The record of a killed daemon whose mount is gone does not."""
    return mount_at(Path(record.mountpoint)) is not None or lives(record.pid)


def living_mounts(text: str | None, state_dir: Path) -> list[MountRecord]:
    """Return the mounts of a source or at a directory, or all; those that can be written to first."""
    living = [record for record in records(state_dir) if lives(record.pid)]
    mountpoint, source = ("", "") if text is None else (str(real_mountpoint(Path(text))), source_name(text))
    found = [one for one in living if text is None or one.source == source or one.mountpoint == mountpoint]
    return sorted(found, key=lambda record: record.is_read_only)


def source_name(text: str) -> str:
    """Return the name by which a source is recorded: `local:` has its file in full. Other texts stay as they are."""
    with suppress(KvfsError):
        return str(parse_source(text, os.environ, insecure=True))
    return text


def mount_containing(path: Path) -> tuple[Path, str]:
    """Return the mount point that `path` lies in, and the path below it; `UserError` when that is no mount of kvfs."""
    found = mounted_path(os.fspath(path))
    if found is None:
        raise UserError(f"{path} is not in a kvfs mount")
    absolute, mount = found
    inside = absolute.relative_to(mount.mountpoint)
    return mount.mountpoint, "" if inside == Path() else os.fspath(inside)


def mounted_path(text: str) -> tuple[Path, Mount] | None:
    """Return the absolute path that `text` names, with the kvfs mount it lies in; None when it lies in none.

    Links on the way to its last part are followed only if the path as written lies in no mount, because each look
    at a mount may be a request. None also where the system has no list of mounts.
    """
    if not MOUNTINFO.exists():
        return None
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if (mount := mount_of(path)) is not None:
        return path, mount
    path = Path(os.path.realpath(path.parent)) / path.name
    return (path, mount) if (mount := mount_of(path)) is not None else None


def recorded_path(text: str, state_dir: Path) -> tuple[MountRecord, Path, tuple[str, ...]] | None:
    """Return the mount of this user that a path lies in, its mount point, and the names below; None for others."""
    found = mounted_path(text)
    if found is None:
        return None
    path, mount = found
    record = find_record(mount.mountpoint, state_dir)
    if record is None:
        raise UserError(
            f"{text} is in a mount that is another user's, or was made with another --state-dir: name that"
        )
    return record, mount.mountpoint, path.relative_to(mount.mountpoint).parts


@contextmanager
def daemon_of(directory: Path, state_dir: Path) -> Iterator[Client]:
    """Return a connection to the daemon that serves `directory`."""
    path = socket_of(directory, state_dir)
    if not path.exists():
        mount = mount_at(directory)
        if mount is None or not mount.is_kvfs:
            raise UserError(f"{directory} is not a kvfs mount")
    try:
        with connect(path) as client:
            yield client
    except NoDaemonError as exc:
        raise NoDaemonError(_why_nobody_answers(directory) or str(exc)) from exc


def ask_mount(
    mountpoint: Path,
    state_dir: Path,
    request: Request[A],
    *,
    silence: float = SILENCE_SECONDS,
    quiet: bool = False,
) -> A:
    """Return the last answer of the daemon of a mount to a request, as `ask` does."""
    with daemon_of(mountpoint, state_dir) as client:
        return ask(client, request, silence=silence, quiet=quiet)


def _why_nobody_answers(directory: Path) -> str:
    """Explain a silent mount: another user's, or its daemon died. Return "" when neither is known."""
    mount = mount_at(directory)
    if mount is None or not mount.is_kvfs:
        return ""
    if is_stale(directory):
        return f"the daemon of {directory} has died: kvfs umount {directory}; what was closed is kept"
    if mount.uid not in (None, os.geteuid()):
        return f"{directory} was mounted by uid {mount.uid}: ask as that user"
    return f"no daemon of this state directory serves {directory}: name the one it was mounted with (--state-dir)"


def ask(client: Client, request: Request[A], *, silence: float = SILENCE_SECONDS, quiet: bool = False) -> A:
    """Return the last answer to a request; events before it are passed over.

    With `quiet` nothing is printed, because something else is being drawn. Raises `ControlError`, also for an answer
    that has another form than this version's.
    """
    waiting = Waiting(f"waiting for process {client.pid}, which serves the mount", quiet=quiet)
    with understood(client), waiting:
        (*_, answer) = client.ask(msgspec.to_builtins(request), silence=silence)
        return msgspec.convert(answer, form_of(type(request)))


def ask_to_send(
    client: Client,
    request: Request[replies.SendingReport],
    *,
    silence: float = SILENCE_SECONDS,
    within: float = float("inf"),
    quiet: bool = False,
) -> replies.SendingReport:
    """Send a request that makes the daemon send pending changes, and show the progress. Raises as `ask`."""
    message: Message = {}
    with understood(client), SendingProgress(quiet=quiet) as progress:
        for message in client.ask(msgspec.to_builtins(request), silence=silence, within=within):
            if message.get("event") == name_of(replies.Sending):
                progress.update(msgspec.convert(message, replies.Sending))
        report = msgspec.convert(message, replies.SendingReport)
        progress.finish(report.sent, report.requests)
    return report


def report_left(answer: replies.SendingReport, directory: Path, *, kept: str) -> int:
    """List conflicts not reported before and changes that could not be sent; return the exit status that says so."""
    return max(_report_conflicts(answer.conflicts, directory), _report_left(answer, directory, kept))


def _report_conflicts(found: replies.ConflictReport, directory: Path) -> int:
    if found.count == 0:
        return Exit.OK
    names = f"{counted(found.count, 'name')} of {directory}"
    complain(f"{names} had been changed elsewhere since they were read here; both versions are kept:")
    for line in first_of(list(map(conflict_line, found.items)), LEFT_SHOWN, found.count):
        say(f"  {line}")
    return Exit.LEFT


def conflict_line(item: replies.FoundConflict) -> str:
    """Describe a conflict: `path` has the other client's version, `copy` this mount's."""
    if item.copy:
        return f"{item.path}: yours is {item.copy}"
    return f"{item.path} stays: what you renamed has its new name"


def _report_left(answer: replies.SendingReport, directory: Path, kept: str) -> int:
    if answer.left_count == 0:
        return Exit.OK
    complain(f"{counted(answer.left_count, 'change')} of {directory} could not be sent; {kept}:")
    for reason in answer.reasons:
        say(f"  {reason_line(reason)}")
    for line in first_of(list(map(_left_line, answer.left)), LEFT_SHOWN, answer.left_count):
        say(f"  {line}")
    return Exit.LEFT


def reason_line(reason: replies.ReasonItem) -> str:
    """Return a line like `3 changes: REASON; what to do; tried again in 5 s`."""
    words = [f"{counted(reason.count, 'change')}: {reason.reason}"]
    words += [reason.advice] if reason.advice else []
    seconds = reason.next_try_seconds
    words += [f"tried again in {duration_text(seconds)}"] if seconds is not None else []
    return "; ".join(words)


def _left_line(item: replies.LeftItem) -> str:
    age = f" ({duration_text(item.age)} old)" if item.age is not None else ""
    error = f": {item.error}" if item.error else ""
    return f"{item.path}{age}{error}"
