"""Differences of two places: keys, metadata and expirations by listings alone, values where asked.

Both listings lie in a table on the disk, so that they may be large and in any order.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final, Literal

from msgspec import Struct

from kvfs.core.digest import digest
from kvfs.core.expiry import is_expired
from kvfs.core.model import Key, Metadata
from kvfs.data.items import Item, Loaded, Problem
from kvfs.data.place import TAKE_ITEMS, Reader, read_all
from kvfs.data.selection import Selection
from kvfs.store.wire.json import MalformedError, compact

SideName = Literal["a", "b"]

_TABLE: Final = """CREATE TABLE {side} (seq INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, origin TEXT,
                   metadata BLOB, expiration INTEGER, size INTEGER, modified REAL, digest BLOB)"""
_DIFFERENT: Final = """
    SELECT a.key AS key, 'both', a.metadata, b.metadata, a.expiration, b.expiration, a.digest, b.digest
    FROM a JOIN b ON a.key = b.key
    WHERE a.metadata IS NOT b.metadata OR a.expiration IS NOT b.expiration OR a.digest IS NOT b.digest
    UNION ALL SELECT key, 'a', 0, 0, 0, 0, 0, 0 FROM a WHERE key NOT IN (SELECT key FROM b)
    UNION ALL SELECT key, 'b', 0, 0, 0, 0, 0, 0 FROM b WHERE key NOT IN (SELECT key FROM a)
    ORDER BY 1"""
_BOTH: Final = """
    SELECT {side}.key, {side}.origin, {side}.metadata, {side}.expiration, {side}.size, {side}.modified, {side}.seq
    FROM {side} JOIN {other} ON {side}.key = {other}.key
    WHERE {side}.seq > ? ORDER BY {side}.seq LIMIT ?"""


class Difference(Struct, frozen=True):
    """One key that differs: `only` is "a" or "b" where the other has none, else the fields that differ are true."""

    key: Key
    only: str = ""
    value: bool = False
    metadata: bool = False
    expiration: bool = False


class Comparison:
    """Two places, A and B, as far as they were read."""

    def __init__(self, choice_a: Selection, choice_b: Selection, now: float) -> None:
        self._choices = {"a": choice_a, "b": choice_b}
        self._now = now
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for side in ("a", "b"):
            self._db.execute(_TABLE.format(side=side))
        self.problems: list[Problem] = []

    def close(self) -> None:
        """Forget both."""
        self._db.close()

    async def scan(self, side: SideName, reader: Reader) -> None:
        """Read the keys of one side. The later one counts if a key occurs twice."""
        async with aclosing(reader.scan("")) as parts:
            async for part in parts:
                self.problems += part.problems
                rows = [self._row(side, item) for item in part.items if self._is_chosen(side, item)]
                self._db.execute("BEGIN")
                self._db.executemany(
                    f"""INSERT OR REPLACE INTO {side} (key, origin, metadata, expiration, size, modified)
                        VALUES (?, ?, ?, ?, ?, ?)""",
                    rows,
                )
                self._db.execute("COMMIT")

    def _is_chosen(self, side: SideName, item: Item) -> bool:
        return self._choices[side].chosen(item.key, item.metadata) and not is_expired(
            item.expiration, self._now
        )

    def _row(self, side: SideName, item: Item) -> tuple[object, ...]:
        key = self._choices[side].moved(item.key).encode(errors="surrogatepass")
        return key, item.origin, _plain(item.metadata), item.expiration, item.size, item.modified

    async def read_values(self, side: SideName, reader: Reader) -> None:
        """Read the values of one side that the other side has too, and keep what tells them apart."""
        other = "b" if side == "a" else "a"
        after = 0
        while rows := self._db.execute(_BOTH.format(side=side, other=other), (after, TAKE_ITEMS)).fetchall():
            after = rows[-1][-1]
            items = [Item(Key(row[0].decode(errors="surrogatepass")), *row[1:]) for row in rows]
            self.problems += await read_all(reader.take, items, partial(self._keep_digests, side))

    def _keep_digests(self, side: SideName, loaded: Sequence[Loaded]) -> None:
        digests = [(digest(one.entry.value), one.item.seq) for one in loaded]
        self._db.execute("BEGIN")
        self._db.executemany(f"UPDATE {side} SET digest = ? WHERE seq = ?", digests)
        self._db.execute("COMMIT")

    def differences(self) -> Iterator[Difference]:
        """Yield all differences, in the order of keys."""
        for key, where, *found in self._db.execute(_DIFFERENT):
            name = Key(key.decode(errors="surrogatepass"))
            if where != "both":
                yield Difference(name, where)
                continue
            metadata_a, metadata_b, expiration_a, expiration_b, digest_a, digest_b = found
            yield Difference(
                name,
                "",
                value=digest_a != digest_b,
                metadata=metadata_a != metadata_b,
                expiration=expiration_a != expiration_b,
            )


def _plain(metadata: Metadata | None) -> Metadata | None:
    """Return metadata without space between its parts, because layout is no difference."""
    if metadata is None:
        return None
    with suppress(MalformedError):
        return compact(metadata)
    return metadata
