"""A huge directory is handed on page by page, over the caches as the mount builds them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from support.clock import Clock
from support.faults import FaultStore
from support.inline import open_inline
from support.journals import open_journal

from kvfs.cache.lister import Lister
from kvfs.cache.listings import Listings
from kvfs.cache.loader import Loader
from kvfs.cache.values import Values
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.core.names import DirRef, Naming
from kvfs.vfs.dirstream import DirStream
from kvfs.vfs.view.known import Known
from kvfs.vfs.view.overlay import Overlay


@dataclass
class Setting:
    store: FaultStore
    overlay: Overlay
    clock: Clock
    namespace: NamespaceId

    def stream(self, prefix: str) -> DirStream:
        return DirStream(self.overlay, self.namespace, DirRef(prefix, len(prefix)))

    async def names(self, prefix: str) -> list[str]:
        stream = self.stream(prefix)
        while await stream.reach(len(stream.entries)):
            pass
        return [stream.entry(index)[0] for index in range(len(stream.entries))]

    def asked(self) -> int:
        return self.store.count("list_keys")


@asynccontextmanager
async def opened(path: Path, keys: list[str], *, ttl: float = 60.0) -> AsyncIterator[Setting]:
    clock = Clock()
    with open_inline(path / "store.db", now=clock) as backend:
        namespace = (await backend.create_namespace("ns")).id
        for start in range(0, len(keys), 10_000):
            await backend.bulk_put(namespace, {Key(k): Entry(b"") for k in keys[start : start + 10_000]})
        store = FaultStore(backend)
        listings, values = Listings(ttl, clock), Values(1 << 20, ttl, clock)
        journal = open_journal(path / "journal", now=clock)
        loader = Loader(store, values, listings, clock, lambda *place: journal.get(*place) is not None)
        lister = Lister(store, listings, clock)
        known = Known(journal, listings, values, Naming("/"), clock, ttl)
        overlay = Overlay(known, lister, loader)
        try:
            yield Setting(store, overlay, clock, namespace)
        finally:
            journal.close()


async def test_the_first_entries_come_after_the_first_page(tmp_path: Path) -> None:
    """The first entries come after the first page, and each further page is asked for when a reader gets there."""
    async with opened(tmp_path, [f"f{n:05}" for n in range(5000)]) as it:
        stream = it.stream("")
        assert await stream.reach(0)
        assert it.asked() == 1
        assert await stream.reach(998)  # the next page tells if there are keys below the last one
        assert it.asked() == 1
        assert await stream.reach(1000)
        assert it.asked() == 2
        assert not await stream.reach(5000)
        assert [stream.entry(index)[0] for index in range(len(stream.entries))] == [
            f"f{n:05}" for n in range(5000)
        ]
        assert it.asked() == 5


async def test_a_directory_of_directories_is_listed_once_for_all_of_them(tmp_path: Path) -> None:
    """After the root's listing, listings of its directories cost nothing."""
    async with opened(tmp_path, [f"d{n // 100:02}/f{n % 100:02}" for n in range(3000)]) as it:
        assert await it.names("") == [f"d{n:02}" for n in range(30)]
        assert it.asked() == 3
        for number in range(30):
            assert len(await it.names(f"d{number:02}/")) == 100
        assert it.asked() == 3


async def test_a_directory_that_is_known_in_part_is_listed_to_its_end(tmp_path: Path) -> None:
    """A directory begun by one listing and ended by another has no entry twice, none missing, and an end."""
    keys = [f"a{n:04}" for n in range(500)] + [f"d/{n:04}" for n in range(4000)] + ["z"]
    async with opened(tmp_path, keys) as it:
        root = it.stream("")
        assert await root.reach(501)  # past the first keys of d/
        assert await it.names("d/") == [f"{n:04}" for n in range(4000)]
        assert it.asked() <= 6


async def test_a_slow_reader_is_never_sent_back_to_the_start(tmp_path: Path) -> None:
    """With a minute between pages a reader gets every entry once, in few requests, though its listing becomes stale."""
    async with opened(tmp_path, [f"f{n:05}" for n in range(10_000)]) as it:
        stream = it.stream("")
        for number in range(10):
            assert await stream.reach(number * 1000)
            it.clock.advance(55)
        assert not await stream.reach(10_000)
        assert len(stream.entries) == 10_000
        assert it.asked() == 10


async def test_a_reader_slower_than_a_cursor_still_gets_everything(tmp_path: Path) -> None:
    """With two minutes between pages the listing is begun again each time, and ends all the same."""
    async with opened(tmp_path, [f"f{n:05}" for n in range(5000)]) as it:
        stream = it.stream("")
        for number in range(5):
            assert await stream.reach(number * 1000)
            it.clock.advance(120)
        assert not await stream.reach(5000)
        assert len(stream.entries) == 5000
        assert it.asked() == 1 + 2 + 3 + 4 + 5


async def test_two_readers_of_one_directory_share_its_pages(tmp_path: Path) -> None:
    """The first of two readers of one directory asks for each page, and the other finds it."""
    async with opened(tmp_path, [f"f{n:05}" for n in range(5000)]) as it:
        first, second = it.stream(""), it.stream("")
        for index in range(0, 5000, 100):
            assert await first.reach(index)
            assert await second.reach(index)
        assert it.asked() == 5


async def test_an_outage_in_the_middle_goes_on_with_what_was_known(tmp_path: Path) -> None:
    """An outage in the middle of a listing shows the rest of the directory as it was listed before."""
    async with opened(tmp_path, [f"f{n:05}" for n in range(3000)]) as it:
        assert len(await it.names("")) == 3000
        it.clock.advance(100)
        stream = it.stream("")
        assert await stream.reach(0)
        it.store.fail("list_keys")
        assert not await stream.reach(3000)
        assert len(stream.entries) == 3000


async def test_every_key_of_a_directory_is_found_however_it_was_listed(tmp_path: Path) -> None:
    """Every key of a directory is found, also when the listing took longer than its answer counts as fresh."""
    async with opened(tmp_path, [f"d/{n:05}" for n in range(5000)]) as it:
        it.store.after("list_keys", lambda _: it.clock.advance(25))
        keys = await it.overlay.keys_below(it.namespace, DirRef("d/", 2), lambda: None)
        assert keys == [f"d/{n:05}" for n in range(5000)]


async def test_one_who_lags_behind_a_faster_reader_gets_every_entry(tmp_path: Path) -> None:
    """A slower reader gets every entry: it does not go on from where the listing of the faster one stopped."""
    async with opened(tmp_path, [f"f{n:05}" for n in range(6000)], ttl=30.0) as it:
        slow, fast = it.stream(""), it.stream("")
        assert await slow.reach(500)
        assert await fast.reach(3500)
        it.clock.advance(31)
        assert await slow.reach(1500)
        assert it.asked() == 4 + 2  # from the start to the second page
        assert not await slow.reach(6000)
        assert len(slow.entries) == 6000
        assert not await fast.reach(6000)
        assert it.asked() == 4 + 6


PAGES = 20
TRIP = 0.05


async def _consumed(it: Setting, entries: int = PAGES * 1000) -> float:
    """Read a directory like a tool that takes as long for a page as the store; return how long it took."""

    async def travel(_: object) -> None:
        await trio.sleep(TRIP)

    it.store.clear()
    it.store.before("list_keys", travel)
    begun, stream, index = trio.current_time(), it.stream(""), 0
    while index < entries and await stream.reach(index):
        if index % 1000 == 999:
            await trio.sleep(TRIP)
        index += 1
    return trio.current_time() - begun


async def test_the_next_page_is_on_its_way_while_one_is_consumed(tmp_path: Path, autojump_clock) -> None:
    """The next page is requested while one is read, so a walk waits for two pages only, and costs no request more."""
    async with opened(tmp_path, [f"{n:05}" for n in range(PAGES * 1000)]) as it:
        alone = await _consumed(it)
        it.overlay.known.forget(it.namespace)
        before = it.asked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.overlay.lister.run)
            together = await _consumed(it)
            nursery.cancel_scope.cancel()
        assert it.asked() - before == PAGES
        assert alone >= 2 * PAGES * TRIP
        assert together <= (PAGES + 3) * TRIP


async def test_who_looks_at_the_first_entries_only_costs_one_page(tmp_path: Path, autojump_clock) -> None:
    """`ls | head` costs one page: nothing is asked for ahead before a second page was read."""
    async with opened(tmp_path, [f"{n:05}" for n in range(5000)]) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.overlay.lister.run)
        await _consumed(it, 900)
        await trio.sleep(1)
        assert it.asked() == 1
        await _consumed(it, 1900)
        await trio.sleep(1)
        assert it.asked() == 3
        nursery.cancel_scope.cancel()


async def test_a_page_asked_for_ahead_that_fails_is_asked_for_again(tmp_path: Path, autojump_clock) -> None:
    """If a page asked for ahead fails, the reader asks again: it meets the failure itself, or does not notice."""
    async with opened(tmp_path, [f"{n:05}" for n in range(5000)]) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.overlay.lister.run)
        stream = it.stream("")
        assert await stream.reach(1500)
        it.store.fail("list_keys", times=1)
        await trio.sleep(1)
        it.clock.advance(10)  # nobody goes by the failure any more
        assert await stream.reach(4999)
        assert not await stream.reach(5000)
        nursery.cancel_scope.cancel()
