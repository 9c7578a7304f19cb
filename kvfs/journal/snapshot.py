"""The snapshot: the state of the log up to a record, written anew into one segment, so that older ones can go.

Invariants:
- It has exactly the state of the log at the cut, not that of memory when it is written, *because* the records after
  the cut are replayed on top of it.
- It is on the disk, under its name, before a segment goes, and before memory names a content in it. Until then the
  segments before it count; a kill or a power cut at any moment leaves one or the other whole.
- The side table is forced out before, *because* the snapshot leaves out what the side table has. Rows that it could
  not take, because the disk is full, are in the snapshot.
- Its last record is `End`: one without was not written to the end.
"""

import os
from collections.abc import Callable
from pathlib import Path

from kvfs.changes.cut import Cut
from kvfs.changes.records import SetRow, encode
from kvfs.changes.rules import Content, Row
from kvfs.core.errors import JournalError
from kvfs.journal.transaction import Transactions
from kvfs.kept import side
from kvfs.log.disk import refusal, sync_directory
from kvfs.log.log import Log
from kvfs.log.segment import RECORD_HEAD, SEGMENT_HEAD, Head, record_head, segment_path

SNAPSHOT_BYTES = 8 * 1024 * 1024  # so many of the log may be dead, or as many as are alive
ROW_BYTES = 256  # about what a row takes in the log without its content
MOST_ROW_BYTES = 4096  # the most that a row may take, with long names, metadata and many ancestors
END_BYTES = 64 * 1024  # the bound at the end of a mount
SHORT_BYTES = 16 * 1024  # the bound on a full disk

Moved = list[tuple[Content, int]]
"""Contents and their offsets in the snapshot."""


def living(transactions: Transactions, row_bytes: int) -> int:
    """Return about how many bytes a snapshot would have, if a row takes so many."""
    index, kept = transactions.index, transactions.kept
    return index.inline_bytes + row_bytes * (index.count + len(kept.directories) + len(kept.unsaved))


def cut(transactions: Transactions) -> Cut:
    """Take the state to write; the log goes on in a new segment. Raises JournalError: side table is behind."""
    index, kept, log = transactions.index, transactions.kept, transactions.log
    files, dropped = kept.not_saved()
    directories = [(namespace, row) for namespace, rows in kept.directories.items() for row in rows.values()]
    seen = list(kept.seen.items())
    return Cut(log.roll(), log.last, index.last_seq, index.all(), directories, seen, files, dropped)


def write(cut: Cut, log: Log) -> tuple[Path, Moved]:
    """Write the snapshot under its name, and force it and the side table to the disk; for a thread.

    Raises JournalError.
    """
    side.force(log.path)
    segment = segment_path(log.path, cut.number)
    fresh = segment.with_name(f"{segment.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(fresh, flags, 0o600)
        try:
            moved = _write(cut, log, lambda data: _write_all(descriptor, data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.rename(segment)
        sync_directory(log.path.parent)
    except BaseException as exc:
        fresh.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise refusal(exc, f"a snapshot of the journal {log.path} cannot be written") from exc
        raise
    return segment, moved


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write(cut: Cut, log: Log, put: Callable[[bytes], None]) -> Moved:
    put(Head(log.identity, cut.last, is_snapshot=True).encode())
    at, moved, known = SEGMENT_HEAD, [], set[int]()
    for number, group in enumerate(cut.records(), start=1):
        operations, contents = encode(group), list[bytes]()
        at += RECORD_HEAD + len(operations)
        for operation in group:
            row = operation.row if isinstance(operation, SetRow) else None
            if row is None or row.content is None or row.content.spool or row.content.identity in known:
                continue
            known.add(row.content.identity)
            moved.append((row.content, at))
            contents.append(_read(log, row, row.content))
            at += row.size
        put(b"".join([record_head(number, operations, contents), operations, *contents]))
    return moved


def _read(log: Log, row: Row, content: Content) -> bytes:
    """Read a content without checking its digest, because sending checks it and reports the damage."""
    data = log.read(content.segment, content.offset, row.size)
    if len(data) < row.size:
        raise JournalError(f"the content of {row.key!r} ends before its end in the log {log.path}")
    return data
