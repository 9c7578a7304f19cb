"""The content that programs of this mount last read or wrote under each name; a change is compared with it.

It must outlive the caches, because an editor may hold a text for longer than they do, and because a `stat` that
loads a newer value shows nobody its content. So it is kept by name, as a digest: the latest in memory, the others
in a temporary table on the disk of at most 64 bytes a name, which goes with the mount. A name that was forgotten
all the same, because the table is full or the disk is, counts as read with a content that equals nothing: then what
the server has is kept.
"""

import hashlib
import logging
import secrets
import sqlite3
from collections import OrderedDict
from itertools import islice
from typing import Final

from kvfs.core.digest import DIGEST_BYTES, digest
from kvfs.core.model import KeyRef

VALUE_BYTES: Final = (
    16 * 1024 * 1024
)  # values that need no digest yet; a larger one is kept alone until the next
NAMES: Final = 100_000  # in memory, some 250 bytes each
SLICE: Final = 1_000  # names that go to the table together: a few milliseconds
MOST_NAMES: Final = 10_000_000  # in the table

FORGOTTEN: Final = b"\xff" * DIGEST_BYTES
"""The digest of a name that was seen, nobody knows with which content. No content has it."""


log = logging.getLogger("kvfs.vfs")


class LastSeen:
    """Digests by name. Not `enabled`, it knows nothing and costs nothing.

    Invariants: a name is in `_values` or in `_digests`, not in both; what the table says of it is older;
    `_bytes` is the sum of the lengths in `_values`.
    """

    def __init__(self, *, enabled: bool = True, names: int = NAMES, cache_bytes: int = VALUE_BYTES) -> None:
        """`cache_bytes` are cached of values anyway: beside the last one no more of them wait for a digest here."""
        self._enabled = enabled
        self._most_bytes = min(VALUE_BYTES, cache_bytes)
        self._names = names
        self._values: OrderedDict[KeyRef, bytes] = OrderedDict()  # read, and not digested yet
        self._bytes = 0
        self._digests: OrderedDict[KeyRef, bytes] = OrderedDict()
        self._table = _Table()

    def read(self, place: KeyRef, value: bytes, found: bytes | None = None) -> None:
        """Note that a program was given this content to read. `found` is its digest, if anybody made it."""
        if found is not None:
            self.wrote(place, found)
            return
        if not self._enabled or self._values.get(place) is value:
            return
        self._digests.pop(place, None)
        self._drop_value(place)
        self._values[place] = value
        self._bytes += len(value)
        while (self._bytes > self._most_bytes and len(self._values) > 1) or len(self._values) > self._names:
            oldest, content = self._values.popitem(last=False)
            self._bytes -= len(content)
            self._keep(oldest, digest(content))

    def digested(self, place: KeyRef, value: bytes, found: bytes) -> None:
        """Keep a digest that a thread made instead of its value, if that is what was read last."""
        if self._values.get(place) is value:
            self.wrote(place, found)

    def wrote(self, place: KeyRef, found: bytes) -> None:
        """Note that a program wrote the content of this digest, and the server has it."""
        if self._enabled:
            self._drop_value(place)
            self._keep(place, found)

    def removed(self, place: KeyRef) -> None:
        """Note that the name was removed here, and the server knows it."""
        if self._enabled:
            self._drop_value(place)
            self._digests.pop(place, None)
            self._table.remove(place)

    def digest(self, place: KeyRef) -> bytes | None:
        """Return the digest of the content last seen; None when there was none; FORGOTTEN when it is not known."""
        value = self._values.get(place)
        if value is not None:
            return digest(value)
        return self._digests.get(place) or self._table.get(place)

    def _drop_value(self, place: KeyRef) -> None:
        value = self._values.pop(place, None)
        if value is not None:
            self._bytes -= len(value)

    def _keep(self, place: KeyRef, found: bytes) -> None:
        self._digests[place] = found
        self._digests.move_to_end(place)
        if len(self._digests) >= self._names + SLICE:
            some = list(islice(self._digests.items(), SLICE))
            self._table.put(some)
            for oldest, _ in some:
                del self._digests[oldest]

    def __len__(self) -> int:
        return len(self._values) + len(self._digests) + self._table.count

    def close(self) -> None:
        """Give the disk back."""
        self._table.close()

    def check_invariants(self) -> None:
        """Raise AssertionError when the counts are not those of what is held."""
        assert self._bytes == sum(map(len, self._values.values()))
        assert not self._values.keys() & self._digests.keys()


class _Table:
    """Digests of names on the disk, in a file without a name that SQLite removes. Names are hashed, with a secret."""

    def __init__(self, most: int = MOST_NAMES) -> None:
        self._most = most
        self._secret = secrets.token_bytes(16)
        self._db: sqlite3.Connection | None = None
        self._is_complete = True
        self.count = 0  # at most so many; a name that was put twice counts twice

    def _hash(self, place: KeyRef) -> bytes:
        text = "\0".join(place).encode()
        return hashlib.blake2b(text, digest_size=DIGEST_BYTES, key=self._secret).digest()

    def put(self, some: list[tuple[KeyRef, bytes]]) -> None:
        """Keep these."""
        if self.count + len(some) > self._most:
            self._lose("the table has as many names as it may")
            return
        try:
            self._opened().executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?)",
                [(self._hash(place), found) for place, found in some],
            )
            self.count += len(some)
        except sqlite3.Error as exc:
            self._lose(str(exc))

    def get(self, place: KeyRef) -> bytes | None:
        """Return the digest of a name; FORGOTTEN when it may be one of those that were lost."""
        missing = None if self._is_complete else FORGOTTEN
        if self._db is None:
            return missing
        try:
            row = self._db.execute("SELECT digest FROM seen WHERE name = ?", (self._hash(place),)).fetchone()
        except sqlite3.Error as exc:
            self._lose(str(exc))
            return FORGOTTEN
        return row[0] if row is not None else missing

    def remove(self, place: KeyRef) -> None:
        """Forget a name for good."""
        if self._db is not None:
            try:
                self._db.execute("DELETE FROM seen WHERE name = ?", (self._hash(place),))
            except sqlite3.Error as exc:
                self._lose(str(exc))

    def close(self) -> None:
        """Close the file, which goes."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = sqlite3.connect("", isolation_level=None)
            self._db.execute("PRAGMA journal_mode = OFF")
            self._db.execute("CREATE TABLE seen (name BLOB PRIMARY KEY, digest BLOB NOT NULL) WITHOUT ROWID")
        return self._db

    def _lose(self, why: str) -> None:
        if self._is_complete:
            log.warning(
                "%s: names that were read long ago are forgotten; what the server has under them is kept when they "
                "are written, beside what is written",
                why,
            )
        self._is_complete = False
