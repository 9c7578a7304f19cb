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

from kvfs.core.errors import UserError
from kvfs.data.items import Item, Problem
from kvfs.data.jobtables import DDL, ItemTable, ProblemTable, TargetTable

VERSION: Final = "1"


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
                db.execute("CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
                for statement in DDL:
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit what is done inside, or nothing of it. Raises `UserError` when the disk does not take it."""
        try:
            with self._db:
                self._db.execute("BEGIN")
                yield
        except sqlite3.OperationalError as exc:
            raise UserError(
                f"{self._path} cannot be written ({exc}): make room on its disk; the same command goes on from there"
            ) from exc

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
