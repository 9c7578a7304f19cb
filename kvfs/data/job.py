"""The state of one copy, in a SQLite file of its own: the items to move, the problems found, the progress.

It is written as the copy goes, so a copy that was interrupted, killed or ran out of budget goes on from here.
Everything is noted after it is done at the target, so at most one batch was done and not noted, and is done again.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from kvfs.core.errors import UserError, first_error
from kvfs.data.items import Item, Problem
from kvfs.data.jobtables import DDL, ItemTable, ProblemTable, TargetTable

VERSION: Final = "1"
_CURES: Final = {
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "look after its disk",
    sqlite3.SQLITE_READONLY: "look at its owner and mode, and if its disk is read-only",
    sqlite3.SQLITE_CANTOPEN: "look at its directory's owner and mode",
}
"""Troubles of the disk after which the state is as good as before."""


class Job:
    """One copy's state; one process at a time has it. What is done in one call is noted as a whole or not at all."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path = path
        self._db = db
        self.problems = ProblemTable(db)
        self.items = ItemTable(db, self.problems)
        self.there = TargetTable(db)

    @classmethod
    def open(cls, path: Path) -> "Job":
        """Open the job in the file at `path`, made (mode 0600) if there is none.

        Raises `UserError` when it is in use, damaged or cannot be written, `OSError` when it cannot be made.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
                db.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
                for statement in DDL:
                    db.execute(statement)
                db.execute("INSERT INTO facts VALUES ('version', ?)", (VERSION,))
            db.execute("COMMIT")
        except sqlite3.DatabaseError as exc:
            db.close()
            raise _told(path, exc) from exc
        return cls(path, db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        self._db.close()
        error = first_error(exc) if isinstance(exc, BaseExceptionGroup) else exc
        if isinstance(error, sqlite3.DatabaseError) and hasattr(
            error, "sqlite_errorcode"
        ):  # else it is a bug
            raise _told(self._path, error) from exc

    def remove(self) -> None:
        """Forget the copy, because it is done, or is to begin anew."""
        self._db.close()
        remove_job(self._path)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is done inside, or nothing of it. Raises `UserError` when the disk does not take it."""
        try:
            with self._db:
                self._db.execute("BEGIN")
                yield
        except sqlite3.DatabaseError as exc:
            raise _told(self._path, exc) from exc

    # facts

    def fact(self, name: str, default: str = "") -> str:
        """Return a fact that was noted by name."""
        row: tuple[str] | None = self._db.execute(
            "SELECT value FROM facts WHERE name = ?", (name,)
        ).fetchone()
        return row[0] if row else default

    def note(self, **facts: object) -> None:
        """Note facts."""
        with self._transaction():
            self._put_facts(facts)

    def _put_facts(self, facts: dict[str, object]) -> None:
        pairs = [(name, str(value)) for name, value in facts.items()]
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", pairs)

    # progress

    def add(self, items: Sequence[Item], problems: Iterable[Problem] = (), **facts: object) -> None:
        """Add items, the problems among them, and the progress of the scan."""
        with self._transaction():
            self.items.put(items)
            self.problems.put(problems)
            self._put_facts(facts)

    def add_there(self, items: Iterable[Item], **facts: object) -> None:
        """Add items that are at the target."""
        with self._transaction():
            self.there.put(items)
            self._put_facts(facts)

    @property
    def done(self) -> int:
        """Note that all items up to this number are at the target, or became problems."""
        return int(self.fact("done", "0"))

    def finish(self, seq: int, position: str, problems: Iterable[Problem], **facts: object) -> None:
        """Note that all items up to `seq` are done; the target's writer would go on at `position`."""
        with self._transaction():
            self.problems.put(problems)
            self._put_facts({"done": seq, "position": position, **facts})


def remove_job(path: Path) -> None:
    """Forget a copy that nobody works on."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _told(path: Path, error: sqlite3.DatabaseError) -> UserError:
    """Say what a copy's state suffers from, and the way out."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError("the same command is running already: wait for it to end")
    if (cure := _CURES.get(code)) is not None:
        return UserError(f"{path} cannot be written ({error}): {cure}; the same command goes on from there")
    return UserError(f"{path} cannot be read ({error}): say --restart to begin anew")
