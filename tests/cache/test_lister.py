"""Lookups of names, on the embedded store: how many list requests they cost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from support.caching import MemoryStore
from support.clock import Clock
from support.faults import FaultStore
from support.inline import open_inline

from kvfs.cache.lister import Lister
from kvfs.cache.listings import Listings
from kvfs.core.errors import RejectedError, UnavailableError
from kvfs.core.model import Entry, Key, NamespaceId


@dataclass
class Setting:
    store: FaultStore
    listings: Listings
    lister: Lister
    clock: Clock
    namespace: NamespaceId

    async def look(self, directory: str, name: str) -> tuple[bool, bool, int]:
        """Return if there is such a key, if there is such a directory, and how many requests the answer cost."""
        before = self.store.count("list_keys")
        key, below = directory + name, f"{directory}{name}/"
        await self.lister.resolve(self.namespace, directory, key, below)
        assert self.lister.knows(self.namespace, key, below)
        own, inner = self.listings.span_of(self.namespace, key), self.listings.span_of(self.namespace, below)
        assert own is not None
        assert inner is not None
        is_directory = inner.first_below(below) is not None
        return own.has(key), is_directory, self.store.count("list_keys") - before

    async def requests(self, work) -> int:
        before = self.store.count("list_keys")
        await work
        return self.store.count("list_keys") - before


@asynccontextmanager
async def opened(path: Path, keys: list[str]) -> AsyncIterator[Setting]:
    clock = Clock()
    with open_inline(path / "store.db", now=clock) as backend:
        namespace = (await backend.create_namespace("ns")).id
        for start in range(0, len(keys), 10_000):
            batch = {Key(key): Entry(b"") for key in keys[start : start + 10_000]}
            await backend.bulk_put(namespace, batch)
        store = FaultStore(backend)
        listings = Listings(60.0, clock)
        yield Setting(store, listings, Lister(store, listings, clock), clock, namespace)


LARGE = [f"d{n // 500:03}/f{n % 500:03}" for n in range(44_000)]
LARGE += ["img/one", *(f"img-{n:04}" for n in range(3000))]
LARGE += ["both", "both/x", *(f"both.{n:04}" for n in range(2997))]


async def test_a_lookup_costs_at_most_two_requests_wherever_the_name_is(tmp_path: Path) -> None:
    """A lookup in 50,000 keys costs at most two requests, however many keys sort between the name and its directory."""
    async with opened(tmp_path, LARGE) as it:
        await it.look("", "d040")  # the first look finds out that the root is large
        for directory, name, key, is_directory in [
            ("", "d000", False, True),
            ("", "d087", False, True),
            ("", "missing", False, False),
            ("", "zzz", False, False),
            ("", "img", False, True),
            ("", "both", True, True),
            ("", "img-2999", True, False),
            ("", "im", False, False),
            ("d050/", "f499", True, False),
            ("d051/", "nothing", False, False),
        ]:
            found = await it.look(directory, name)
            assert found[:2] == (key, is_directory), name
            assert found[2] <= 2, name
            assert (await it.look(directory, name))[2] == 0


async def test_the_first_look_costs_at_most_two_as_well(tmp_path: Path) -> None:
    """The first lookup costs at most two requests too.

    A name with a thousand keys between itself and its directory costs a third.
    """
    for name, most in [("d087", 2), ("missing", 2), ("img-2999", 2), ("img", 3)]:
        path = tmp_path / name
        path.mkdir()
        async with opened(path, LARGE) as it:
            assert (await it.look("", name))[2] <= most, name


async def test_many_names_in_a_large_directory_cost_its_listing_once(tmp_path: Path) -> None:
    """Two thousand new names in a directory of 5,000 keys cost its pages and a few single questions."""
    async with opened(tmp_path, [f"big/{n:05}" for n in range(5000)]) as it:
        costs = [(await it.look("big/", f"{n:05}-new"))[2] for n in range(2000)]
        assert max(costs) <= 2
        assert sum(costs) <= 25


async def test_the_first_page_of_a_small_directory_answers_all_siblings(tmp_path: Path) -> None:
    """In a large namespace, one request answers every name of a directory, present or not."""
    async with opened(tmp_path, LARGE) as it:
        await it.look("d030/", "f007")
        assert it.store.count("list_keys") == 1
        for number in range(500):
            assert (await it.look("d030/", f"f{number:03}"))[2] == 0
        assert (await it.look("d030/", "nothing"))[2] == 0


async def test_askers_at_once_share_one_request(tmp_path: Path) -> None:
    """Fifty lookups of one directory, or of one name in a large one, wait for the same answer."""
    async with opened(tmp_path, LARGE) as it:
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(it.look, "d030/", f"f{number:03}")
        assert it.store.count("list_keys") == 1
        await it.look("", "d000")
        before = it.store.count("list_keys")
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(it.look, "", "d087")
        assert it.store.count("list_keys") - before == 1
        assert it.lister._locks == {}


async def test_a_whole_listing_costs_one_request_a_page(tmp_path: Path) -> None:
    """A whole listing costs one request a page, and then everything is in one span."""
    async with opened(tmp_path, LARGE) as it:
        assert await it.requests(it.lister.whole(it.namespace, "")) == 50
        span = it.listings.complete(it.namespace, "")
        assert span is not None
        assert span.keys == sorted(LARGE)
        assert await it.requests(it.lister.whole(it.namespace, "")) == 0


async def test_a_listing_goes_on_from_wherever_its_start_is_known(tmp_path: Path) -> None:
    """A directory that begins in pages of the root's listing is finished by the cursor that ended them."""
    keys = [f"a{n:04}" for n in range(500)] + [f"d/{n:04}" for n in range(4000)] + ["z"]
    async with opened(tmp_path, keys) as it:
        await it.lister.advance(it.namespace, "", "")
        for _ in range(2):  # 2,500 keys of d/ are known by the root's pages
            span = it.listings.span_of(it.namespace, "")
            assert span is not None
            await it.lister.advance(it.namespace, "", span.high or "")
        assert await it.requests(it.lister.whole(it.namespace, "d/")) == 2
        span = it.listings.complete(it.namespace, "d/")
        assert span is not None
        assert [key for key in span.keys if key.startswith("d/")] == keys[500:4500]


async def test_a_listing_whose_cursor_is_lost_is_begun_again(tmp_path: Path) -> None:
    """A span of unknown origin in the middle never makes a listing ask for its first page for ever."""
    async with opened(tmp_path, [f"{n:05}" for n in range(5000)]) as it:
        await it.lister.advance(it.namespace, "", "")
        await it.lister.advance(it.namespace, "", "00999\0")
        await it.lister.advance(it.namespace, "", "01999\0")
        it.lister._stopped.clear()
        assert await it.requests(it.lister.whole(it.namespace, "")) == 5
        span = it.listings.complete(it.namespace, "")
        assert span is not None
        assert len(span.keys) == 5000


async def test_a_cursor_that_the_store_does_not_take_any_more_costs_a_new_start(tmp_path: Path) -> None:
    """The listing is begun again, once, when the store does not take a cursor any more."""
    async with opened(tmp_path, [f"{n:05}" for n in range(2500)]) as it:
        await it.lister.advance(it.namespace, "", "")
        refused = RejectedError("invalid cursor")
        it.store.fail("list_keys", refused, when=lambda call: call.kwargs["cursor"], times=1)
        assert await it.requests(it.lister.whole(it.namespace, "")) == 4


async def test_a_refresh_after_the_ttl_asks_again(tmp_path: Path) -> None:
    """A listing older than the ttl is asked for anew, and shows the changes of other clients."""
    async with opened(tmp_path, ["a/1", "a/2", "b/1"]) as it:
        assert await it.look("a/", "3") == (False, False, 1)
        await it.store.put(it.namespace, Key("a/3"), Entry(b""))
        it.clock.advance(59)
        assert await it.look("a/", "3") == (False, False, 0)
        it.clock.advance(2)
        assert await it.look("a/", "3") == (True, False, 1)


async def test_a_walk_through_small_directories_after_the_ttl_refreshes_them_all_at_once(
    tmp_path: Path,
) -> None:
    """A namespace that fits one page is asked for as one, not directory by directory."""
    keys = [f"d{n:02}/{k}" for n in range(90) for k in range(10)]
    async with opened(tmp_path, keys) as it:
        await it.lister.whole(it.namespace, "")
        for _ in range(3):
            it.clock.advance(100)
            before = it.store.count("list_keys")
            for number in range(90):
                assert (await it.look(f"d{number:02}/", "5"))[0]
            assert it.store.count("list_keys") - before == 1
        more = {Key(f"d50/{n:05}"): Entry(b"") for n in range(2000)}  # it does not fit any more
        await it.store.bulk_put(it.namespace, more)
        it.clock.advance(100)
        for number in range(90):
            before = it.store.count("list_keys")
            assert (await it.look(f"d{number:02}/", "5"))[0]
            assert it.store.count("list_keys") - before <= 2


async def test_an_outage_leaves_stale_knowledge(tmp_path: Path) -> None:
    """After an outage, stale knowledge is there for a caller that asks for stale knowledge, and for no other."""
    async with opened(tmp_path, ["a/1"]) as it:
        await it.look("a/", "1")
        it.clock.advance(100)
        it.store.fail("list_keys")
        with pytest.raises(UnavailableError):
            await it.look("a/", "1")
        assert it.lister.knows(it.namespace, "a/1", None, stale=True)
        assert not it.lister.knows(it.namespace, "a/1", None)
        it.store.clear()
        await it.look("a/", "1")
        assert it.lister.knows(it.namespace, "a/1", None)


async def test_one_who_goes_leaves_the_listing_to_the_others(tmp_path: Path) -> None:
    """The page that a cancelled caller waited for is asked for by the next one."""
    async with opened(tmp_path, ["a/1"]) as it:
        gate = it.store.block("list_keys", on=1)
        found = []

        async def look() -> None:
            found.append(await it.look("a/", "1"))

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def go() -> None:
                with scope:
                    await it.look("a/", "1")

            nursery.start_soon(go)
            await gate.entered.wait()
            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert found[0][:2] == (True, False)
        assert it.lister._locks == {}


@pytest.mark.parametrize("ttl", [0.0, 60.0])
async def test_empty_pages_with_a_cursor_are_passed(ttl: float) -> None:
    """Only a missing cursor ends a listing; with a ttl of nothing it ends as well."""
    memory, clock = MemoryStore({f"{n:04}": b"" for n in range(2500)}), Clock()
    memory.gaps = 3
    store = FaultStore(memory)
    listings = Listings(ttl, clock)
    lister = Lister(store, listings, clock)
    await lister.whole(NamespaceId("n"), "")
    span = listings.complete(NamespaceId("n"), "")
    assert span is not None
    assert len(span.keys) == 2500
    assert store.count("list_keys") == 3 * 4


async def test_a_listing_that_is_given_up_among_empty_pages_is_taken_up_there() -> None:
    """Each asker with little patience brings it further; after `kvfs refresh` it starts anew."""
    memory, clock = MemoryStore({"a": b""}), Clock()
    memory.gaps = 10
    store = FaultStore(memory)
    listings = Listings(60.0, clock)
    lister = Lister(store, listings, clock)
    for number in range(1, 4):
        with trio.CancelScope() as scope:
            store.after("list_keys", lambda _, scope=scope: scope.cancel(), on=4 * number)
            await lister.whole(NamespaceId("n"), "")
    await lister.whole(NamespaceId("n"), "")
    assert store.count("list_keys") <= 11 + 3
    with trio.CancelScope() as scope:
        store.after("list_keys", lambda _, scope=scope: scope.cancel(), on=store.count("list_keys") + 4)
        listings.forget(NamespaceId("n"))
        await lister.whole(NamespaceId("n"), "")
    listings.forget(NamespaceId("n"))
    before = store.count("list_keys")
    await lister.whole(NamespaceId("n"), "")
    assert store.count("list_keys") - before == 11
