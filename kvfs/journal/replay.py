"""Reading the log into memory. Only reads.

Invariants:
- A gap between two numbers is an end, *because* the records after it build on the missing ones.
- Bytes that a kill or a power cut leaves at the end of a segment were never promised and are passed over; anything
  else that cannot be read is `damaged`, and is kept (`put_away`).
"""

import logging
import os
import shutil
import time
from pathlib import Path

from msgspec.structs import force_setattr, replace

from kvfs.changes.records import DecodeError, End, LogOperation, Recorded, SetRow, decode
from kvfs.changes.rules import Content, Row
from kvfs.core.model import NamespaceId
from kvfs.kept.facts import LocalFacts
from kvfs.log.disk import sync_directory, sync_file
from kvfs.log.segment import Damage, Record, SegmentReading, number_of, segments_of

log = logging.getLogger("kvfs.journal")

_LOOK = 256  # records between two looks at the clock
_TELL = 0.5  # seconds between two words


class Replay:
    """The log of the journal at `path`, from its newest snapshot on, read into `recorded`.

    `last` is the number of its last record. `fault` is why the log cannot be used at all, `lost` why a part of it
    cannot; None: it can.
    """

    def __init__(self, path: Path, recorded: Recorded | None = None) -> None:
        self._path = path
        self.recorded = recorded or Recorded(LocalFacts())
        self.last = 0
        self.segments = segments_of(path)
        self.superseded: list[Path] = []  # a snapshot has taken their place
        self.fault: str | None = None
        self.lost: str | None = None
        self._cut: list[tuple[Path, int]] = []  # segments to be read up to there only
        self._left: list[Path] = []  # segments that cannot be read at all
        self._contents: dict[int, Content] = {}  # by identity
        self._namespaces: dict[NamespaceId, NamespaceId] = {}
        self._modes: dict[int | None, int | None] = {}
        self._is_ended = False  # the last record of a snapshot was read
        self._records = 0
        self._told_at = time.monotonic()
        self._begin()
        self._read()
        self.recorded.index.sort()

    def _begin(self) -> None:
        for index in range(len(self.segments) - 1, -1, -1):
            head = SegmentReading(self.segments[index]).head
            if head is not None and head.is_snapshot:
                self.superseded, self.segments = self.segments[:index], self.segments[index:]
                return

    def _read(self) -> None:
        for index, path in enumerate(self.segments):
            reading = SegmentReading(path, is_last=index == len(self.segments) - 1)
            is_snapshot, number = reading.head is not None and reading.head.is_snapshot, number_of(path)
            for record in reading:
                if not is_snapshot and record.number != self.last + 1:
                    self._gap(index, record)
                    return
                try:
                    self._take(decode(record.operations), number, record.contents)
                except (DecodeError, KeyError, ValueError, OverflowError) as exc:
                    self.fault = f"{path.name} cannot be read ({exc!r})"
                    return
                self.last = record.number
                self._tell(index, record)
            if is_snapshot:
                self._snapshot(reading)
            elif reading.damage is not None and not reading.damage.is_cut:
                self._damaged(path, reading.damage)
            if self.fault:
                return

    def _share(self, row: Row) -> None:
        """Make equal parts of a row that was just read one object, because there may be many rows."""
        force_setattr(row, "namespace", self._namespaces.setdefault(row.namespace, row.namespace))
        if row.since == row.recorded_at:
            force_setattr(row, "since", row.recorded_at)
        if row.content is not None and row.content.identity == row.seq:
            row.content.identity = row.seq
        if (attrs := row.attrs) is not None:
            force_setattr(attrs, "mode", self._modes.setdefault(attrs.mode, attrs.mode))
            if attrs.ctime_ns == attrs.mtime_ns:
                force_setattr(attrs, "ctime_ns", attrs.mtime_ns)
            if attrs.shown == row.digest:
                force_setattr(attrs, "shown", row.digest)

    def _take(self, operations: list[LogOperation], segment: int, offset: int) -> None:
        """Take in one record whose contents begin there."""
        for index, operation in enumerate(operations):
            if type(operation) is SetRow and operation.row.content is not None:
                content = operation.row.content
                known = self._contents.setdefault(content.identity, content)
                if known is not content:
                    operations[index] = SetRow(replace(operation.row, content=known))
                elif content.spool is None:
                    content.segment, content.offset = segment, offset
                    offset += operation.row.size
        if operations and type(operations[-1]) is End:
            self._is_ended = True
        for operation in operations:
            if type(operation) is SetRow:
                self._share(operation.row)
            operation.apply(self.recorded)

    def _tell(self, index: int, record: Record) -> None:
        """Report the progress now and then, because a long log takes seconds, and a user waits for the mount."""
        self._records += 1
        if self._records % _LOOK or time.monotonic() - self._told_at < _TELL:
            return
        self._told_at = time.monotonic()
        sizes = [path.stat().st_size for path in self.segments]
        part = (sum(sizes[:index]) + record.contents) / max(1, sum(sizes))
        text = f"reading the journal: {self.recorded.index.count:,} changes so far, {min(part, 1):.0%}"
        log.info("%s", text, extra={"doing": text})

    def _snapshot(self, reading: SegmentReading) -> None:
        assert reading.head is not None
        self.last = reading.head.last
        if reading.damage is not None or not self._is_ended:
            at = reading.damage.at if reading.damage is not None else "its end"
            self.fault = f"it is damaged ({reading.path.name} cannot be read from byte {at} on)"

    def _gap(self, index: int, record: Record) -> None:
        path, last = self.segments[index], self.last
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
        if self.superseded:  # a kill may have come before the snapshot's name was on the disk
            sync_directory(self._path.parent)
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
