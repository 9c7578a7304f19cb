"""The keys that each mount of this user claims, because no two mounts may write the same keys.

Two mounts do not see each other's changes before the server shows them, and each would take the other for another
client. A mount that starts claims its keys twice: with the titles that this machine remembers, so that most refusals
come at once, and with the ids of the server's answer. The records of mounts (`state`) hold the claims.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError
from kvfs.host.sources import known_sources
from kvfs.host.state import (
    SYSTEM_DIR,
    MountRecord,
    birth,
    default_state_dir,
    forget,
    record_path,
    records,
    write_record,
)

_LOCK: Final = ".lock"


def overlap(one: MountRecord, other: MountRecord) -> bool:
    """Return whether there could be a key that both mounts have.

    A mount has the keys of its store, of one namespace ("": of all), that start with its prefix.
    """
    if one.store != other.store:
        return False
    if not (one.namespace and other.namespace):
        return True
    is_below = one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
    return one.namespace == other.namespace and is_below


def remembered_id(store: str, namespace: str, state_dirs: Iterable[Path]) -> str:
    """Return the id of a title, as the server said once.

    The text itself where nothing is known, or where it is an id.
    """
    known: dict[str, str] = {}
    for _, found in known_sources(*state_dirs):
        if found.store == store:
            known |= {title: id_ for id_, title in found.namespaces.items()}
    return namespace if namespace in known.values() else known.get(namespace, namespace)


def claim(record: MountRecord, state_dirs: Iterable[Path]) -> None:
    """Keep the record of a mount that starts, in the first of the directories.

    Raises UserError, which names the mount that has some of its keys already; OSError.
    """
    first, *others = dict.fromkeys(state_dirs)
    with locked(first / "mounts"):
        for directory in (first, *others):
            for other in records(directory):
                if _is_in_the_way(record, other):
                    raise UserError(refusal(record, other))
        write_record(record, record_path(Path(record.mountpoint), first))


def _is_in_the_way(record: MountRecord, other: MountRecord) -> bool:
    if other.pid == record.pid or record.is_read_only or other.is_read_only or not other.store:
        return False
    if other.journal == record.journal:
        return False  # its lock says so, and waits for one that is about to end
    return overlap(record, other) and birth(other.pid) == other.born != 0


def refusal(record: MountRecord, other: MountRecord) -> str:
    """Return why the mount is refused, and the ways out."""
    mine, theirs = record.source, other.source
    what = mine if mine != theirs else "the source"
    return (
        f"{what} has keys that are already mounted at {other.mountpoint} as {theirs} (process {other.pid}): two mounts"
        " of a key do not see each other's changes at once. Use that one, umount it, or mount with --read-only"
    )


@contextmanager
def claimed(record: MountRecord, state_dirs: Sequence[Path]) -> Iterator[None]:
    """Hold a `claim` until the mount has ended. Raises UserError."""
    path = record_path(Path(record.mountpoint), state_dirs[0])
    try:
        claim(record, state_dirs)
    except OSError as exc:
        text = f"the record of the mount cannot be written to {path.parent} ({exc.strerror}): {_way_out(exc)}"
        raise UserError(text) from exc
    try:
        yield
    finally:
        with suppress(OSError), locked(path.parent):  # a mount that begins here now keeps its record
            forget(record, path)


def _way_out(error: OSError) -> str:
    """Say what to do about a directory that cannot be written to."""
    if isinstance(error, PermissionError):
        return "it must be yours, with mode 700"
    return "make room there, or name another directory with --state-dir"


def state_dirs_of(state_dir: Path) -> tuple[Path, ...]:
    """Return the state directories of this user's mounts, the one in use first."""
    return (state_dir, default_state_dir(), *([SYSTEM_DIR] if os.geteuid() == 0 else []))


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Be the only process that looks at the records of `directory` and changes them. Raises OSError."""
    descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
