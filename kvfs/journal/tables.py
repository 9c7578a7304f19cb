"""The way of a row into the tables: collected by the transaction, committed to the redo log, applied in bulk.

A transaction that is committed survives `kill -9` (`log.py`). SQLite hears of it later, with hundreds of
others, or when somebody has to read what it would say. Everything that alters a table is here, by name.
"""

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import trio

from kvfs.core.errors import JournalError, JournalUnreadableError
from kvfs.journal import schema
from kvfs.journal.disk import sync_log
from kvfs.journal.log import ROTATE_BYTES, Leftover, RedoLog, files_of
from kvfs.journal.opening import translate

APPLY_COUNT: Final = 8192  # transactions that may be behind: at an open, a tenth of a second
APPLY_BYTES: Final = 8 * 1024 * 1024
WORTH_COUNT: Final = 256  # that many are worth a moment when nobody records
WORTH_BYTES: Final = 1024 * 1024
SLICE_ROWS: Final = 1024  # at once: three milliseconds of SQLite
SLICE_BYTES: Final = 2 * 1024 * 1024
ROTATE_ROWS: Final = 4096  # each may make SQLite's own log some pages longer
MOST_BYTES: Final = 16 * 1024 * 1024  # what SQLite does not take may wait in memory up to this

log = logging.getLogger("kvfs.journal")

K = TypeVar("K")
V = TypeVar("V")


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
    PUT_SHOWN = 12
    DROP_SHOWN = 13
    DROP_ALL_SHOWN = 14


def _put(table: str, columns: int) -> str:
    return f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * columns)})"


_STATEMENTS: Final[dict[int, str]] = {
    Write.PUT_CHANGE: _put("changes", 18),
    Write.DROP_CHANGE: "DELETE FROM changes WHERE namespace = ? AND key = ?",
    Write.PUT_BODY: _put("bodies", 5),
    Write.DROP_BODY: "DELETE FROM bodies WHERE id = ?",
    Write.PUT_FILE: _put("local_files", 7),
    Write.DROP_FILE: "DELETE FROM local_files WHERE namespace = ? AND key = ?",
    Write.PUT_DIRECTORY: _put("local_dirs", 6),
    Write.DROP_DIRECTORY: "DELETE FROM local_dirs WHERE namespace = ? AND prefix = ? AND start = ?",
    Write.PUT_NAMESPACE: _put("namespaces", 2),
    Write.DROP_NAMESPACE: "DELETE FROM namespaces WHERE id = ?",
    Write.DROP_FILES: "DELETE FROM local_files WHERE namespace = ?",
    Write.DROP_DIRECTORIES: "DELETE FROM local_dirs WHERE namespace = ?",
    Write.PUT_SHOWN: _put("shown", 3),
    Write.DROP_SHOWN: "DELETE FROM shown WHERE place = ?",
    Write.DROP_ALL_SHOWN: "DELETE FROM shown WHERE place BETWEEN ? AND ?",
}

_KEYS: Final[dict[int, tuple[int, int]]] = {
    write: (inverse, length)
    for put, drop, length in (
        (Write.PUT_CHANGE, Write.DROP_CHANGE, 2),
        (Write.PUT_BODY, Write.DROP_BODY, 1),
        (Write.PUT_FILE, Write.DROP_FILE, 2),
        (Write.PUT_DIRECTORY, Write.DROP_DIRECTORY, 3),
        (Write.PUT_NAMESPACE, Write.DROP_NAMESPACE, 1),
        (Write.PUT_SHOWN, Write.DROP_SHOWN, 1),
    )
    for write, inverse in ((put, drop), (drop, put))
}
"""Of what is about one row: what undoes it, and how many columns name the row."""
_WHOLE: Final = frozenset({Write.DROP_FILES, Write.DROP_DIRECTORIES, Write.DROP_ALL_SHOWN})

Columns = tuple[Any, ...]
Writes = Sequence[tuple[int, Columns]]
"""What a transaction does, in order."""
_Record = tuple[int, Writes, int]
"""A transaction that is in the log: its number there, what it does, its bytes there."""
_Last = dict[int, dict[tuple[Any, ...], Columns]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, tuple[Any, ...]]]).decode


class Unapplied(dict[K, tuple[int, V]]):
    """What the tables lack: by place, the number of the record that has it, and what.

    The oldest come first, but for what a rollback put back: such a place, and what is behind it, stays longer than
    it has to, which is no harm.
    """

    def applied(self, number: int) -> None:
        """The tables have the records up to that number."""
        for place in [place for place, _ in takewhile(lambda item: item[1][0] <= number, self.items())]:
            del self[place]


class Tables:
    """The tables of one journal, seen through what was committed and not applied.

    Invariant: the tables have the records up to a number that they name; `_behind` holds the later ones.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._leftover = Leftover(path, schema.applied(connection))
        self.redo = RedoLog(path, schema.identity(connection), schema.VERSION, self._leftover.last)
        self.on_applied: Callable[[int], None] = lambda number: None  # told up to which record
        self._open: list[tuple[int, Columns]] = []  # of the transaction under way
        self._behind: deque[_Record] = deque()
        self.last = self.redo.last  # the newest record that SQLite has heard of, or is to hear of
        self._due = trio.Event()  # some are behind, and worth a moment
        self._bytes = 0  # of the records that are behind
        self._rows = 0  # told to SQLite since the log began a new file
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

    def append(self, writes: Writes) -> int:
        """A transaction is in the log; `appended`, with the size this answers, has to follow. Raises JournalError."""
        record = _encode(writes)
        while self._behind and self._bytes + len(record) > MOST_BYTES:
            self._apply_slice()
        self.redo.append(record)
        return len(record)

    def appended(self, writes: Writes, size: int) -> None:
        """SQLite is to hear of what `append` put into the log.

        Should one have been left out, by a bug, the tables never claim what comes after it: the log stays, and is
        read at the next open.
        """
        if self.redo.last == self.last + 1:
            self.last = self.redo.last
        behind, before = self._behind, self._bytes
        behind.append((self.last, writes, size))
        count = len(behind)
        self._bytes = after = before + size
        if count >= self._next_try[0] or after >= self._next_try[1]:
            self.try_to_apply()
        elif count % WORTH_COUNT == 0 or before // WORTH_BYTES != after // WORTH_BYTES:
            self._due.set()

    def rollback(self) -> None:
        """What was added never was."""
        self._open = []

    async def wait_due(self) -> None:
        """Until so much is behind that it is worth a moment when nobody records."""
        await self._due.wait()
        self._due = trio.Event()

    @property
    def is_behind(self) -> bool:
        """Whether there is something that SQLite was not told."""
        return bool(self._behind)

    def try_to_apply(self) -> bool:
        """Tell SQLite some of it, the oldest first; whether it took it.

        The log has it: that SQLite does not take it now (a full disk, say) is nobody's error yet.
        """
        try:
            self._apply_slice()
        except JournalError as exc:
            self._next_try = (len(self._behind) + APPLY_COUNT, self._bytes + APPLY_BYTES)
            if not self._is_failing:
                log.warning("what was recorded stays in the journal's log for now: %s", exc)
            self._is_failing = True
            return False
        return True

    def apply(self) -> None:
        """Bring the tables up to date. Raises JournalError; the log has it all the same."""
        while self._behind:
            self._apply_slice()

    def _apply_slice(self) -> None:
        some = self._slice()
        if not some:
            return
        number = some[-1][0]
        try:
            self._run((writes for _, writes, _ in some), number)
        except sqlite3.Error as exc:
            raise translate(exc, self._path) from exc
        except Exception as exc:  # a value SQLite cannot hold: the log has it, so nothing may be undone
            raise JournalError(f"the tables of the journal {self._path} do not take it: {exc!r}") from exc
        for _, writes, size in some:
            self._behind.popleft()
            self._bytes -= size
            self._rows += len(writes)
        self._next_try, self._is_failing = (APPLY_COUNT, APPLY_BYTES), False
        if not (self._behind and self._behind[0][0] <= number):  # else one was left out, see `appended`
            self.on_applied(number)
        if (self.redo.size >= ROTATE_BYTES or self._rows >= ROTATE_ROWS) and self.redo.rotate():
            self._rows = 0
        self.redo.applied(number)

    def _slice(self) -> list[_Record]:
        """The oldest records that are behind, as many as SQLite is to be told at once; one, however large."""
        some: list[_Record] = []
        rows, bytes_ = 0, 0
        for record in self._behind:
            _, writes, size = record
            rows += len(writes)
            bytes_ += size
            if some and (rows > SLICE_ROWS or bytes_ > SLICE_BYTES):
                break
            some.append(record)
        return some

    def _run(self, transactions: Iterable[Writes], number: int) -> None:
        """All of them, and that the records up to this number are in, in one transaction.

        Of several writes to one row the last is enough: it says what the row is.
        """
        last: _Last = {write: {} for write in _KEYS}
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for writes in transactions:
                for write, columns in writes:
                    if write in _WHOLE:
                        self._execute(last)
                        self._db.execute(_STATEMENTS[write], columns)
                        continue
                    inverse, length = _KEYS[write]
                    key = columns[:length]
                    last[inverse].pop(key, None)
                    last[write][key] = columns
            self._execute(last)
            schema.note_applied(self._db, number)
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _execute(self, last: _Last) -> None:
        for write, rows in last.items():
            if rows:
                self._db.executemany(_STATEMENTS[write], rows.values())
                rows.clear()

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
            while some := list(islice(records, SLICE_ROWS)):
                self._run(map(_decode, some), self._leftover.last)
        except (msgspec.DecodeError, KeyError, OverflowError) as exc:
            raise JournalUnreadableError(
                f"the log of the journal {self._path} cannot be read ({exc!r}); it is left as it is"
            ) from exc
        except (sqlite3.Error, OSError) as exc:
            raise JournalError(f"the log of the journal {self._path} cannot be replayed: {exc}") from exc
        self.last = self.redo.last = self._leftover.last

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
        if self._behind or self.last != self.redo.last or not self._is_sound:
            return
        try:
            sync_log(self._path)
            self.redo.remove(files_of(self._path))
        except OSError as exc:
            log.warning("the log of the journal %s stays beside it: %s", self._path, exc)
