"""Binaries and large values among texts: how batches are divided, and when single gets are sent."""

import pytest
import trio
from support.caching import NS, binaries, bulks, opened_room, texts

from kvfs.core.errors import UnavailableError
from kvfs.core.model import Entry, Key

DOUBLING = 5  # requests until a window that doubles is full: binaries are among the keys


@pytest.mark.parametrize(("ending", "vain"), [("png", {}), ("GZ", {}), ("unheard", {"bulk_get": 1})])
async def test_a_directory_of_binaries_costs_one_get_each(ending: str, vain: dict[str, int]) -> None:
    """After the first binary, names with its ending are asked for singly at once.

    A usual ending is asked for singly from the first.
    """
    async with opened_room(binaries(1000, "{:06}." + ending)) as room:
        await room.listed()
        await room.walk(sorted(room.memory.entries))
        assert room.reads() == {"get": 1000, **vain}


async def test_a_text_with_the_ending_of_a_binary_comes_with_its_metadata() -> None:
    """A text with the ending of a binary is asked for by a bulk get, so that value and metadata are of one moment."""
    async with opened_room(texts(300, "{:04}.bin")) as room:
        await room.listed()
        first = sorted(room.memory.entries)[0]
        room.memory.entries[first] = Entry(b"new", b'{"new":1}', None)
        clean = await room.loader.load((NS, Key(first)), "")
        assert clean is not None
        assert (clean.value, clean.metadata) == (b"new", b'{"new":1}')
        assert room.reads() == {"get": 1, "bulk_get": 1}
        await room.walk(sorted(room.memory.entries))
        assert room.reads() == {"get": 1, "bulk_get": 1 + 3}


@pytest.mark.parametrize("ending", ["png", "unheard"])
async def test_endings_tell_binaries_from_text(ending: str) -> None:
    """In mixed directories each binary is asked for singly and the text in bulk, with few bulk gets in vain."""
    entries = {}
    for number in range(1000):
        entries |= {f"{number:04}.html": b"text", f"{number:04}.{ending}": b"\xff%d" % number}
    async with opened_room(entries) as room:
        await room.listed()
        await room.walk(sorted(entries))
        assert room.store.count("get") <= 1000 + 4
        assert room.failed_bulks() <= (0 if ending == "png" else 4)
        assert room.store.count("bulk_get") <= bulks(1000) + 2 * DOUBLING + 3


@pytest.mark.parametrize("where", [0, 1, 50, 4321, 9999])
async def test_one_binary_among_ten_thousand_texts_stays_an_exception(where: int) -> None:
    """It is found by dividing; names of its ending still come by the hundred, and later nothing fails."""
    entries = texts(10_000)
    culprit = sorted(entries)[where]
    entries[culprit] = b"\xff\xfe"
    async with opened_room(entries) as room:
        await room.listed()
        await room.walk(sorted(entries))
        assert room.failed_bulks() <= 6
        assert room.store.count("get") <= 16
        assert sum(room.reads().values()) <= bulks(10_000) + 30

        room.clock.advance(100)
        await room.listed()
        await room.walk(sorted(entries))
        assert room.failed_bulks() == 0
        assert room.reads() == {"bulk_get": room.store.count("bulk_get"), "get": 1}
        assert room.store.count("bulk_get") <= bulks(10_000) + DOUBLING


async def test_a_batch_of_an_unknown_kind_probes_before_it_divides() -> None:
    """Binaries that are met in the middle of a walk over text fail a bulk get or two, not one a half."""
    entries = texts(500, "a-{:05}.txt") | binaries(500, "b-{:05}.unheard")
    async with opened_room(entries) as room:
        await room.listed()
        await room.walk(sorted(entries))
        assert room.store.count("get") <= 502
        assert room.failed_bulks() <= 8


async def test_a_hundred_binaries_asked_for_at_once_fail_hardly_more_than_one_batch() -> None:
    """One of them is tried alone; then the others are not tried together any more."""
    async with opened_room(binaries(100)) as room:
        async with trio.open_nursery() as nursery:
            for key in room.memory.entries:
                nursery.start_soon(room.walk, [key])
        assert room.store.count("get") == 100
        assert room.failed_bulks() <= 4  # not every reader comes in time for the first batch


async def test_values_too_large_together_are_divided() -> None:
    """A hundred values of a mebibyte come in batches that fit one answer, and the walk learns the size."""
    async with opened_room(texts(100, size=1 << 20), cache=1 << 30) as room:
        await room.listed()
        async with trio.open_nursery() as nursery:  # all at once: nobody knows their size yet
            for key in room.memory.entries:
                nursery.start_soon(room.walk, [key])
        assert room.store.count("bulk_get") <= 20
        assert room.store.count("get") <= 10

        room.clock.advance(100)
        await room.listed()
        await room.walk(sorted(room.memory.entries))
        refused = [call for call in room.store.calls if len(call.keys) > 25]
        assert refused == []


async def test_a_service_that_is_back_and_refuses_a_mixed_batch_is_believed(autojump_clock) -> None:
    """After an outage, the refusal of a batch with a binary shows that the service is back: the batch is divided."""
    entries = texts(400, "{:04}") | {"0005": b"\xff"}
    async with opened_room(entries) as room:
        back = trio.current_time() + 2
        room.store.fail(
            "*", UnavailableError("503", status=503), when=lambda call: trio.current_time() < back
        )
        async with trio.open_nursery() as nursery:
            for key in sorted(entries):
                nursery.start_soon(room.loader.load, (NS, Key(key)), "")
        assert trio.current_time() < back + 2
        await room.walk(entries)
        assert room.failed_bulks() < 40
