"""A dump of a journal for people and programs: read from its log, which may be written meanwhile."""

import contextlib
from pathlib import Path
from typing import Any

from kvfs.changes.records import Recorded
from kvfs.changes.rules import Row
from kvfs.journal import opener
from kvfs.journal.replay import Replay
from kvfs.kept import sidefile
from kvfs.log.segment import VERSION, read_head, segments_of

Described = dict[str, Any]


def describe(path: Path) -> Described:
    """Describe the journal at `path`, as docs/status.md says. It only reads. Raises JournalUnreadableError, OSError."""
    opener.check(path, None)
    replay = _read(path)
    recorded = replay.recorded
    return {
        "path": str(path),
        "source": sidefile.source_of(path, VERSION),
        "damage": replay.fault or replay.lost,
        "segments": [_segment(segment) for segment in segments_of(path)],
        "records": replay.last,
        "changes": [_change(row) for row in sorted(recorded.index.all(), key=lambda row: row.seq)],
        "directories": _directories(recorded),
        "attributes_in_log": len(recorded.kept.unsaved),
    }


def _read(path: Path) -> Replay:
    """Read the log again if a snapshot took the place of a segment meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return Replay(path)


def _segment(path: Path) -> Described:
    with contextlib.suppress(FileNotFoundError):
        head = read_head(path)
        return {
            "name": path.name,
            "bytes": path.stat().st_size,
            "snapshot": head is not None and head.is_snapshot,
        }
    return {"name": path.name, "bytes": 0, "snapshot": False}


def _change(row: Row) -> Described:
    content = row.content
    where = None
    if content is not None:
        where = (
            {"spool": content.spool}
            if content.spool
            else {"segment": content.segment, "offset": content.offset}
        )
    return {
        "seq": row.seq,
        "state": str(row.state),
        "kind": str(row.kind),
        "namespace": row.namespace,
        "key": row.key,
        "size": row.size,
        "digest": row.digest.hex() or None,
        "base": None if row.base is None else row.base.hex(),
        "content": where,
        "metadata": None if row.metadata is None else row.metadata.decode(errors="replace"),
        "expiration": row.expiration,
        "recorded_at": row.recorded_at,
        "attempted": row.attempted,
        "acknowledged_at": row.acked_at,
        "waits_for": row.waits_for,
        "error": row.error,
        "failed": None if row.failed is None else {"text": row.failed.text, "at": row.failed.at},
    }


def _directories(recorded: Recorded) -> list[Described]:
    return [
        {"namespace": namespace, "prefix": row.prefix, "mode": row.mode}
        for namespace, rows in sorted(recorded.kept.directories.items())
        for row in rows.values()
    ]
