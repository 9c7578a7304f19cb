"""Writes that a command has made at the store beside a mount, handed to the daemon of the mount in a private file.

A line of the control socket is too short for values. The file is of this user, lies in the state directory, and goes as
soon as the daemon has answered.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from kvfs.core.errors import InvalidError
from kvfs.core.model import Key, Metadata, NamespaceId
from kvfs.host.held import held_file

MOST_BYTES: Final = 96 * 1024 * 1024  # of a file; those who write it keep to much less
DIRECTORY: Final = "told"


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
    with held_file(state_dir / DIRECTORY) as (file, path):
        file.writelines(_encode(write) + b"\n" for write in writes)
        file.flush()
        yield path


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
