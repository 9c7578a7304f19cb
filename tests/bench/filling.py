"""Fill a store's file directly, past the store: a million keys in seconds, for benches that only read them."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from kvfs.store.embedded.schema import prepare

PER_DIRECTORY = 1000
_LARGE = 1 << 20  # bytes
_METADATA = b'{"kind":"sample","n":12345}'


def keys(count: int, per_directory: int = PER_DIRECTORY) -> Iterator[str]:
    """Return so many keys, a thousand to a directory, in listing order: `d0000/f000.txt` …"""
    width = max(3, len(str(per_directory - 1)))
    for number in range(count):
        yield f"d{number // per_directory:04}/f{number % per_directory:0{width}}.txt"


def fill(
    store: Path,
    account: str,
    title: str,
    count: int,
    *,
    value: bytes = b"x" * 64,
    per_directory: int = PER_DIRECTORY,
) -> None:
    """A namespace of `count` keys with that value (a large one is stored once), every tenth with metadata."""
    shared = len(value) > _LARGE
    prepare(store).close()
    db = sqlite3.connect(store)
    with db:
        db.execute(
            "INSERT INTO namespaces (account, id, title) VALUES (?, lower(hex(randomblob(16))), ?)",
            (account, title),
        )
        number = db.execute("SELECT number FROM namespaces WHERE title = ?", (title,)).fetchone()[0]
        first = db.execute("SELECT coalesce(max(id), 0) + 1 FROM contents").fetchone()[0]
        contents = ((first + n, value) for n in range(1 if shared else count))
        db.executemany("INSERT INTO contents VALUES (?, ?)", contents)
        db.executemany(
            "INSERT INTO keys VALUES (?, ?, ?, ?, ?, NULL)",
            (
                (
                    number,
                    key.encode(),
                    first + n * (not shared),
                    len(value),
                    _METADATA if n % 10 == 0 else None,
                )
                for n, key in enumerate(keys(count, per_directory))
            ),
        )
    db.close()
