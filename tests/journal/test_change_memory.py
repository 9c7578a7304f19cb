"""Memory of a change that waits, beside its content: what the index, the row and its attributes take together."""

import gc
import tracemalloc

from support.journals import NS, START, open_journal

from kvfs.core.model import Key
from kvfs.journal.journal import Journal
from kvfs.kept.local import LocalAttrs

COUNT = 5_000
MOST = 600  # bytes, with a name of 20 characters


def record(journal: Journal) -> None:
    """Record changes as the file system does: each number an object of its own, equal times and digests one object."""
    for number in range(COUNT):
        body = journal.stage(b"%d" % number)
        nanoseconds = 10**18 + number
        attrs = LocalAttrs(0o644, nanoseconds, nanoseconds, None, body.digest)
        key = Key(f"directory/file{number:06}")
        journal.record_put(NS, key, body, metadata=None, expiration=None, base=b"", attrs=attrs)


def test_a_change_takes_little_memory_when_recorded_and_when_read_again(tmp_path):
    """A change that waits takes 600 bytes at most, whether it was just recorded or read from the log."""
    clock = iter(range(10**9))
    tracemalloc.start()
    try:
        with open_journal(tmp_path / "journal", now=lambda: START + next(clock)) as journal:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            record(journal)
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - before < COUNT * MOST
        del journal
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        with open_journal(tmp_path / "journal"):
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - before < COUNT * MOST
    finally:
        tracemalloc.stop()
