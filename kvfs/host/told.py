"""Writes that a command has made at the store beside a mount, handed to the daemon of the mount in a private file.

A line of the control socket is too short for values. The file is of this user, lies in the state directory, and goes as
soon as the daemon has answered.
"""

import base64
import binascii
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kvfs.core.errors import InvalidError
from kvfs.core.model import Key, Metadata, NamespaceId
from kvfs.host.state import private_directory

MOST_BYTES: Final = 96 * 1024 * 1024  # of a file; those who write it keep to much less


@dataclass(frozen=True, slots=True)
class ToldWrite:
    """An entry that is at the store; `value` None: the key is deleted. Its request began at `at` (epoch seconds)."""

    namespace: NamespaceId
    key: Key
    at: float
    value: bytes | None = None
    metadata: Metadata | None = None
    expiration: int | None = None


@contextmanager
def told_file(state_dir: Path, writes: Sequence[ToldWrite]) -> Iterator[Path]:
    """A file with these writes, a line of JSON each, while it is needed. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=private_directory(state_dir / "told"))
    try:
        with open(descriptor, "wb") as file:
            file.writelines(map(_line, writes))
        yield Path(name)
    finally:
        os.unlink(name)


def _line(write: ToldWrite) -> bytes:
    value = None if write.value is None else base64.b64encode(write.value).decode()
    metadata = None if write.metadata is None else write.metadata.decode()
    line = [write.namespace, write.key, write.at, value, metadata, write.expiration]
    return json.dumps(line).encode() + b"\n"


def read_told(path: Path) -> list[ToldWrite]:
    """Read such a file. Raises `InvalidError` for anything else, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            raise InvalidError(f"{path} is no list of writes")
        try:
            return [_write(json.loads(line)) for line in file]
        except (ValueError, TypeError, binascii.Error, RecursionError) as exc:
            raise InvalidError(f"{path} is no list of writes: {exc}") from exc


def _write(line: Any) -> ToldWrite:
    namespace, key, at, value, metadata, expiration = line
    if not (isinstance(namespace, str) and isinstance(key, str) and isinstance(expiration, int | None)):
        raise ValueError("its fields are of other types")
    return ToldWrite(
        NamespaceId(namespace),
        Key(key),
        float(at),
        None if value is None else base64.b64decode(value, validate=True),
        None if metadata is None else str(metadata).encode(),
        expiration,
    )
