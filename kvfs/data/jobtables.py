"""The tables of a copy's state, each with what is asked of it: items, what is at the target, problems.

`data/job.py` opens them and puts their changes into transactions; nothing here begins or ends one.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from kvfs.core.model import Key
from kvfs.data.items import HARMLESS, Item, Problem, ProblemKind

DDL: Final = (
    # An item that moves: `key` is the one it gets, `skip` is 1 when it turned out that it need not move.
    """CREATE TABLE items (seq INTEGER PRIMARY KEY, key BLOB NOT NULL, origin TEXT, metadata BLOB,
       expiration INTEGER, size INTEGER, modified REAL, skip INTEGER NOT NULL DEFAULT 0)""",
    "CREATE UNIQUE INDEX items_key ON items (key)",
    # Keys that the target has already; empty unless the copy has looked.
    "CREATE TABLE there (key BLOB PRIMARY KEY, origin TEXT, modified REAL) WITHOUT ROWID",
    """CREATE TABLE problems (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL,
       place TEXT NOT NULL, message TEXT NOT NULL)""",
)
_INSERT: Final = """INSERT INTO items (key, origin, metadata, expiration, size, modified)
                    VALUES (?, ?, ?, ?, ?, ?)"""
_COLUMNS: Final = "key, origin, metadata, expiration, size, modified, seq"

ItemRow = tuple[bytes, str | None, bytes | None, int | None, int | None, float | None]


class ProblemTable:
    """The problems of a copy, in the order in which they were found."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def put(self, problems: Iterable[Problem]) -> None:
        """Add problems."""
        statement = "INSERT INTO problems (kind, key, place, message) VALUES (?, ?, ?, ?)"
        rows = ((p.kind, p.key, p.where, p.message) for p in problems)
        self._db.executemany(statement, [tuple(map(_storable, row)) for row in rows])

    def all(self) -> Iterator[Problem]:
        """Yield all problems."""
        for kind, key, where, message in self._db.execute(
            "SELECT kind, key, place, message FROM problems ORDER BY seq"
        ):
            yield Problem(ProblemKind(kind), key, where, message)

    def counts(self) -> dict[ProblemKind, int]:
        """Count the problems of each kind."""
        found = self._db.execute("SELECT kind, count(*) FROM problems GROUP BY kind").fetchall()
        return {ProblemKind(kind): count for kind, count in found}

    def failures(self) -> int:
        """Count the problems that are not harmless."""
        return sum(count for kind, count in self.counts().items() if kind not in HARMLESS)


class ItemTable:
    """The items that are to be moved, in their order."""

    def __init__(self, db: sqlite3.Connection, problems: ProblemTable) -> None:
        self._db = db
        self._problems = problems

    def put(self, items: Sequence[Item]) -> None:
        """Add items. Of two items of one key the later one counts; the earlier one becomes a problem."""
        rows = [_row(item) for item in items]
        self._db.execute("SAVEPOINT rows")
        try:
            self._db.executemany(_INSERT, rows)
        except sqlite3.IntegrityError:
            self._db.execute("ROLLBACK TO rows")
            for item, row in zip(items, rows, strict=True):
                self._put_one(item, row)

    def _put_one(self, item: Item, row: ItemRow) -> None:
        old = self._db.execute("DELETE FROM items WHERE key = ? RETURNING origin", (row[0],)).fetchone()
        if old is not None and old[0] != row[1]:
            where, message = f"record {old[0]}", f"it occurs again in record {row[1]}, which counts"
            self._problems.put([Problem(ProblemKind.DUPLICATE, item.key, where, message)])
        self._db.execute(_INSERT, row)

    def keep_sample(self, most: int) -> None:
        """Forget all items but `most` of them: those whose keys have the smallest digests, so the same at each run."""
        self._db.create_function("digest", 1, _digest, deterministic=True)
        self._db.execute(
            "DELETE FROM items WHERE seq NOT IN (SELECT seq FROM items ORDER BY digest(key) LIMIT ?)", (most,)
        )

    def counts(self, after: int) -> tuple[int, int, int]:
        """Return the number of items behind a number, their known bytes, and the number of unknown sizes."""
        row: tuple[int, int, int] = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0), sum(size IS NULL) FROM items WHERE NOT skip AND seq > ?",
            (after,),
        ).fetchone()
        return row[0], row[1], row[2] or 0

    def todo(self, after: int, most: int) -> Iterator[list[Item]]:
        """Yield the items behind a number that are to be moved, in order, at most so many at a time."""
        while True:
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM items WHERE seq > ? AND NOT skip ORDER BY seq LIMIT ?", (after, most)
            ).fetchall()
            if not rows:
                return
            after = rows[-1][-1]
            yield [_item(row) for row in rows]

    def has_children(self, key: Key) -> bool:
        """Return whether keys lie below a key, as in a directory of its name."""
        below = key.encode() + b"/"
        found = self._db.execute(
            "SELECT 1 FROM items WHERE key >= ? AND key < ? LIMIT 1", (below, below[:-1] + b"0")
        ).fetchone()
        return found is not None


class TargetTable:
    """The entries that are at the target already."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def put(self, items: Iterable[Item]) -> None:
        """Add items that are at the target."""
        self._db.executemany(
            "INSERT OR REPLACE INTO there VALUES (?, ?, ?)",
            [(item.key.encode(), item.origin, item.modified) for item in items],
        )

    def twins(self) -> tuple[int, Key]:
        """Count the items that are at the target already, and name the key of one; "" of none."""
        row: tuple[int, bytes | None] = self._db.execute(
            "SELECT count(*), min(key) FROM items WHERE key IN (SELECT key FROM there)"
        ).fetchone()
        return row[0], Key((row[1] or b"").decode())

    def skip(self, newer_than: float | None = None) -> int:
        """Skip items that are at the target; or only those not modified after their twin (or after a time)."""
        return self._db.execute(
            """UPDATE items SET skip = 1 WHERE EXISTS (SELECT 1 FROM there WHERE there.key = items.key AND
               (:at IS NULL OR coalesce(items.modified, 0) <= max(coalesce(there.modified, 0), :at)))""",
            {"at": newer_than},
        ).rowcount

    def surplus(self, after: str, most: int) -> list[tuple[Key, str]]:
        """Return keys of the target, and where they are, that nothing at the source answers to."""
        rows = self._db.execute(
            """SELECT key, origin FROM there WHERE key > ? AND key NOT IN (SELECT key FROM items)
               ORDER BY key LIMIT ?""",
            (after.encode(), most),
        ).fetchall()
        return [(Key(key.decode()), origin) for key, origin in rows]

    def count_surplus(self) -> int:
        """Count the keys that are at the target only."""
        row: tuple[int] = self._db.execute(
            "SELECT count(*) FROM there WHERE key NOT IN (SELECT key FROM items)"
        ).fetchone()
        return row[0]


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8).digest()


def _row(item: Item) -> ItemRow:
    return item.key.encode(), item.origin, item.metadata, item.expiration, item.size, item.modified


def _item(row: tuple[bytes, str, bytes | None, int | None, int | None, float | None, int]) -> Item:
    key, origin, metadata, expiration, size, modified, seq = row
    return Item(Key(key.decode()), origin, metadata, expiration, size, modified, seq)


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
