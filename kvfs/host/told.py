"""Writes that a command has made at the store beside a mount, handed to the daemon of the mount in a private file.

A line of the control socket is too short for values. The file is of this user, lies in the state directory, and goes as
soon as the daemon has answered. The command locks it until then: one that nobody locks was left by a command that was
killed, and `remove_left` removes it.
"""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from kvfs.core.errors import InvalidError
from kvfs.core.model import Key, Metadata, NamespaceId
from kvfs.host.state import private_directory

MOST_BYTES: Final = 96 * 1024 * 1024  # of a file; those who write it keep to much less
YOUNG_SECONDS: Final = 60.0  # a file that was written so shortly ago may be about to be locked
_DIRECTORY: Final = "told"


class ToldWrite(Struct, frozen=True, array_like=True, gc=False):
    """An entry that is at the store; `value` None: the key is deleted. Its request began at `at` (epoch seconds).

    As JSON it is one line of the file, with its bytes in base64.
    """

    namespace: NamespaceId
    key: Key
    at: float
    value: bytes | None = None
    metadata: Metadata | None = None
    expiration: int | None = None


_encode = msgspec.json.Encoder().encode
# all six, because a line without its value would mean a deletion
_decode = msgspec.json.Decoder(
    tuple[NamespaceId, Key, float, bytes | None, Metadata | None, int | None]
).decode


@contextmanager
def told_file(state_dir: Path, writes: Sequence[ToldWrite]) -> Iterator[Path]:
    """Yield a file with these writes, a line of JSON each, which goes at the end. Raises OSError, `UserError`."""
    remove_left(state_dir)
    descriptor, name = tempfile.mkstemp(dir=private_directory(state_dir / _DIRECTORY))
    with open(descriptor, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.writelines(_encode(write) + b"\n" for write in writes)
            file.flush()
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def remove_left(state_dir: Path) -> None:
    """Remove the files of commands that were killed. One that cannot be removed stays, and stops nothing."""
    for path in (state_dir / _DIRECTORY).glob("*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - YOUNG_SECONDS:
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Remove a file, unless a command has it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def read_told(path: Path) -> list[ToldWrite]:
    """Read such a file. Raises `InvalidError` for anything else, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise InvalidError(f"{path} is no list of writes")
        try:
            return [ToldWrite(*_decode(line)) for line in file]
        except (msgspec.DecodeError, RecursionError) as exc:
            raise InvalidError(f"{path} is no list of writes: {exc}") from exc
