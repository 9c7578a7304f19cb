"""Reading the log: what it says, told by its records alone. Only reads.

Invariants:
- A gap between two numbers is an end, *because* what follows stands on what is missing.
- What a kill or a power cut leaves at the end of a segment was never promised and is passed over; anything else that
  cannot be read is `damaged`, and is kept (`put_away`).
"""

import logging
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from kvfs.core.model import KeyRef, NamespaceId, Seq
from kvfs.journal.disk import sync_directory, sync_file
from kvfs.journal.local import DirRow, LocalAttrs
from kvfs.journal.records import (
    Acknowledged,
    Attempted,
    DecodeError,
    DropDirectory,
    DropNamespace,
    DropRow,
    End,
    LogOperation,
    SeenOp,
    SetAttrs,
    SetDirectory,
    SetRow,
    SettledOp,
    decode,
)
from kvfs.journal.rules import Content, Row, acknowledged, attempted, with_attrs, with_change, with_content
from kvfs.journal.segment import Damage, Record, SegmentReading, number_of, segments_of

log = logging.getLogger("kvfs.journal")

_LOOK = 256  # records between two looks at the clock
_TELL = 0.5  # seconds between two words


@dataclass
class State:
    """The state that a log describes. `files` holds the local attributes of keys without a change."""

    rows: dict[KeyRef, Row] = field(default_factory=dict)
    files: dict[KeyRef, LocalAttrs | None] = field(default_factory=dict)
    dropped: set[NamespaceId] = field(default_factory=set)
    directories: dict[tuple[NamespaceId, str, int], DirRow] = field(default_factory=dict)
    seen: dict[NamespaceId, int] = field(default_factory=dict)
    last_seq: int = 0
    last: int = 0
    is_ended: bool = False
    places: dict[Seq, KeyRef] = field(default_factory=dict)
    contents: dict[int, Content] = field(default_factory=dict)

    def take(self, operations: list[LogOperation], segment: int, offset: int) -> None:
        """One record whose contents begin there."""
        for operation in operations:
            if type(operation) is SetRow:
                offset = self._set_row(operation.row, segment, offset)
            else:
                self._other(operation)

    def _set_row(self, row: Row, segment: int, offset: int) -> int:
        change, content = row.change, row.content
        if content is not None:
            known = self.contents.get(content.identity)
            if known is not None:
                row = with_content(row, known)
            else:
                self.contents[content.identity] = content
                if content.spool is None:
                    content.segment, content.offset = segment, offset
                    offset += change.size
        place = (change.namespace, change.key)
        self.rows[place] = row
        self.places[change.seq] = place
        self.files.pop(place, None)
        self.last_seq = max(self.last_seq, change.seq)
        return offset

    def _other(self, operation: LogOperation) -> None:
        match operation:
            case Attempted():
                for row in self._rows(operation.seqs):
                    self._advance(with_change(row, attempted(row.change)))
            case Acknowledged():
                for row in self._rows(operation.seqs):
                    self._advance(with_change(row, acknowledged(row.change, operation.at)))
            case SettledOp():
                for row in self._rows(operation.seqs):
                    place = (row.change.namespace, row.change.key)
                    del self.rows[place]
                    self.files[place] = row.attrs
            case DropRow():
                self.rows.pop((operation.namespace, operation.key), None)
                self.files[operation.namespace, operation.key] = operation.attrs
            case SetAttrs():
                self._set_attrs((operation.namespace, operation.key), operation.attrs)
            case SetDirectory():
                self.directories[operation.namespace, operation.row.prefix, operation.row.start] = (
                    operation.row
                )
            case DropDirectory():
                self.directories.pop((operation.namespace, operation.prefix, operation.start), None)
            case SeenOp():
                self.seen[operation.namespace] = operation.at
            case DropNamespace():
                self._drop_namespace(operation.namespace)
            case End():
                self.last_seq, self.is_ended = operation.last_seq, True

    def _rows(self, seqs: list[Seq]) -> list[Row]:
        """Return the rows that still exist. Raises KeyError for a number that never was."""
        return [row for seq in seqs if (row := self.rows[self.places[seq]]).change.seq == seq]

    def _advance(self, row: Row) -> None:
        self.rows[row.change.namespace, row.change.key] = row

    def _set_attrs(self, place: KeyRef, attrs: LocalAttrs | None) -> None:
        row = self.rows.get(place)
        if row is not None:
            self._advance(with_attrs(row, attrs))
        else:
            self.files[place] = attrs

    def _drop_namespace(self, namespace: NamespaceId) -> None:
        for of in (self.rows, self.files):
            for place in [place for place in of if place[0] == namespace]:
                del of[place]
        for directory in [one for one in self.directories if one[0] == namespace]:
            del self.directories[directory]
        self.seen.pop(namespace, None)
        self.dropped.add(namespace)


class Replay:
    """The log of the journal at `path`, from its newest snapshot on.

    `fault` is why it cannot be used at all, `lost` why a part of it cannot; None: it can.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = State()
        self.segments = segments_of(path)
        self.superseded: list[Path] = []  # a snapshot has taken their place
        self.fault: str | None = None
        self.lost: str | None = None
        self._cut: list[tuple[Path, int]] = []  # segments to be read up to there only
        self._left: list[Path] = []  # segments that cannot be read at all
        self._records = 0
        self._told_at = time.monotonic()
        self._begin()
        self._read()

    def _begin(self) -> None:
        for index in range(len(self.segments) - 1, -1, -1):
            head = SegmentReading(self.segments[index]).head
            if head is not None and head.is_snapshot:
                self.superseded, self.segments = self.segments[:index], self.segments[index:]
                return

    def _read(self) -> None:
        for index, path in enumerate(self.segments):
            reading = SegmentReading(path, is_last=index == len(self.segments) - 1)
            is_snapshot = reading.head is not None and reading.head.is_snapshot
            for record in reading:
                if not is_snapshot and record.number != self.state.last + 1:
                    self._gap(index, record)
                    return
                try:
                    self.state.take(decode(record.operations), number_of(path), record.contents)
                except (DecodeError, KeyError, ValueError, OverflowError) as exc:
                    self.fault = f"{path.name} cannot be read ({exc!r})"
                    return
                self.state.last = record.number
                self._tell(index, record)
            if is_snapshot:
                self._snapshot(reading)
            elif reading.damage is not None and not reading.damage.is_cut:
                self._damaged(path, reading.damage)
            if self.fault:
                return

    def _tell(self, index: int, record: Record) -> None:
        """Now and then how far it is: a long log takes seconds, and somebody waits for a mount."""
        self._records += 1
        if self._records % _LOOK or time.monotonic() - self._told_at < _TELL:
            return
        self._told_at = time.monotonic()
        sizes = [path.stat().st_size for path in self.segments]
        part = (sum(sizes[:index]) + record.contents) / max(1, sum(sizes))
        text = f"reading the journal: {len(self.state.rows):,} changes so far, {min(part, 1):.0%}"
        log.info("%s", text, extra={"doing": text})

    def _snapshot(self, reading: SegmentReading) -> None:
        assert reading.head is not None
        self.state.last = reading.head.last
        if reading.damage is not None or not self.state.is_ended:
            at = reading.damage.at if reading.damage is not None else "its end"
            self.fault = f"it is damaged ({reading.path.name} cannot be read from byte {at} on)"

    def _gap(self, index: int, record: Record) -> None:
        path, last = self.segments[index], self.state.last
        if index == 0:
            self.fault = f"what came before {path.name} is missing"
            return
        missing = f"{last + 1} to {record.number - 1} are missing before {path.name}"
        self.lost = self.lost or missing
        self._left, self.segments = self.segments[index:], self.segments[:index]

    def _damaged(self, path: Path, damage: Damage) -> None:
        if damage.at == 0 and path == self.segments[0] and number_of(path) > 1:
            self.fault = f"it is damaged ({path.name} cannot be read, which may be all that was recorded)"
            return
        self.lost = self.lost or f"some, from byte {damage.at} of {path.name} on, cannot be read"
        self._cut.append((path, damage.at))

    def put_away(self) -> None:
        """Keep unreadable logs under another name, because they may hold promised changes. Raises OSError.

        Afterwards the segments that are left are whole, and say what was read.
        """
        if self.superseded:
            sync_directory(
                self._path.parent
            )  # a kill may have come before the snapshot's name was on the disk
        for path in self.superseded:
            path.unlink()
        if self.lost is None:
            return
        suffix = f".damaged-{time.time_ns()}"
        for path, at in self._cut:
            kept = path.with_name(path.name + suffix)
            shutil.copyfile(path, kept)
            kept.chmod(0o600)
            sync_file(kept)
            os.truncate(path, at)
            sync_file(path)
        for path in self._left:
            path.rename(path.with_name(path.name + suffix))
        sync_directory(self._path.parent)
        log.error(
            "the log of the journal is damaged: of its records %s; the rest is kept with the ending %s",
            *(self.lost, suffix),
        )


def kept_logs(path: Path) -> list[Path]:
    """Return the copies of damaged logs, which stay until somebody removes them."""
    return list(path.parent.glob(f"{path.name}-*.damaged-*"))
