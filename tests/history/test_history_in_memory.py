"""The history in memory: bounds, bursts that end, and when it is written."""

from pathlib import Path

import trio
from support.clock import Clock
from support.history import contents, versions

from kvfs.core.digest import digest
from kvfs.core.model import How, Key, NamespaceId
from kvfs.history import history as history_module
from kvfs.history.allowance import Bounds
from kvfs.history.bursts import QUIET
from kvfs.history.history import History
from kvfs.history.shelf import Shelf
from kvfs.history.version import BUSY, NO_ROOM, Version

NS = NamespaceId("n")
MIB = 1024 * 1024


def opened(path: Path, now: Clock, **more) -> History:
    shelf = Shelf(path / "history", Bounds(1e9, 1024 * MIB), digest)
    shelf.open(now())
    return History(shelf, now, {NS: "title"}.get, **more)


def note(history: History, key: str, value: bytes, how: How = How.WRITE, *, is_new: bool = False) -> None:
    history.note(Version(history._now(), NS, Key(key), how, size=len(value)), value, is_new=is_new)
    history.check_invariants()


def test_a_hundred_thousand_deletions_take_bounded_memory(tmp_path: Path) -> None:
    """While nothing is written 100,000 deletions stay within the bound, and later versions say why they are empty."""
    history = opened(tmp_path, Clock(), most_bytes=4 * MIB)
    value = bytes(1024)
    for number in range(100_000):
        version = Version(history._now(), NS, Key(f"{number}"), How.DELETE, size=1024)
        history.note(version, value, is_new=number % 2 == 0)
    history.check_invariants()
    assert history._bytes <= 4 * MIB
    assert history._held_bytes <= history_module.MOST_HELD_BYTES
    assert len(history._held) <= history_module.MOST_HELD
    assert len(history._bursts._of) <= 50_000
    assert {version.why for version, _ in history._queue} == {"", BUSY}
    history.close()
    assert history.statistics().versions == 100_000


async def test_a_burst_that_is_over_is_written(tmp_path: Path, autojump_clock) -> None:
    """The first version of a burst is written within two seconds, the last after ten seconds without another."""
    now = Clock()
    history = opened(tmp_path, now)

    async def passes(seconds: float) -> None:
        for _ in range(int(seconds * 4)):
            now.advance(0.25)
            await trio.sleep(0.25)
            await trio.testing.wait_all_tasks_blocked()
            async with history._turn:  # a thread that writes has its time
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.run)
        note(history, "k", b"before")
        for number in range(5):
            note(history, "k", b"%d" % number)
        await passes(3)
        assert contents(history.shelf.directory) == [("k", "write", b"before")]
        await passes(QUIET)
        found = [content for _, _, content in contents(history.shelf.directory)]
        assert found == [b"before", b"4"]
        nursery.cancel_scope.cancel()


async def test_who_looks_finds_everything(tmp_path: Path) -> None:
    """`flush` writes bursts that are not over, and nothing twice."""
    history = opened(tmp_path, Clock())
    note(history, "k", b"one")
    note(history, "k", b"two")
    for _ in range(2):
        await history.flush()
        assert [content for _, _, content in contents(history.shelf.directory)] == [b"one", b"two"]
    await history.clear()
    assert versions(history.shelf.directory) == []
    note(history, "l", b"three")
    await history.flush()
    assert [content for _, _, content in contents(history.shelf.directory)] == [b"three"]


def test_a_file_that_is_not_wanted_goes(tmp_path: Path) -> None:
    """A file handed over for a version that a later one of its burst replaced is removed."""
    history = opened(tmp_path, Clock())
    for number in range(3):
        file = history.incoming()
        file.write_bytes(b"%d" % number)
        version = Version(history._now(), NS, Key("k"), How.WRITE, size=1, digest=digest(b"%d" % number))
        history.note(version, file, is_new=False)
    assert len(list((history.shelf.directory / "incoming").iterdir())) == 2
    history.close()
    assert list((history.shelf.directory / "incoming").iterdir()) == []
    assert [content for _, _, content in contents(history.shelf.directory)] == [b"0", b"2"]


async def test_nothing_that_waits_is_lost_when_the_writer_is_cancelled(tmp_path: Path) -> None:
    """If the writer is cancelled when a mount ends, thousands of waiting versions are written at the close."""
    history = opened(tmp_path, Clock())
    for number in range(3 * history_module._BATCH):
        version = Version(history._now(), NS, Key(f"{number}"), How.DELETE, size=1)
        history.note(version, b"x", is_new=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(history.flush)
        while len(history._queue) == 3 * history_module._BATCH:  # the first of them are not with a thread yet
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    history.close()
    assert history.statistics().versions == 3 * history_module._BATCH


def test_large_files_that_wait_give_way_on_a_full_disk(tmp_path: Path) -> None:
    """On a full disk large files that wait go before anything on the shelf.

    Their versions stay and say why they have no content.
    """
    history = opened(tmp_path, Clock())
    note(history, "small", b"small")
    history.shelf.add(history._taken(), {}, history._now())
    note(history, "other", b"other")
    for number in range(3):  # the first is queued, the second dropped, the third held until its burst is over
        file = history.incoming()
        file.write_bytes(b"%d" % number)
        version = Version(history._now(), NS, Key("k"), How.WRITE, size=1, digest=digest(b"%d" % number))
        history.note(version, file, is_new=False)
        history.check_invariants()
    assert history.give_way()
    history.check_invariants()
    assert list((history.shelf.directory / "incoming").iterdir()) == []
    assert [version.key for version in versions(history.shelf.directory)] == ["small"]
    assert history.give_way()
    assert versions(history.shelf.directory) == []
    assert not history.give_way()
    history.close()
    assert [(key, found) for key, _, found in contents(history.shelf.directory)] == [
        ("other", b"other"),
        ("k", NO_ROOM),
        ("k", NO_ROOM),
    ]


def test_large_files_that_are_held_stay_within_the_bounds(tmp_path: Path) -> None:
    """Large files that wait the longest for the end of their burst are written, and trimmed like the rest."""
    shelf = Shelf(tmp_path / "history", Bounds(1e9, MIB), digest)
    shelf.open(0.0)
    history = History(shelf, Clock(), {NS: "title"}.get)
    for number in range(20):  # the second of each key is held
        value = bytes([number]) * (MIB // 4)
        file = history.incoming()
        file.write_bytes(value)
        version = Version(
            history._now(), NS, Key(f"{number // 2}"), How.WRITE, size=len(value), digest=digest(value)
        )
        history.note(version, file, is_new=False)
        history.check_invariants()
    assert sum(version.size for version, _, _ in history._held.values()) == MIB
    history.close()
    assert shelf.size <= MIB
