"""Open conflicts: kept beside the journal of their source, so that they outlive the mount.

`STATE/sources/<hash>/conflicts.ndjson` has a line for each: `{"namespace", "key", "copy", "at"}`. A line with
`"settled": true` takes one away again. The file goes when none is open.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kvfs.core.model import Key, NamespaceId
from kvfs.host.state import write_private

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
        for line in self._lines():
            try:
                conflict = Conflict(
                    NamespaceId(line["namespace"]), Key(line["key"]), Key(line["copy"]), float(line["at"])
                )
            except (KeyError, TypeError, ValueError):
                continue
            place = (conflict.namespace, conflict.copy)
            if line.get("settled"):
                found.pop(place, None)
            else:
                found[place] = conflict
        return list(found.values())

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except (FileNotFoundError, UnicodeDecodeError):
            return
        for line in text.splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found

    def append(self, conflict: Conflict, *, settled: bool = False) -> None:
        """One more, or one less. A disk that takes half of the line takes nothing of it."""
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
            write_private(self._path, "".join(f"{line}\n" for line in lines).encode())
        else:
            self._path.unlink(missing_ok=True)
