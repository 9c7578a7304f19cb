"""Journals of the format before: tables in SQLite, and a redo log of what these lack. Read once, to be converted.

The conversion makes a snapshot of what is in the tables and alters the file in one transaction of SQLite, so a kill
or a power cut at any moment leaves a journal of the one format or of the other.
"""

import logging
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec

from kvfs.core.errors import JournalError, JournalUnreadableError
from kvfs.core.model import Change, ChangeKind, ChangeState, Key, NamespaceId, Seq
from kvfs.journal import side
from kvfs.journal.disk import refusal, sync_directory
from kvfs.journal.local import DirRow, LocalAttrs
from kvfs.journal.rules import Content, Row
from kvfs.journal.segment import ID_BYTES, VERSION, segments_of
from kvfs.journal.snapshot import Cut, write_file

BEFORE: Final = 4  # the version of that format; none before it was ever released
TABLES: Final = frozenset({"meta", "changes", "bodies", "local_files", "local_dirs", "namespaces", "shown"})

_MAGIC: Final = b"kvfsredo"
_HEAD: Final = struct.Struct(f"<8sI{ID_BYTES}sI")  # magic, version of the tables, the journal's id, sum
_RECORD: Final = struct.Struct("<QIII")  # number, bytes of the payload, their sum, sum of this head
_decode: Final = msgspec.msgpack.Decoder(list[tuple[int, tuple[Any, ...]]]).decode

_PUTS: Final = {0: "changes", 2: "bodies", 4: "local_files", 6: "local_dirs", 8: "namespaces", 12: "shown"}
_DROPS: Final = {
    1: "DELETE FROM changes WHERE namespace = ? AND key = ?",
    3: "DELETE FROM bodies WHERE id = ?",
    5: "DELETE FROM local_files WHERE namespace = ? AND key = ?",
    7: "DELETE FROM local_dirs WHERE namespace = ? AND prefix = ? AND start = ?",
    9: "DELETE FROM namespaces WHERE id = ?",
    10: "DELETE FROM local_files WHERE namespace = ?",
    11: "DELETE FROM local_dirs WHERE namespace = ?",
    13: "DELETE FROM shown WHERE place = ?",
    14: "DELETE FROM shown WHERE place BETWEEN ? AND ?",
}

_IS_UNFORCED: Final = (
    "SELECT 1 FROM meta WHERE name = 'unforced'"  # converted, and not on the disk for certain
)
_OF_CHANGES: Final = "(SELECT f.* FROM local_files AS f JOIN changes USING (namespace, key))"

log = logging.getLogger("kvfs.journal")


def logs_of(path: Path) -> list[Path]:
    """Return the redo log of the journal at `path`, oldest file first."""
    return segments_of(path, "redo")


def _head(data: bytes) -> tuple[int, bytes] | None:
    """Return version and id, None when the head is cut or damaged."""
    if len(data) < _HEAD.size:
        return None
    magic, version, identity, total = _HEAD.unpack_from(data)
    return (version, identity) if magic == _MAGIC and total == crc32(data[: _HEAD.size - 4]) else None


def stranger(path: Path, identity: bytes) -> str | None:
    """Return why a file of the redo log is not that of the journal of that id, or None."""
    for file in logs_of(path):
        with file.open("rb") as opened:
            head = _head(opened.read(_HEAD.size))
        if head is not None and head[1] != identity:
            return f"{file.name} beside it is of another journal"
        if head is not None and head[0] != BEFORE:
            return f"{file.name} beside it was written by another kvfs (version {head[0]})"
    return None


def convert(connection: sqlite3.Connection, path: Path) -> None:
    """Make a journal of the present format of it.

    Raises JournalError, sqlite3.Error: then it is as it was once the connection is closed.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        _replay(connection, path)
        _write_snapshot(connection, path)
        _alter(connection)
        connection.execute("COMMIT")
    except OSError as exc:
        raise refusal(exc, f"the journal {path} cannot be converted") from exc
    except (msgspec.DecodeError, KeyError, ValueError, TypeError, OverflowError) as exc:
        raise JournalUnreadableError(
            f"the journal {path} cannot be converted ({exc!r}); it is left as it is"
        ) from exc
    log.info("the journal %s was converted to the format of this kvfs", path)


def clean(connection: sqlite3.Connection, path: Path) -> None:
    """Remove the leftovers of a conversion once its file is on the disk. Raises JournalError, sqlite3.Error.

    Until then nothing may be recorded, *because* a power cut would bring the old format back, and its next
    conversion takes the segments for leftovers of this one.
    """
    files = logs_of(path)
    if not files and connection.execute(_IS_UNFORCED).fetchone() is None:
        return
    side.force(path)
    try:
        for file in files:
            file.unlink()
        sync_directory(path.parent)
    except OSError as exc:
        raise JournalError(f"the log {files[0]} cannot be removed: {exc}") from exc
    connection.execute("DELETE FROM meta WHERE name = 'unforced'")


# the redo log


def _replay(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("SELECT value FROM meta WHERE name = 'applied'").fetchone()
    last = int(found[0]) if found else 0
    for file in logs_of(path):
        data, at = file.read_bytes(), _HEAD.size
        for number, payload, end in _records(data):
            if number > last + 1:
                break
            if number == last + 1:
                _apply(connection, _decode(payload))
                last = number
            at = end
        if any(data[at:]) and _was_promised(data, at):
            kept = file.with_name(f"{file.name}.damaged-{time.time_ns()}")
            kept.write_bytes(data)
            kept.chmod(0o600)
            log.error(
                "the log of the journal is damaged: of its records some, after number %d, cannot be read; "
                "%s is kept as %s",
                *(last, file.name, kept),
            )


def _was_promised(data: bytes, at: int) -> bool:
    """Return whether unreadable bytes are more than an append that never returned."""
    if _head(data) is None:
        return len(data) >= _HEAD.size
    rest = data[at : at + _RECORD.size]
    if len(rest) < _RECORD.size:
        return False
    _, length, _, total = _RECORD.unpack(rest)
    return bool(total != crc32(rest[:-4]) or at + _RECORD.size + length <= len(data))


def _records(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield number, payload and end of each record, up to the first that is not whole."""
    at = _HEAD.size
    while _head(data) is not None and at + _RECORD.size <= len(data):
        number, length, expected, total = _RECORD.unpack_from(data, at)
        payload = data[at + _RECORD.size : at + _RECORD.size + length]
        if total != crc32(data[at : at + _RECORD.size - 4]) or len(payload) < length:
            return
        if crc32(payload) != expected:
            return
        at += _RECORD.size + length
        yield number, payload, at


def _apply(connection: sqlite3.Connection, writes: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
    for write, columns in writes:
        if write in _PUTS:
            marks = ", ".join("?" * len(columns))
            connection.execute(f"INSERT OR REPLACE INTO {_PUTS[write]} VALUES ({marks})", columns)
        else:
            connection.execute(_DROPS[write], columns)


# the tables


def _named(connection: sqlite3.Connection, table: str, order: str) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(f"SELECT * FROM {table} ORDER BY {order}")
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, row, strict=True)) for row in cursor)


def _write_snapshot(connection: sqlite3.Connection, path: Path) -> None:
    for leftover in segments_of(path):
        leftover.unlink()
    (identity,) = connection.execute("SELECT value FROM meta WHERE name = 'id'").fetchone()
    attrs = {(row["namespace"], row["key"]): _attrs(row) for row in _named(connection, _OF_CHANGES, "key")}
    contents: dict[int, tuple[Content, bytes]] = {}
    rows = []
    for columns in _named(connection, "changes", "seq"):
        place = (NamespaceId(columns["namespace"]), Key(columns["key"]))
        rows.append(_row(connection, columns, contents, attrs.get(place) or _short_row(connection, *place)))
    bodies = {content.identity: number for number, (content, _) in contents.items()}

    def read(row: Row, content: Content) -> bytes:
        found = connection.execute("SELECT value FROM bodies WHERE id = ?", (bodies[content.identity],))
        return bytes(found.fetchone()[0])

    directories = [
        (NamespaceId(namespace), DirRow(*columns))
        for namespace, *columns in connection.execute(
            "SELECT namespace, prefix, start, mode, mtime, ctime FROM local_dirs"
        )
    ]
    seen = [
        (NamespaceId(row["id"]), int(row["first_seen"])) for row in _named(connection, "namespaces", "id")
    ]
    last_seq = max((max(row.change.seq, row.waits_for or 0) for row in rows), default=0)
    cut = Cut(2, 0, Seq(last_seq), rows, directories, seen)  # 1 is always a log, see `Replay`
    write_file(cut, path, bytes.fromhex(identity), read)


def _short_row(connection: sqlite3.Connection, namespace: NamespaceId, key: Key) -> LocalAttrs | None:
    """Return what is kept of a key that only `shown` knows, a table of millions of keys."""
    place = side.short_place(namespace, key)
    found = connection.execute("SELECT digest, changed FROM shown WHERE place = ?", (place,)).fetchone()
    return None if found is None else LocalAttrs(None, found[1], found[1], None, found[0])


def _row(
    connection: sqlite3.Connection,
    columns: dict[str, Any],
    contents: dict[int, tuple[Content, bytes]],
    attrs: LocalAttrs | None,
) -> Row:
    change = Change(
        Seq(columns["seq"]), NamespaceId(columns["namespace"]), Key(columns["key"]), ChangeKind(columns["kind"]),
        ChangeState(columns["state"]), columns["size"], columns["metadata"], columns["expiration"],
        columns["base"], bool(columns["attempted"]), columns["recorded_at"], columns["acked_at"],
        columns["error"],
    )  # fmt: skip
    content, digest = None, b""
    if (body := columns["body"]) is not None:
        if body not in contents:
            found = connection.execute("SELECT digest, spool FROM bodies WHERE id = ?", (body,)).fetchone()
            contents[body] = Content(change.seq, found[1]), found[0]
        content, digest = contents[body]
    waits_for = columns["waits_for"]
    return Row(
        change, content, digest, bool(columns["may_exist"]), columns["ancestors"],
        None if waits_for is None else Seq(waits_for), change.recorded_at, attrs, bool(columns["guarded"]),
    )  # fmt: skip


def _attrs(columns: dict[str, Any]) -> LocalAttrs:
    return LocalAttrs(columns["mode"], columns["mtime"], columns["ctime"], columns["atime"], columns["shown"])


def _alter(connection: sqlite3.Connection) -> None:
    """Make the side table of the tables, without the keys that have a change, because these have their attributes."""
    connection.execute(side.FILES)
    connection.create_function("pack", 5, lambda *values: side.encode(LocalAttrs(*values)))
    connection.execute(
        "INSERT INTO files SELECT namespace, key, pack(mode, mtime, ctime, atime, shown) FROM local_files AS f"
        " WHERE NOT EXISTS (SELECT 1 FROM changes AS c WHERE c.namespace = f.namespace AND c.key = f.key)"
    )
    for table in TABLES - side.TABLES:
        connection.execute(f"DROP TABLE {table}")
    connection.execute("DELETE FROM meta WHERE name = 'applied'")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('unforced', '')")
    connection.execute(f"PRAGMA user_version = {VERSION}")
