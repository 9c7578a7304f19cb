"""The state of one copy, in a SQLite file of its own: the items to move, the problems found, the progress.

It is written as the copy goes, so a copy that was interrupted, killed or ran out of budget goes on from here.
Everything is noted after it is done at the target, so at most one batch was done and not noted, and is done again.
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from kvfs.core.errors import UserError
from kvfs.core.model import Key
from kvfs.data.items import HARMLESS, Item, Problem, ProblemKind

VERSION: Final = "1"
_DDL: Final = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # An item that moves: `key` is the one it gets, `skip` is 1 when it turned out that it need not move.
    """CREATE TABLE items (seq INTEGER PRIMARY KEY, key BLOB NOT NULL, origin TEXT, metadata BLOB,
       expiration INTEGER, size INTEGER, modified REAL, skip INTEGER NOT NULL DEFAULT 0)""",
    "CREATE UNIQUE INDEX items_key ON items (key)",
    # What is at the target already, where somebody asked.
    "CREATE TABLE there (key BLOB PRIMARY KEY, origin TEXT, modified REAL) WITHOUT ROWID",
    """CREATE TABLE problems (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL,
       place TEXT NOT NULL, message TEXT NOT NULL)""",
)
_INSERT: Final = """INSERT INTO items (key, origin, metadata, expiration, size, modified)
                    VALUES (?, ?, ?, ?, ?, ?)"""
_COLUMNS: Final = "key, origin, metadata, expiration, size, modified, seq"

ItemRow = tuple[bytes, str | None, bytes | None, int | None, int | None, float | None]


class Job:
    """One copy's state; one process at a time has it."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db

    @classmethod
    def open(cls, path: Path) -> "Job":
        """Open the job in the file at `path`, made (mode 0600) if there is none.

        Raises `UserError` when it is in use.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
                for statement in _DDL:
                    db.execute(statement)
                db.execute("INSERT INTO facts VALUES ('version', ?)", (VERSION,))
            db.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            db.close()
            raise UserError("the same command is running already: wait for it to end") from exc
        except sqlite3.DatabaseError as exc:
            db.close()
            raise UserError(f"{path} cannot be read ({exc}): say --restart to begin anew") from exc
        return cls(path, db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def remove(self) -> None:
        """Forget the copy, because it is done, or is to begin anew."""
        self._db.close()
        remove_job(self._path)

    # facts

    def fact(self, name: str, default: str = "") -> str:
        """Return a fact that was noted by name."""
        row: tuple[str] | None = self._db.execute(
            "SELECT value FROM facts WHERE name = ?", (name,)
        ).fetchone()
        return row[0] if row else default

    def note(self, **facts: object) -> None:
        """Note facts, all or none."""
        self._db.execute("BEGIN")
        self._put_facts(facts)
        self._db.execute("COMMIT")

    def _put_facts(self, facts: dict[str, object]) -> None:
        pairs = [(name, str(value)) for name, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", pairs)

    # items to move

    def add(self, items: Sequence[Item], problems: Iterable[Problem] = (), **facts: object) -> None:
        """Add items, the problems among them, and the progress of the scan, all or none.

        Of two items of one key the later one counts; the earlier one becomes a problem.
        """
        rows = [_row(item) for item in items]
        self._db.execute("BEGIN")
        self._db.execute("SAVEPOINT rows")
        try:
            self._db.executemany(_INSERT, rows)
        except sqlite3.IntegrityError:
            self._db.execute("ROLLBACK TO rows")
            for item, row in zip(items, rows, strict=True):
                self._add_one(item, row)
        self._put_problems(problems)
        self._put_facts(facts)
        self._db.execute("COMMIT")

    def _add_one(self, item: Item, row: ItemRow) -> None:
        old = self._db.execute("DELETE FROM items WHERE key = ? RETURNING origin", (row[0],)).fetchone()
        if old is not None and old[0] != row[1]:
            where, message = f"record {old[0]}", f"it occurs again in record {row[1]}, which counts"
            self._put_problems([Problem(ProblemKind.DUPLICATE, item.key, where, message)])
        self._db.execute(_INSERT, row)

    def keep_sample(self, most: int) -> None:
        """Forget all items but `most` of them: those whose keys have the smallest digests, so the same at each run."""
        self._db.create_function("digest", 1, _digest, deterministic=True)
        self._db.execute(
            "DELETE FROM items WHERE seq NOT IN (SELECT seq FROM items ORDER BY digest(key) LIMIT ?)", (most,)
        )

    def counts(self) -> tuple[int, int, int]:
        """Return the number of items left to write, their known bytes, and the number of unknown sizes."""
        row: tuple[int, int, int] = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0), sum(size IS NULL) FROM items WHERE NOT skip AND seq > ?",
            (self.done,),
        ).fetchone()
        return row[0], row[1], row[2] or 0

    def todo(self, most: int) -> Iterator[list[Item]]:
        """Yield the items left to move, in order, at most so many at a time."""
        after = self.done
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

    # items at the target

    def add_there(self, items: Iterable[Item], **facts: object) -> None:
        """Add items that are at the target."""
        self._db.execute("BEGIN")
        self._db.executemany(
            "INSERT OR REPLACE INTO there VALUES (?, ?, ?)",
            [(item.key.encode(), item.origin, item.modified) for item in items],
        )
        self._put_facts(facts)
        self._db.execute("COMMIT")

    def count_there(self) -> int:
        """Count the items that are at the target already."""
        return self._count("SELECT count(*) FROM items WHERE key IN (SELECT key FROM there)")

    def first_there(self) -> Key:
        """Return one of the items at the target."""
        row = self._db.execute(
            "SELECT key FROM items WHERE key IN (SELECT key FROM there) LIMIT 1"
        ).fetchone()
        return Key(row[0].decode())

    def skip_there(self, newer_than: float | None = None) -> int:
        """Skip items that are at the target; or only those not modified after their twin (or after a time)."""
        if newer_than is None:
            rule, values = "", ()
        else:
            rule = " AND coalesce(modified, 0) <= max(coalesce(there.modified, 0), ?)"
            values = (newer_than,)  # type: ignore[assignment] # one parameter or none
        done = self._db.execute(
            f"""UPDATE items SET skip = 1 WHERE EXISTS (SELECT 1 FROM there WHERE there.key = items.key
                {rule.replace("coalesce(modified", "coalesce(items.modified")})""",
            values,
        )
        return done.rowcount

    def surplus(self, after: str, most: int) -> list[tuple[Key, str]]:
        """Yield keys of the target, and where they are, that nothing at the source answers to."""
        rows = self._db.execute(
            """SELECT key, origin FROM there WHERE key > ? AND key NOT IN (SELECT key FROM items)
               ORDER BY key LIMIT ?""",
            (after.encode(), most),
        ).fetchall()
        return [(Key(key.decode()), origin) for key, origin in rows]

    def count_surplus(self) -> int:
        """Count the keys that are at the target only."""
        return self._count("SELECT count(*) FROM there WHERE key NOT IN (SELECT key FROM items)")

    # how far it is

    @property
    def done(self) -> int:
        """Note that all items up to this number are at the target, or became problems."""
        return int(self.fact("done", "0"))

    def finish(self, seq: int, position: str, problems: Iterable[Problem], **facts: object) -> None:
        """Note that all items up to `seq` are done; the target's writer would go on at `position`."""
        self._db.execute("BEGIN")
        self._put_problems(problems)
        self._put_facts({"done": seq, "position": position, **facts})
        self._db.execute("COMMIT")

    # problems

    def _put_problems(self, problems: Iterable[Problem]) -> None:
        rows = [(p.kind, p.key, p.where, p.message) for p in problems]
        if rows:
            statement = "INSERT INTO problems (kind, key, place, message) VALUES (?, ?, ?, ?)"
            self._db.executemany(statement, [tuple(map(_storable, row)) for row in rows])

    def problems(self) -> Iterator[Problem]:
        """Yield all problems, in the order in which they were found."""
        for kind, key, where, message in self._db.execute(
            "SELECT kind, key, place, message FROM problems ORDER BY seq"
        ):
            yield Problem(ProblemKind(kind), key, where, message)

    def count_problems(self) -> dict[ProblemKind, int]:
        """Count the problems of each kind."""
        found = self._db.execute("SELECT kind, count(*) FROM problems GROUP BY kind").fetchall()
        return {ProblemKind(kind): count for kind, count in found}

    def failures(self) -> int:
        """Count the problems that are not harmless."""
        return sum(count for kind, count in self.count_problems().items() if kind not in HARMLESS)

    def _count(self, statement: str) -> int:
        row: tuple[int] = self._db.execute(statement).fetchone()
        return row[0]


def remove_job(path: Path) -> None:
    """Forget a copy that nobody works on."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8).digest()


def _row(item: Item) -> ItemRow:
    return item.key.encode(), item.origin, item.metadata, item.expiration, item.size, item.modified


def _item(row: tuple[bytes, str, bytes | None, int | None, int | None, float | None, int]) -> Item:
    key, origin, metadata, expiration, size, modified, seq = row
    return Item(Key(key.decode()), origin, metadata, expiration, size, modified, seq)


def _storable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
