"""The way of a row into the tables: collected by the transaction, committed to the redo log, applied in bulk.

A transaction that is committed survives `kill -9` (`redo.py`). SQLite hears of it later, with hundreds of
others, or when somebody has to read what it would say. Everything that alters a table is here, by name.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from kvfs.core.errors import JournalError, JournalUnreadableError
from kvfs.writeback import schema
from kvfs.writeback.disk import sync_log
from kvfs.writeback.opening import translate
from kvfs.writeback.redo import ROTATE_BYTES, Leftover, RedoLog, files_of

APPLY_COUNT: Final = 1536  # transactions: some fifteen milliseconds of SQLite
WORTH_COUNT: Final = 256  # that many are worth a moment when nobody records
APPLY_BYTES: Final = 4 * 1024 * 1024
ROTATE_ROWS: Final = 4096  # each may make SQLite's own log some pages longer
MOST_BYTES: Final = 16 * 1024 * 1024  # what SQLite does not take may wait in memory up to this

log = logging.getLogger("kvfs.writeback")


class Write(IntEnum):
    """What a transaction can do to a row. The numbers are in redo logs: schema.VERSION goes with them."""

    PUT_CHANGE = 0
    DROP_CHANGE = 1
    PUT_BODY = 2
    DROP_BODY = 3
    PUT_FILE = 4
    DROP_FILE = 5
    PUT_DIRECTORY = 6
    DROP_DIRECTORY = 7
    PUT_NAMESPACE = 8
    DROP_NAMESPACE = 9
    DROP_FILES = 10
    DROP_DIRECTORIES = 11


def _put(table: str, columns: int) -> str:
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})"


_STATEMENTS: Final[dict[int, str]] = {
    Write.PUT_CHANGE: _put("changes", 17),
    Write.DROP_CHANGE: "DELETE FROM changes WHERE namespace = ? AND key = ?",
    Write.PUT_BODY: _put("bodies", 5),
    Write.DROP_BODY: "DELETE FROM bodies WHERE id = ?",
    Write.PUT_FILE: _put("local_files", 6),
    Write.DROP_FILE: "DELETE FROM local_files WHERE namespace = ? AND key = ?",
    Write.PUT_DIRECTORY: _put("local_dirs", 6),
    Write.DROP_DIRECTORY: "DELETE FROM local_dirs WHERE namespace = ? AND prefix = ? AND start = ?",
    Write.PUT_NAMESPACE: _put("namespaces", 2),
    Write.DROP_NAMESPACE: "DELETE FROM namespaces WHERE id = ?",
    Write.DROP_FILES: "DELETE FROM local_files WHERE namespace = ?",
    Write.DROP_DIRECTORIES: "DELETE FROM local_dirs WHERE namespace = ?",
}

_KEYS: Final[dict[int, tuple[int, int]]] = {
    write: (inverse, length)
    for put, drop, length in (
        (Write.PUT_CHANGE, Write.DROP_CHANGE, 2),
        (Write.PUT_BODY, Write.DROP_BODY, 1),
        (Write.PUT_FILE, Write.DROP_FILE, 2),
        (Write.PUT_DIRECTORY, Write.DROP_DIRECTORY, 3),
        (Write.PUT_NAMESPACE, Write.DROP_NAMESPACE, 1),
    )
    for write, inverse in ((put, drop), (drop, put))
}
"""Of what is about one row: what undoes it, and how many columns name the row."""
_WHOLE: Final = frozenset({Write.DROP_FILES, Write.DROP_DIRECTORIES})

Columns = Sequence[Any]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, list[Any]]]).decode


class Tables:
    """The tables of one journal, seen through what was committed and not applied.

    Invariant: the tables have the records up to a number that they name; `_behind` holds the later ones.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._leftover = Leftover(path, schema.applied(connection))
        self.redo = RedoLog(path, schema.identity(connection), schema.VERSION, self._leftover.last)
        self.on_applied: Callable[[], None] = lambda: None
        self._open: list[tuple[int, Columns]] = []  # of the transaction under way
        self._behind: list[tuple[int, Columns]] = []
        self._last = self.redo.last  # the newest record of what is behind
        self.count = 0  # transactions behind
        self._due = trio.Event()  # some are behind, and worth a moment
        self._bytes = 0  # their records
        self._rows = 0  # told to SQLite since the log was retired
        self._next_try = (APPLY_COUNT, APPLY_BYTES)  # transactions and bytes behind
        self._is_failing = False
        self._is_sound = False  # what the last run left was taken in, and loaded

    # writing

    def add(self, write: Write, columns: Columns) -> None:
        """One row more in the transaction under way."""
        self._open.append((write, columns))

    def commit(self) -> None:
        """What was added is in the log. Raises JournalError, and nothing of it is, as after `rollback`."""
        if not self._open:
            return
        size = self.append(self._open)
        writes, self._open = self._open, []
        self.appended(writes, size)

    def append(self, writes: Sequence[tuple[int, Columns]]) -> int:
        """A transaction is in the log; `appended`, with the size this answers, has to follow. Raises JournalError."""
        record = _encode(writes)
        if self._bytes + len(record) > MOST_BYTES and self._behind:
            self.apply()
        self.redo.append(record)
        return len(record)

    def appended(self, writes: Sequence[tuple[int, Columns]], size: int) -> None:
        """SQLite is to hear of what `append` put into the log.

        Should one have been left out, by a bug, the tables never claim what comes after it: the log stays, and is
        read at the next open.
        """
        self._behind += writes
        if self.redo.last == self._last + 1:
            self._last = self.redo.last
        self.count += 1
        self._bytes += size
        if self.count >= self._next_try[0] or self._bytes >= self._next_try[1]:
            self.try_to_apply()
        elif self.count % WORTH_COUNT == 0:
            self._due.set()

    def rollback(self) -> None:
        """What was added never was."""
        self._open = []

    async def wait_due(self) -> None:
        """Until so much is behind that it is worth a moment when nobody records."""
        await self._due.wait()
        self._due = trio.Event()

    def try_to_apply(self) -> None:
        """The log has it: that SQLite does not take it now (a full disk, say) is nobody's error yet."""
        try:
            self.apply()
        except JournalError as exc:
            self._next_try = (self.count + APPLY_COUNT, self._bytes + APPLY_BYTES)
            if not self._is_failing:
                log.warning("what was recorded stays in the journal's log for now: %s", exc)
            self._is_failing = True

    def apply(self) -> None:
        """Bring the tables up to date. Raises JournalError; the log has it all the same."""
        if not self._behind:
            return
        try:
            self._run(self._behind, self._last)
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc
        except Exception as exc:  # a value SQLite cannot hold: the log has it, so nothing may be undone
            raise JournalError(f"the tables of the journal {self._path} do not take it: {exc!r}") from exc
        self._rows += len(self._behind)
        self._behind, self.count, self._bytes = [], 0, 0
        self._next_try, self._is_failing = (APPLY_COUNT, APPLY_BYTES), False
        self.on_applied()
        is_long = self.redo.size >= ROTATE_BYTES or self._rows >= ROTATE_ROWS
        if is_long and self._last == self.redo.last:
            self.redo.retire()
            self._rows = 0

    def _run(self, writes: Iterable[tuple[int, Columns]], number: int) -> None:
        """All of them, and that the records up to this number are in, in one transaction.

        Of several to one row the last is enough: it says what the row is.
        """
        last: dict[int, dict[tuple[Any, ...], Columns]] = {}
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for write, columns in writes:
                if write in _WHOLE:
                    self._execute(last)
                    self._db.execute(_STATEMENTS[write], columns)
                    continue
                inverse, length = _KEYS[write]
                key = tuple(columns[:length])
                last.setdefault(inverse, {}).pop(key, None)
                last.setdefault(write, {})[key] = columns
            self._execute(last)
            schema.note_applied(self._db, number)
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _execute(self, last: dict[int, dict[tuple[Any, ...], Columns]]) -> None:
        for write, rows in last.items():
            self._db.executemany(_STATEMENTS[write], rows.values())
        last.clear()

    # reading

    def look(self, statement: str, columns: Columns = ()) -> sqlite3.Cursor:
        """Ask the tables, without what is behind. Raises JournalError."""
        try:
            return self._db.execute(statement, columns)
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc

    # opening and closing

    def recover(self) -> None:
        """Take in what the last run left in the log. Raises JournalError."""
        records = self._leftover.records()
        try:
            while some := list(islice(records, APPLY_COUNT)):
                self._run([write for record in some for write in _decode(record)], self._leftover.last)
        except (msgspec.DecodeError, KeyError, OverflowError) as exc:
            raise JournalUnreadableError(
                f"the log of the journal {self._path} cannot be read ({exc!r}); it is left as it is"
            ) from exc
        except (sqlite3.Error, OSError) as exc:
            raise JournalError(f"the log of the journal {self._path} cannot be replayed: {exc}") from exc
        self._last = self.redo.last = self._leftover.last

    def recovered(self) -> None:
        """What was taken in is sound: the old log goes. Raises JournalError."""
        if self._leftover.files:
            try:
                sync_log(self._path)
                self._leftover.put_away()
            except OSError as exc:
                raise JournalError(f"the log of the journal {self._path} cannot be put away: {exc}") from exc
        self._is_sound = True  # not before: until then what lies beside it is not ours to remove

    def close(self, shrink: Callable[[sqlite3.Connection], None]) -> None:
        """Leave all in the tables and no log, if the disk lets us; the next open sees to the rest."""
        if self._is_sound:
            try:
                self.apply()
                shrink(self._db)
            except JournalError as exc:
                log.warning("what was recorded stays in the journal's log: %s", exc)
        self._db.close()
        self.redo.close()
        if self._behind or self._last != self.redo.last or not self._is_sound:
            return
        try:
            sync_log(self._path)
            self.redo.remove(files_of(self._path))
        except OSError as exc:
            log.warning("the log of the journal %s stays beside it: %s", self._path, exc)
