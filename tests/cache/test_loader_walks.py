"""Walks: how many requests they cost exactly, and that they never wait longer than they must."""

import random

import pytest
import trio
import trio.testing
from support.caching import NS, binaries, bulks, opened_room, texts

from kvfs.core.errors import (
    DeniedError,
    NamespaceNotFoundError,
    NoAnswerError,
    RejectedError,
    UnavailableError,
)
from kvfs.core.model import Entry, Key

START = 1  # the request of the first key, before anybody knows of a walk


@pytest.mark.parametrize("count", [1, 2, 10, 100, 1000, 10_000])
async def test_a_sequential_walk_costs_one_bulk_get_a_hundred_keys(count: int) -> None:
    """Reading n keys in listing order costs n/100 bulk gets and one to find out that it is a walk."""
    async with opened_room(texts(count)) as room:
        await room.listed()
        await room.walk(sorted(room.memory.entries))
        assert room.reads().keys() == {"bulk_get"}
        assert room.store.count("bulk_get") <= bulks(count) + min(START, count)
        asked = [key for call in room.store.calls for key in call.keys]
        assert len(asked) == len(set(asked)) == count

        room.store.calls.clear()
        await room.walk(sorted(room.memory.entries))
        assert room.reads() == {}


async def test_a_walk_through_many_small_directories_costs_no_more() -> None:
    """A walk through directories of three files each is one walk, in listing order, and costs no more."""
    async with opened_room(texts(3000, "dir-{:06}")) as room:
        room.memory.entries = {
            f"tree/d{n // 3:04}/f{n % 3}.txt": entry for n, entry in enumerate(room.memory.entries.values())
        }
        await room.listed()
        await room.walk(sorted(room.memory.entries))
        assert room.store.count("bulk_get") <= bulks(3000) + START + 1


async def test_one_directory_is_read_ahead_to_its_end_and_not_beyond() -> None:
    """`ls -l` of one directory asks for no key of the next one."""
    entries = texts(500, "a/{:04}.txt") | texts(500, "b/{:04}.txt")
    async with opened_room(entries) as room:
        await room.listed()
        await room.walk(key for key in sorted(entries) if key.startswith("a/"))
        assert {key[:2] for call in room.store.calls for key in call.keys} == {"a/"}
        assert room.store.count("bulk_get") <= bulks(500) + START


async def test_reading_here_and_there_asks_for_nothing_else() -> None:
    """A random reader pays for what it reads: one key a request."""
    async with opened_room(texts(10_000)) as room:
        await room.listed()
        keys = random.Random(1).sample(sorted(room.memory.entries), 100)
        await room.walk(keys)
        asked = [key for call in room.store.calls for key in call.keys]
        # Two of a hundred among ten thousand may lie close to each other by chance.
        assert len(asked) <= len(keys) + 16


async def test_two_reads_next_to_each_other_cost_a_window_and_ten_three() -> None:
    """Keys are billed: a large directory is read ahead no faster than it is read in order."""
    async with opened_room(texts(10_000)) as room:
        await room.listed()
        asked = []
        for key in sorted(room.memory.entries)[:12]:
            await room.walk([key])
            await trio.testing.wait_all_tasks_blocked()
            asked.append(sum(len(call.keys) for call in room.store.calls))
        assert asked == [1] + 8 * [101] + 3 * [301]


async def test_reads_that_only_lie_near_each_other_double_the_window() -> None:
    """A read of every third key is no walk in order: it asks for 8 keys at the second read, for 16 where those end."""
    async with opened_room(texts(10_000)) as room:
        await room.listed()
        for key in sorted(room.memory.entries)[:6:3]:
            await room.walk([key])
            await trio.testing.wait_all_tasks_blocked()
        assert [len(call.keys) for call in room.store.calls] == [1, 8]


async def test_large_values_in_order_double_the_window() -> None:
    """A reader of a second file of a hundred kilobytes does not wait for ten megabytes."""
    async with opened_room(texts(1000, size=100_000)) as room:
        await room.listed()
        await room.walk(sorted(room.memory.entries)[:2])
        assert [len(call.keys) for call in room.store.calls[:2]] == [1, 10]


async def test_binaries_in_order_double_the_window() -> None:
    """A read of two images of a large directory does not cause a hundred requests."""
    async with opened_room(binaries(1000)) as room:
        await room.listed()
        await room.walk(sorted(room.memory.entries)[:2])
        await trio.testing.wait_all_tasks_blocked()
        assert room.store.count("get") <= 9 + 16


async def test_two_walks_at_once_are_both_read_ahead() -> None:
    """Interleaved readers in one directory do not take each other's window away."""
    async with opened_room(texts(4000)) as room:
        await room.listed()
        keys = sorted(room.memory.entries)
        await room.walk(key for pair in zip(keys[:2000], keys[2000:], strict=True) for key in pair)
        assert room.store.count("bulk_get") <= bulks(4000) + 2 * START


async def test_a_walk_survives_many_readers_here_and_there() -> None:
    """A walk is still one walk when a third as many reads go elsewhere, though most of its own reads are hits."""
    entries = texts(3000, "walk/{:06}.txt") | texts(5000, "other/{:06}.txt")
    async with opened_room(entries) as room:
        await room.listed()
        others = iter(random.Random(2).sample([key for key in entries if key.startswith("other")], 1000))
        walk = [key for key in sorted(entries) if key.startswith("walk")]
        for number, key in enumerate(walk):
            await room.walk([key, next(others)] if number % 3 == 0 else [key])
        mine = [call for call in room.store.calls if call.keys[0].startswith("walk")]
        assert len(mine) <= bulks(3000) + START + 2


async def test_what_is_cached_already_leaves_no_hole_in_a_batch() -> None:
    """With every other value in the cache, the missing half comes in full batches."""
    async with opened_room(texts(4000)) as room:
        await room.listed()
        keys = sorted(room.memory.entries)
        await room.walk(keys)
        for key in keys[::2]:
            room.values.drop((NS, Key(key)))
        room.store.calls.clear()
        await room.walk(keys)
        assert room.store.count("bulk_get") <= bulks(2000) + START + 2


async def test_a_small_cache_is_not_read_past() -> None:
    """With room for forty values, reading ahead never evicts what is still to be read."""
    async with opened_room(texts(1000, size=10_000), cache=40 * 10_200) as room:
        await room.listed()
        await room.walk(sorted(room.memory.entries))
        asked = [key for call in room.store.calls for key in call.keys]
        assert len(asked) == len(set(asked)) == 1000
        assert room.values.statistics().bytes <= room.values.statistics().limit


# failures


async def test_an_error_reaches_everybody_who_waits() -> None:
    """A bulk get that fails raises in all who wait for one of its keys, an exception of its own in each."""
    async with opened_room(texts(50)) as room:
        room.store.fail("bulk_get", DeniedError("no"))
        errors = []

        async def read(key: str) -> None:
            with pytest.raises(DeniedError) as caught:
                await room.loader.load((NS, Key(key)), "")
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            for key in room.memory.entries:
                nursery.start_soon(read, key)
        assert len({id(error) for error in errors}) == 50

        room.store.clear()
        await room.walk(room.memory.entries)  # and nothing of it stays


async def test_a_dead_network_is_not_asked_for_every_half() -> None:
    """If one key gets no answer, the others are still asked for.

    If those get none either, the rest is not asked for.
    """
    async with opened_room(texts(100)) as room:
        room.store.fail("bulk_get", NoAnswerError("no progress within 10 s"))
        room.store.fail("get", NoAnswerError("no progress within 30 s"))

        async def read(key: str) -> None:
            with pytest.raises(UnavailableError):
                await room.loader.load((NS, Key(key)), "")

        async with trio.open_nursery() as nursery:
            for key in room.memory.entries:
                nursery.start_soon(read, key)
        assert sum(room.reads().values()) <= 16


async def test_what_is_read_ahead_never_fails_the_reader() -> None:
    """A neighbour that the store rejects fails the batch, but the key that a reader asked for arrives all the same."""
    async with opened_room(texts(100)) as room:
        await room.listed()
        poisoned = sorted(room.memory.entries)[5]
        room.store.fail("bulk_get", RejectedError("bad key"), when=lambda call: poisoned in call.keys)
        room.store.fail("get", RejectedError("bad key"), when=lambda call: call.keys == (poisoned,))
        await room.walk(sorted(room.memory.entries)[:5])
        with pytest.raises(RejectedError):
            await room.walk([poisoned])


async def test_a_vanished_namespace_is_told() -> None:
    """The namespace that is gone fails the load, and only that."""
    async with opened_room(texts(3)) as room:
        room.store.fail("*", NamespaceNotFoundError("gone"), times=1)
        with pytest.raises(NamespaceNotFoundError):
            await room.walk(["file-000000.txt"])
        await room.walk(["file-000000.txt"])


async def test_one_who_goes_does_not_take_the_value_from_the_others() -> None:
    """A cancelled waiter leaves the request to those who still wait, and to the cache."""
    async with opened_room(texts(1)) as room:
        gate = room.store.block("bulk_get")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.walk, ["file-000000.txt"])
            await gate.entered.wait()
            with trio.move_on_after(0):
                await room.walk(["file-000000.txt"])
            gate.open()
        assert room.store.count("bulk_get") == 1
        assert room.values.get((NS, Key("file-000000.txt"))) is not None


async def test_the_end_of_the_loader_is_no_missing_key() -> None:
    """A caller waiting when the loader ends learns that the store is out of reach, and not that the key is absent."""
    seen = []
    async with opened_room(texts(300)) as room:
        await room.listed()
        room.store.block("bulk_get")

        async def read(key: str) -> None:
            with trio.CancelScope(shield=True), pytest.raises(UnavailableError):
                await room.loader.load((NS, Key(key)), "")
            seen.append(key)

        async with trio.open_nursery() as readers:
            for key in room.memory.entries:
                readers.start_soon(read, key)
            await trio.testing.wait_all_tasks_blocked()
            room.stop()
    assert len(seen) == 300


async def test_a_key_written_meanwhile_is_not_overwritten_by_an_older_answer() -> None:
    """An answer of the store for a key that was written here since goes to its waiter only, and not into the cache."""
    place = (NS, Key("file-000000.txt"))
    for answer in (b"old", None):
        async with opened_room(texts(1)) as room:
            await room.listed()
            gate = room.store.block("bulk_get")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(room.loader.load, place, "")
                await gate.entered.wait()
                room.shadowed.add(place[1])
                newer = room.clean(b"newer")
                room.values.put(place, newer)
                if answer is None:
                    del room.memory.entries[place[1]]
                gate.open()
            assert room.values.get(place) is newer
            span = room.listings.span_of(NS, place[1])
            assert span is not None
            assert span.has(place[1])


async def test_a_missing_key_leaves_the_caches() -> None:
    """A key that was listed and is gone is None, and is not listed any more."""
    async with opened_room(texts(2)) as room:
        await room.listed()
        del room.memory.entries["file-000000.txt"]
        assert await room.loader.load((NS, Key("file-000000.txt")), "") is None
        span = room.listings.span_of(NS, "file-000000.txt")
        assert span is not None
        assert not span.has("file-000000.txt")


async def test_a_single_value_gets_its_metadata() -> None:
    """A single value gets its metadata from the listing when that knows the key, else by a request of its own."""
    async with opened_room({"a.png": b"\xff"}) as room:
        room.memory.entries["a.png"] = Entry(b"\xff", b'{"a":1}', 2_000_000_000)
        clean = await room.loader.load((NS, Key("a.png")), "")
        assert clean is not None
        assert (clean.metadata, clean.expiration) == (b'{"a":1}', 2_000_000_000)
        assert room.reads() == {"get": 1, "get_metadata": 1}
        room.values.drop((NS, Key("a.png")))
        await room.listed()
        clean = await room.loader.load((NS, Key("a.png")), "")
        assert clean is not None
        assert clean.metadata == b'{"a":1}'
        assert room.reads() == {"get": 1}


# waiting


async def test_reading_ahead_hides_the_round_trips(autojump_clock: trio.testing.MockClock) -> None:
    """At 50 ms a request, 2,000 keys a second are read as fast as if they were here, but for the start."""
    async with opened_room(texts(10_000), latency=0.05) as room:
        await room.listed()
        began = trio.current_time()
        await room.walk(sorted(room.memory.entries), pause=1 / 2000)
        assert trio.current_time() - began <= 10_000 / 2000 + 3 * 0.05


async def test_who_waits_goes_before_what_is_read_ahead(autojump_clock: trio.testing.MockClock) -> None:
    """A reader elsewhere waits one round trip, though hundreds of binaries are being read ahead."""
    entries = binaries(1000, "a/{:05}.png") | texts(10, "b/{}.txt")
    async with opened_room(entries, latency=0.05) as room:
        await room.listed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(room.walk, [key for key in sorted(entries) if key.startswith("a/")])
            await trio.sleep(1)
            for number in range(10):
                began = trio.current_time()
                await room.walk([f"b/{number}.txt"])
                assert trio.current_time() - began <= 0.11
            nursery.cancel_scope.cancel()
