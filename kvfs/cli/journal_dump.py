"""A dump of a journal for people and programs: read from its log, which may be written meanwhile."""

import contextlib
from pathlib import Path
from typing import Any

from kvfs.journal import opener
from kvfs.journal.recorded import Recorded
from kvfs.journal.replay import Replay
from kvfs.journal.rules import Row
from kvfs.journal.segment import read_head, segments_of

Described = dict[str, Any]


def describe(path: Path) -> Described:
    """Describe the journal at `path`, as docs/status.md says. It only reads. Raises JournalUnreadableError, OSError."""
    opener.check(path, None)
    with contextlib.closing(opener.read_only(path)) as connection:
        source = opener.meta(connection, "source")
    replay = _read(path)
    recorded = replay.recorded
    return {
        "path": str(path),
        "source": source,
        "damage": replay.fault or replay.lost,
        "segments": [_segment(segment) for segment in segments_of(path)],
        "records": replay.last,
        "changes": [_change(row) for row in sorted(recorded.index.all(), key=lambda row: row.change.seq)],
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
    change, content = row.change, row.content
    where = None
    if content is not None:
        where = (
            {"spool": content.spool}
            if content.spool
            else {"segment": content.segment, "offset": content.offset}
        )
    return {
        "seq": change.seq,
        "state": str(change.state),
        "kind": str(change.kind),
        "namespace": change.namespace,
        "key": change.key,
        "size": change.size,
        "digest": row.digest.hex() or None,
        "base": None if change.base is None else change.base.hex(),
        "content": where,
        "metadata": None if change.metadata is None else change.metadata.decode(errors="replace"),
        "expiration": change.expiration,
        "recorded_at": change.recorded_at,
        "attempted": change.attempted,
        "acknowledged_at": change.acked_at,
        "waits_for": row.waits_for,
        "error": change.error,
        "failed": None if change.failed is None else {"text": change.failed.text, "at": change.failed.at},
    }


def _directories(recorded: Recorded) -> list[Described]:
    return [
        {"namespace": namespace, "prefix": row.prefix, "mode": row.mode}
        for namespace, rows in sorted(recorded.kept.directories.items())
        for row in rows.values()
    ]
