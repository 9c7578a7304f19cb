"""Open conflicts: kept beside the journal of their source, so that they outlive the mount.

`STATE/sources/<hash>/conflicts.ndjson` has a line for each: `{"namespace", "key", "copy", "at"}`. A line with
`"settled": true` takes one away again. The file goes when none is open.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import msgspec

from kvfs.core.model import Key, NamespaceId
from kvfs.host.state import write_whole

NAME: Final = "conflicts.ndjson"


@dataclass(frozen=True, slots=True)
class Conflict:
    """`key` has what another client wrote, `copy` what was written here; `at` is epoch seconds."""

    namespace: NamespaceId
    key: Key
    copy: Key
    at: float


class ConflictFile:
    """The file of one source. Its methods raise OSError."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.parent / NAME

    def read(self) -> list[Conflict]:
        """Return the open conflicts, the oldest first. Passes over a line that a crash cut off."""
        found: dict[tuple[str, str], Conflict] = {}
        with suppress(FileNotFoundError):
            for line in self._path.read_bytes().splitlines():
                with suppress(ValueError, RecursionError):
                    fields = json.loads(line)
                    conflict = msgspec.convert(fields, Conflict)
                    found.pop((conflict.namespace, conflict.copy), None)
                    if not fields.get("settled"):
                        found[conflict.namespace, conflict.copy] = conflict
        return list(found.values())

    def append(self, conflict: Conflict, *, settled: bool = False) -> None:
        """Add a conflict, or with `settled` take one away. A disk that takes half of the line takes nothing of it."""
        line = json.dumps(asdict(conflict) | ({"settled": True} if settled else {})).encode() + b"\n"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a crash cut the last one off
                line = b"\n" + line
            try:
                while line:
                    line = line[os.write(descriptor, line) :]
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def replace(self, conflicts: Iterable[Conflict]) -> None:
        """Make exactly these the open ones; without any the file goes."""
        lines = [json.dumps(asdict(conflict)) for conflict in conflicts]
        if lines:
            write_whole(self._path, "".join(f"{line}\n" for line in lines).encode())
        else:
            self._path.unlink(missing_ok=True)
