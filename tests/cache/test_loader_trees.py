"""Read-ahead from readdir: a walk over a tree is recognised at its first file, and nothing else is taken for a walk."""

from collections.abc import Sequence

import pytest
import trio
import trio.testing
from support.caching import NS, Room, bulks, directory_of, opened_room, texts

from kvfs.cache.scans import RECENT
from kvfs.core.model import Key
from kvfs.core.names import DirRef

PER_DIRECTORY = 50


def _tree(count: int, size: int = 8) -> dict[str, bytes]:
    """`count` files, fifty in a directory, and others before and after the tree."""
    keys = [f"tree/d{n // PER_DIRECTORY:03}/f{n:05}.txt" for n in range(count)]
    return dict.fromkeys(keys, b"x" * size) | texts(300, "other/{:04}.txt") | texts(300, "zoo/{:04}.txt")


def _entries(room: Room, directory: str) -> list[object]:
    """Return the entries that readdir finds: keys of files, names and prefixes of directories."""
    found: dict[object, None] = {}
    for key in sorted(room.memory.entries):
        if key.startswith(directory):
            name, slash, _ = key[len(directory) :].partition("/")
            prefix = f"{directory}{name}/"
            found[(name, DirRef(prefix, len(prefix))) if slash else key] = None
    return list(found)


def _scan(room: Room, *directories: str) -> None:
    """Read the entries of one directory after the other."""
    for directory in directories:
        parent = directory_of(directory[:-1]) if directory else None
        room.loader.scans.note(NS, directory, parent, _entries(room, directory))


async def _walk(room: Room, directory: str, pause: float = 0.0) -> None:
    """Read a tree as `grep -r` does: the entries of a directory, then its files."""
    _scan(room, directory)
    for entry in _entries(room, directory):
        if isinstance(entry, str):
            await room.walk([entry], pause)
        else:
            assert isinstance(entry, tuple)
            await _walk(room, entry[1].prefix, pause)


def _asked(room: Room) -> list[Key]:
    return [key for call in room.store.calls for key in call.keys]


async def _after(room: Room, keys: Sequence[str]) -> int:
    """Return how many keys were asked for once these were read."""
    await room.walk(keys)
    await trio.testing.wait_all_tasks_blocked()
    return len(_asked(room))


@pytest.mark.parametrize("count", [1, 50, 100, 130, 500, 2000, 10_000])
async def test_a_tree_costs_exactly_its_full_bulk_gets(count: int) -> None:
    """A walk over a tree of n keys costs n/100 requests, none twice, none outside the tree.

    The second walk costs nothing.
    """
    async with opened_room(_tree(count)) as room:
        await room.listed()
        await _walk(room, "tree/")
        assert room.reads() == {"bulk_get": bulks(count)}
        assert sorted(_asked(room)) == sorted(key for key in room.memory.entries if key.startswith("tree/"))
        await _walk(room, "tree/")
        assert room.reads() == {"bulk_get": bulks(count)}


async def test_a_tree_of_five_hundred_takes_two_round_trips(autojump_clock: trio.testing.MockClock) -> None:
    """A tree of five hundred files takes the first bulk get, and then all others at once while the first is read."""
    async with opened_room(_tree(500), latency=0.05) as room:
        await room.listed()
        began = trio.current_time()
        await _walk(room, "tree/")
        assert trio.current_time() - began == pytest.approx(2 * 0.05)
        assert room.reads() == {"bulk_get": 5}


async def test_a_long_tree_waits_for_nothing_after_its_start(autojump_clock: trio.testing.MockClock) -> None:
    """At 50 ms a request, five thousand keys a second are read as fast as if they were here."""
    async with opened_room(_tree(10_000), latency=0.05) as room:
        await room.listed()
        began = trio.current_time()
        await _walk(room, "tree/", pause=1 / 5000)
        assert trio.current_time() - began <= 10_000 / 5000 + 2 * 0.05


async def test_sizes_told_with_the_entries_leave_several_requests_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Under `ls -lR` the misses alone show the walk: it never asks for a file whose size readdir could tell."""
    async with opened_room(_tree(2000), latency=0.05) as room:
        await room.listed()
        began = trio.current_time()
        _scan(room, "tree/")
        for number in range(2000 // PER_DIRECTORY):
            directory = f"tree/d{number:03}/"
            _scan(room, directory)
            unknown = [k for k in _entries(room, directory) if room.values.get((NS, Key(str(k)))) is None]
            await room.walk(str(key) for key in unknown)
        assert room.reads() == {"bulk_get": 20}
        assert trio.current_time() - began <= 6 * 0.05


async def test_the_first_file_of_a_directory_takes_the_others_and_no_directory_below() -> None:
    """`ls -l` of one directory reads its own files in one request, and no file of a directory sorting between."""
    entries = texts(30, "top/{:02}.txt") | texts(500, "top/05.d/{:03}.txt") | texts(40, "top/z/{:02}.txt")
    async with opened_room(entries) as room:
        await room.listed()
        _scan(room, "top/")
        assert await _after(room, [f"top/{n:02}.txt" for n in range(30)]) == 30
        assert room.reads() == {"bulk_get": 1}


async def test_a_lone_read_before_a_directory_does_not_lead_beyond_it() -> None:
    """After a read of the last file of one directory, `ls -l` of the next directory asks for that directory only."""
    entries = texts(30, "a/{:02}.txt") | texts(30, "b/{:02}.txt") | texts(300, "c/{:03}.txt")
    async with opened_room(entries) as room:
        await room.listed()
        assert await _after(room, ["a/29.txt"]) == 1
        _scan(room, "b/")
        assert await _after(room, [f"b/{n:02}.txt" for n in range(30)]) == 31


async def test_a_large_directory_is_read_no_faster_than_its_files_in_order() -> None:
    """The first file asks for a hundred keys, and the eighth after it for two hundred more."""
    async with opened_room(texts(1000, "d/{:04}.txt")) as room:
        await room.listed()
        _scan(room, "d/")
        assert await _after(room, ["d/0000.txt"]) == 100
        assert await _after(room, [f"d/{n:04}.txt" for n in range(1, 8)]) == 100
        assert await _after(room, ["d/0008.txt"]) == 300


async def test_a_lone_read_asks_for_one_key() -> None:
    """A read asks for one key if the entries were not read, or long ago, or if the file is not the first of them."""
    async with opened_room(_tree(500)) as room:
        await room.listed()
        assert await _after(room, ["tree/d000/f00000.txt"]) == 1
        _scan(room, "tree/", "tree/d002/")
        room.clock.advance(RECENT)
        assert await _after(room, ["tree/d002/f00100.txt"]) == 2
        _scan(room, "tree/", "tree/d004/")
        assert await _after(room, ["tree/d004/f00230.txt"]) == 3


async def test_directories_visited_here_and_there_are_read_for_themselves_only() -> None:
    """A visit to directories of one file each, in no order, asks for one key a request, though each is a first file."""
    entries = {f"user/{n:04}/profile.json": b"{}" for n in range(3000)}
    async with opened_room(entries) as room:
        await room.listed()
        _scan(room, "user/")
        for number in (7, 1999, 3, 250, 100, 2500, 40):
            _scan(room, f"user/{number:04}/")
            await room.walk([f"user/{number:04}/profile.json"])
        assert len(_asked(room)) == 7


async def test_names_alone_ask_for_nothing() -> None:
    """`find` and `ls -R` read entries and ask for no value."""
    async with opened_room(_tree(500)) as room:
        await room.listed()
        _scan(room, "tree/", *(f"tree/d{n:03}/" for n in range(10)))
        await trio.testing.wait_all_tasks_blocked()
        assert room.reads() == {}


async def test_large_values_of_a_walk_come_in_as_many_requests_as_they_need() -> None:
    """Sizes are unknown at the first file: a request for too much is halved once, and later requests fit."""
    async with opened_room(_tree(60, size=1_500_000)) as room:
        await room.listed()
        await _walk(room, "tree/")
        assert room.store.count("bulk_get") <= 2 + 60 // 8 + 1
        assert room.reads().keys() == {"bulk_get"}


async def test_a_small_cache_is_not_read_past_in_a_tree() -> None:
    """With room for forty values, reading ahead never evicts what is still to be read."""
    async with opened_room(_tree(1000, size=10_000), cache=40 * 10_200) as room:
        await room.listed()
        await _walk(room, "tree/")
        again = len(_asked(room)) - len(set(_asked(room)))
        assert again <= 100  # of the first window, before anything was known of sizes
        assert room.values.statistics().bytes <= room.values.statistics().limit
