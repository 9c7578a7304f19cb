"""The namespaces at the root: known for a while, served on in an outage, changed at once."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing
from support.clock import Clock
from support.faults import FaultStore
from support.inline import open_inline

from kvfs.cache.namespace_table import NamespaceTable
from kvfs.cache.patience import StalePatience
from kvfs.core.errors import DeniedError, TitleExistsError, UnavailableError, UnreachableError
from kvfs.core.model import Entry, Key
from kvfs.store.breaker import Breaker, Breaking


@dataclass
class Setting:
    store: FaultStore
    table: NamespaceTable
    clock: Clock

    async def names(self) -> list[str]:
        return sorted(await self.table.names())

    def asked(self) -> int:
        return self.store.count("list_namespaces")


@asynccontextmanager
async def opened(path: Path, *titles: str, ttl: float = 60.0) -> AsyncIterator[Setting]:
    clock = Clock()
    with open_inline(path / "store.db", now=clock) as backend:
        for title in titles:
            await backend.create_namespace(title)
        store = FaultStore(backend)
        yield Setting(store, NamespaceTable(Breaking(store, Breaker()), ttl, clock), clock)


async def test_the_list_is_asked_for_once_in_a_while(tmp_path: Path) -> None:
    """The list of namespaces costs no request within the ttl, and one after it, shared by all who ask at once."""
    async with opened(tmp_path, "a") as it:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(it.names)
        assert it.asked() == 1
        await it.store.create_namespace("b")
        assert await it.names() == ["a"]
        it.clock.advance(61)
        assert await it.names() == ["a", "b"]
        assert it.asked() == 2


async def test_a_name_that_was_absent_is_asked_for_while_the_others_are_served_stale(
    tmp_path: Path, autojump_clock
) -> None:
    """An absent name is asked for, as another client may have made it; a known one is shown without a request."""
    async with opened(tmp_path, "a") as it, trio.open_nursery() as nursery:
        it.table.patience = StalePatience(30)
        nursery.start_soon(it.table.patience.background.serve)
        await trio.testing.wait_all_tasks_blocked()
        assert await it.names() == ["a"]
        await it.store.create_namespace("b")
        it.clock.advance(61)
        with pytest.raises(UnavailableError):
            await it.table.patience.ask(trio.sleep_forever)
        assert await it.table.named("a") is not None
        assert (await it.names(), it.asked()) == (["a"], 1)
        found = await it.table.named("b")
        assert found is not None
        assert (found.title, it.asked()) == ("b", 2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [UnreachableError("down"), DeniedError("no")])
async def test_an_outage_serves_what_was_known(tmp_path: Path, autojump_clock, error) -> None:
    """An outage serves the namespaces known before, also after `kvfs refresh`.

    The breaker lets nobody wait at every look.
    """
    async with opened(tmp_path, "a") as it:
        it.store.fail("list_namespaces", error, times=1)
        with pytest.raises(type(error)):
            await it.names()
        await trio.sleep(6)
        await it.names()
        it.store.fail("list_namespaces", error)
        for forget in (False, True):
            it.clock.advance(61)
            await trio.sleep(61)
            if forget:
                it.table.forget()
            before = it.asked()
            assert await it.names() == ["a"]
            assert await it.names() == ["a"]
            assert it.asked() - before <= (2 if isinstance(error, DeniedError) else 1)
        it.store.clear()
        await it.store.create_namespace("b")
        await trio.sleep(6)
        assert await it.names() == ["a", "b"]


async def test_our_changes_are_known_at_once_and_are_no_news_of_the_others(tmp_path: Path) -> None:
    """Creating, renaming and deleting do not make an old list fresh, nor an unknown one known."""
    async with opened(tmp_path, "a") as it:
        created = await it.table.create("b")
        assert await it.names() == ["a", "b"]
        it.clock.advance(59)
        await it.store.create_namespace("c")
        await it.table.rename(created.id, "renamed")
        assert await it.names() == ["a", "renamed"]
        assert it.table.name_of(created.id) == "renamed"
        it.clock.advance(2)
        assert await it.names() == ["a", "c", "renamed"]
        assert await it.table.delete_empty(created.id, lambda _: False)
        assert await it.names() == ["a", "c"]
        assert it.table.get(created.id) is None
        assert it.asked() == 2


async def test_a_list_from_before_a_change_of_ours_does_not_undo_it(tmp_path: Path) -> None:
    """A list that was asked for before a namespace was made here does not hide the namespace.

    A later list is the truth.
    """
    async with opened(tmp_path, "a") as it:
        entered, go = trio.Event(), trio.Event()

        async def hold(_) -> None:
            entered.set()
            await go.wait()

        it.store.after("list_namespaces", hold, on=1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.names)
            await entered.wait()
            created = await it.table.create("b")
            go.set()
        assert await it.names() == ["a", "b"]
        it.clock.advance(61)
        await it.store.delete_namespace(created.id)
        assert await it.names() == ["a"]


async def test_a_title_that_exists_changes_nothing(tmp_path: Path) -> None:
    """The store refuses a title that exists, and the table stays as it was."""
    async with opened(tmp_path, "a", "b") as it:
        names = await it.table.names()
        with pytest.raises(TitleExistsError):
            await it.table.create("a")
        with pytest.raises(TitleExistsError):
            await it.table.rename(names["a"].id, "b")
        assert await it.names() == ["a", "b"]


async def test_only_what_the_store_calls_empty_is_deleted(tmp_path: Path) -> None:
    """A namespace is deleted only if the store has no key in it.

    A single key that this mount did not delete keeps it, also on the last page.
    """
    async with opened(tmp_path, "ns") as it:
        namespace = (await it.table.names())["ns"].id
        keys = {Key(f"{n:05}"): Entry(b"") for n in range(2001)}
        await it.store.bulk_put(namespace, keys)
        assert not await it.table.delete_empty(namespace, lambda key: key != "02000")
        assert await it.names() == ["ns"]
        assert await it.table.delete_empty(namespace, lambda _: True)
        assert await it.names() == []
        assert await it.store.list_namespaces() == []
        assert await it.table.delete_empty(namespace, lambda _: False), "somebody else was quicker"
