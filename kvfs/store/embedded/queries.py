"""The SQL of the embedded store: functions of a connection, in a transaction of the caller.

Keys are UTF-8 bytes here, `number` is `namespaces.number`, `now` is epoch seconds.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Final

from kvfs.core.errors import BodyTooLargeError, NamespaceNotFoundError, RejectedError, TitleExistsError
from kvfs.core.limits import BULK_GET_BYTES, NAMESPACES
from kvfs.core.model import Entry, Key, KeyInfo, Metadata, Namespace, NamespaceId, ValueRead
from kvfs.store import codes
from kvfs.store.checks import present_metadata

PURGE_KEYS: Final = 200  # rows a write removes at least, beside its own: a few milliseconds' worth
PURGE_BYTES: Final = 4 * 1024 * 1024  # of values that it removes at least: a millisecond's worth
PURGE_GRACE: Final = 3600  # seconds an expired key stays, unseen: a clock set ahead must not destroy it

BLOB_BYTES: Final = 256 * 1024  # values above this are read by SQLite's call for large ones

EntryRow = tuple[bytes, bytes | None, int | None]  # key, metadata, expiration
Found = tuple[int, int, bytes | None, int | None]  # content, size, metadata, expiration

_VISIBLE = "(expiration IS NULL OR expiration > :now)"

LIST_KEYS = f"""
    SELECT key, metadata, expiration FROM keys
    WHERE namespace = :number AND key >= :first AND key < :beyond AND {_VISIBLE}
    ORDER BY key LIMIT :limit"""
FIND = f"""
    SELECT content, size, metadata, expiration FROM keys
    WHERE namespace = :number AND key = :key AND {_VISIBLE}"""
GET_VALUE = "SELECT value FROM contents WHERE id = ?"
# A key that exists keeps its `content`, whose row `PUT_VALUE` then replaces.
PUT_KEY = """
    INSERT INTO keys (namespace, key, content, size, metadata, expiration) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (namespace, key) DO UPDATE SET
        size = excluded.size, metadata = excluded.metadata, expiration = excluded.expiration"""
PUT_VALUE = """
    INSERT OR REPLACE INTO contents (id, value)
    SELECT content, ? FROM keys WHERE namespace = ? AND key = ?"""
FIND_ROW = """
    SELECT number, content, size, metadata, expiration FROM namespaces JOIN keys ON namespace = number
    WHERE account = ? AND id = ? AND key = ?"""
SET_KEY = "UPDATE keys SET size = ?, metadata = ?, expiration = ? WHERE namespace = ? AND key = ?"
SET_VALUE = "UPDATE contents SET value = ? WHERE id = ?"
DELETE_KEY = "DELETE FROM keys WHERE namespace = ? AND key = ?"  # the trigger removes the value
EXPIRED = "SELECT namespace, key, size FROM keys WHERE expiration <= ? LIMIT ?"
ORPHANS = "SELECT namespace, key, size FROM keys WHERE namespace = ? LIMIT ?"


def find_namespace(db: sqlite3.Connection, operation: str, account: str, namespace: NamespaceId) -> int:
    """Return the number of a namespace. Raises `NamespaceNotFoundError`."""
    row: tuple[int] | None = None
    if namespace.isascii():  # other text cannot be bound
        row = db.execute(
            "SELECT number FROM namespaces WHERE account = ? AND id = ?", (account, namespace)
        ).fetchone()
    if row is None:
        raise NamespaceNotFoundError(f"{operation}: 'namespace not found'", code=codes.NAMESPACE_NOT_FOUND)
    return row[0]


def list_namespaces(db: sqlite3.Connection, account: str) -> list[Namespace]:
    """Return all namespaces of an account, by title."""
    rows: Iterable[tuple[str, str]] = db.execute(
        "SELECT id, title FROM namespaces WHERE account = ? ORDER BY title", (account,)
    )
    return [Namespace(NamespaceId(id_), title) for id_, title in rows]


def get_namespace(db: sqlite3.Connection, number: int) -> Namespace:
    """Return one namespace."""
    row: tuple[str, str] = db.execute(
        "SELECT id, title FROM namespaces WHERE number = ?", (number,)
    ).fetchone()
    return Namespace(NamespaceId(row[0]), row[1])


def create_namespace(db: sqlite3.Connection, account: str, new: Namespace) -> None:
    """Add `new`. Raises `TitleExistsError`, and `RejectedError` for one more than an account may have."""
    _refuse_title("create namespace", db, account, new.title, but=None)
    count: tuple[int] = db.execute("SELECT count(*) FROM namespaces WHERE account = ?", (account,)).fetchone()
    if count[0] >= NAMESPACES:
        raise RejectedError(f"create namespace: an account holds at most {NAMESPACES} namespaces")
    db.execute("INSERT INTO namespaces (account, id, title) VALUES (?, ?, ?)", (account, new.id, new.title))


def rename_namespace(db: sqlite3.Connection, number: int, account: str, title: str) -> None:
    """Give it another title; its own again is no conflict. Raises `TitleExistsError`."""
    _refuse_title("rename namespace", db, account, title, but=number)
    db.execute("UPDATE namespaces SET title = ? WHERE number = ?", (title, number))


def _refuse_title(
    operation: str, db: sqlite3.Connection, account: str, title: str, *, but: int | None
) -> None:
    taken = db.execute(
        "SELECT 1 FROM namespaces WHERE account = ? AND title = ? AND number IS NOT ?", (account, title, but)
    ).fetchone()
    if taken:
        raise TitleExistsError(
            f"{operation}: 'a namespace with this account ID and title already exists'",
            code=codes.TITLE_EXISTS,
        )


def drop_namespace(db: sqlite3.Connection, number: int) -> None:
    """Make it vanish at once; `sweep` removes its keys, later and in bites."""
    db.execute("DELETE FROM namespaces WHERE number = ?", (number,))
    db.execute("INSERT INTO dropped (number) VALUES (?)", (number,))


def sweep(db: sqlite3.Connection, limit: int, most: float = inf) -> bool:
    """Remove up to `limit` keys of deleted namespaces, as `_remove` does; return whether any may be left."""
    row: tuple[int] | None = db.execute("SELECT number FROM dropped LIMIT 1").fetchone()
    if row is None:
        return False
    orphans = db.execute(ORPHANS, (row[0], limit)).fetchall()
    if _remove(db, orphans, most) and len(orphans) < limit:
        db.execute("DELETE FROM dropped WHERE number = ?", row)
    return True


def _remove(db: sqlite3.Connection, rows: list[tuple[int, bytes, int]], most: float) -> bool:
    """Remove these keys, as many as have `most` bytes of values together, but one at least; True if that was all."""
    count = sum(total < most for total in accumulate((size for _, _, size in rows), initial=0))
    db.executemany(DELETE_KEY, (row[:2] for row in rows[:count]))
    return count >= len(rows)


def purge(db: sqlite3.Connection, work: int, now: float, size: int = 0) -> None:
    """Do the housekeeping of a write of `work` keys, in proportion, so that the file does not keep dead rows.

    `size` are the bytes of the values that are written: large ones that have expired must not hold up a small write.
    """
    limit, most = max(work, PURGE_KEYS), max(size, PURGE_BYTES)
    _remove(db, db.execute(EXPIRED, (int(now) - PURGE_GRACE, limit)).fetchall(), most)
    sweep(db, limit, most)


def purged(db: sqlite3.Connection, *, change: Callable[[sqlite3.Connection], None], now: float) -> None:
    """Do a change of some keys, and `purge`."""
    purge(db, PURGE_KEYS, now)
    change(db)


def list_keys(
    db: sqlite3.Connection, number: int, *, first: bytes, beyond: bytes, limit: int, now: float
) -> list[KeyInfo]:
    """Return up to `limit` keys from `first` on and before `beyond`, in order."""
    rows: Iterable[EntryRow] = db.execute(
        LIST_KEYS, {"number": number, "first": first, "beyond": beyond, "limit": limit, "now": now}
    )
    return [KeyInfo(Key(key.decode()), metadata, expiration) for key, metadata, expiration in rows]


def get(db: sqlite3.Connection, number: int, *, key: bytes, now: float) -> ValueRead | None:
    """Return value and expiration."""
    found = _find(db, number, key, now)
    return ValueRead(_value(db, found), found[3]) if found else None


def get_metadata(db: sqlite3.Connection, number: int, *, key: bytes, now: float) -> Metadata | None:
    """Return metadata, `None` also for a key that is not there."""
    found = _find(db, number, key, now)
    return found[2] if found else None


def bulk_get(
    db: sqlite3.Connection, number: int, *, keys: Mapping[Key, bytes], now: float
) -> dict[Key, Entry | None]:
    """Return whole entries; check the sizes before any value is read. Raises `BodyTooLargeError`."""
    rows = {name: _find(db, number, key, now) for name, key in keys.items()}
    size = sum(row[1] for row in rows.values() if row)
    if size > BULK_GET_BYTES:
        raise BodyTooLargeError(
            f"bulk get keys: the values have {size} bytes together, more than {BULK_GET_BYTES}"
        )
    return {name: Entry(_value(db, row), row[2], row[3]) if row else None for name, row in rows.items()}


def _find(db: sqlite3.Connection, number: int, key: bytes, now: float) -> Found | None:
    row: Found | None = db.execute(FIND, {"number": number, "key": key, "now": now}).fetchone()
    return row


def _value(db: sqlite3.Connection, found: Found) -> bytes:
    """Return the value of a key that was found; a large one without a copy of it inside SQLite."""
    content, size, _, _ = found
    if size > BLOB_BYTES:
        with db.blobopen("contents", "value", content, readonly=True) as blob:
            return blob.read()
    row: tuple[bytes] = db.execute(GET_VALUE, (content,)).fetchone()
    return row[0]


def put_all(
    db: sqlite3.Connection, number: int, *, entries: Sequence[tuple[bytes, Entry]], now: float
) -> None:
    """Replace entries whole."""
    purge(db, len(entries), now, sum(len(entry.value) for _, entry in entries))
    last: tuple[int] = db.execute("SELECT coalesce(max(id), 0) FROM contents").fetchone()
    db.executemany(
        PUT_KEY,
        (
            (number, key, content, len(entry.value), present_metadata(entry.metadata), entry.expiration)
            for content, (key, entry) in enumerate(entries, last[0] + 1)
        ),
    )
    db.executemany(PUT_VALUE, ((entry.value, number, key) for key, entry in entries))


def put_one(
    db: sqlite3.Connection, *, place: tuple[str, NamespaceId, bytes], entry: Entry, now: float
) -> None:
    """Replace one entry of a key, which its account and namespace come before. Raises `NamespaceNotFoundError`.

    Of a key that is there only what differs is written, half the pages of `put_all`, which takes many at once. The
    caller has to `purge` now and then.
    """
    account, namespace, key = place
    found = db.execute(FIND_ROW, (account, namespace, key)).fetchone() if namespace.isascii() else None
    if found is None:
        put_all(db, find_namespace(db, "put", account, namespace), entries=((key, entry),), now=now)
        return
    number, content, *before = found
    row = [len(entry.value), present_metadata(entry.metadata), entry.expiration]
    if row != before:
        db.execute(SET_KEY, (*row, number, key))
    if db.execute(SET_VALUE, (entry.value, content)).rowcount != 1:
        db.execute(PUT_VALUE, (entry.value, number, key))


def delete_all(db: sqlite3.Connection, number: int, *, keys: Sequence[bytes], now: float) -> None:
    """Remove those of the keys that are there."""
    purge(db, len(keys), now)
    db.executemany(DELETE_KEY, ((number, key) for key in keys))
