"""NDJSON, both ways: one entry a line, with the fields of a bulk pair (msgspec does the JSON)."""

from collections.abc import Iterator
from typing import BinaryIO, Final

from kvfs.core.model import Entry, Key
from kvfs.data import jsonentry
from kvfs.data.jsonentry import JsonEntry

LONGEST: Final = 192 * 1024 * 1024  # bytes of one line
PIECE: Final = 1024 * 1024  # bytes of a long line that are read at a time


class NdjsonEncoder:
    """Encodes entries as lines."""

    start = b""
    end = b""

    def encode(self, key: Key, entry: Entry, modified: float | None, *, is_first: bool) -> list[bytes]:
        """Yield one entry, in pieces."""
        return [*jsonentry.encode(key, entry, one_line=True), b"\n"]


def read(file: BinaryIO, now: float) -> Iterator[JsonEntry]:
    """Yield the records of the file, in order; empty lines are none."""
    number = 0
    while line := _line(file):
        number += 1
        where = f"line {number}"
        if len(line) >= LONGEST and not line.endswith(b"\n"):
            yield JsonEntry(where, "", fault=f"the line is longer than {LONGEST} bytes")
            return
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.isspace():
            record = [jsonentry.decode(line, where, now)]
            line = b""  # a large one must not stay in memory, nor its record, until the next is there
            yield record.pop()


def _line(file: BinaryIO) -> bytes | bytearray:
    """Return the next line, a long one without the copy that `readline` makes of its pieces."""
    piece = file.readline(PIECE)
    if len(piece) < PIECE:
        return piece
    whole = bytearray(piece)
    while len(whole) < LONGEST and not piece.endswith(b"\n") and (piece := file.readline(PIECE)):
        whole += piece
    return whole
