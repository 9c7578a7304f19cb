"""The tools that plant faults: they do what they say, because other tests rely on them."""

import pytest
import trio
from support.clock import Clock
from support.faults import FaultStore, stale_store
from support.inline import open_inline

from kvfs.core.errors import DeniedError, UnavailableError
from kvfs.core.model import Entry, Key, KeyInfo, ValueRead

A, B, C = Key("a"), Key("b"), Key("c")


@pytest.fixture
def clock():
    """The clock of the stale view."""
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    """The store inside."""
    with open_inline(tmp_path / "store.db", now=clock) as store:
        yield store


@pytest.fixture
async def namespace(store):
    """A namespace in it."""
    return (await store.create_namespace("n")).id


async def keys(store, namespace) -> list[str]:
    """Return the keys of the listing."""
    return [info.key for info in (await store.list_keys(namespace)).keys]


async def test_faults_are_chosen_by_name_number_and_predicate(store, namespace):
    """A fault hits the calls chosen by name, number and predicate, and ends after so many times or when cleared.

    All calls are counted.
    """
    faults = FaultStore(store)
    faults.fail("get", DeniedError("no", code=3), on=2)
    faults.fail("put", when=lambda call: B in call.keys)

    assert await faults.get(namespace, A) is None
    with pytest.raises(DeniedError) as caught:
        await faults.get(namespace, A)
    assert caught.value.code == 3
    assert await faults.get(namespace, A) is None
    await faults.put(namespace, A, Entry(b""))
    with pytest.raises(UnavailableError):
        await faults.put(namespace, B, Entry(b""))
    faults.clear()
    await faults.put(namespace, B, Entry(b""))

    assert (faults.count("get"), faults.count("put"), faults.count()) == (3, 3, 6)
    with pytest.raises(AssertionError):
        faults.fail("gte")


async def test_a_lost_acknowledgement_is_done_all_the_same(store, namespace):
    """After a lost acknowledgement the store has the write, and the caller an error."""
    faults = FaultStore(store)
    faults.lost_ack("put", times=1)
    with pytest.raises(UnavailableError):
        await faults.put(namespace, A, Entry(b"x"))
    assert await store.get(namespace, A) == ValueRead(b"x")


async def test_a_torn_bulk_says_what_it_left(store, namespace):
    """A torn bulk write is done in part, and names the rest."""
    faults = FaultStore(store)
    faults.torn("bulk_put", on=1)
    faults.torn("bulk_delete", leave=lambda key: key == C)
    entries = {key: Entry(b"") for key in (A, B, C)}

    assert await faults.bulk_put(namespace, entries) == {B}
    assert await keys(store, namespace) == [A, C]
    assert await faults.bulk_put(namespace, entries) == frozenset()
    assert await faults.bulk_delete(namespace, [A, B, C]) == {C}
    assert await keys(store, namespace) == [C]


async def test_calls_can_be_delayed_held_and_watched(store, namespace, autojump_clock):
    """Calls are delayed, held and watched in the order in which the faults were made."""
    faults, seen = FaultStore(store), []
    faults.before("put", lambda call: seen.append(("before", call.keys, trio.current_time())))
    faults.after("put", lambda call: seen.append(("after", call.number, trio.current_time())))
    faults.delay("put", 5)
    gate = faults.block("put")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(faults.put, namespace, A, Entry(b""))
        await gate.entered.wait()
        await trio.sleep(5)
        assert await keys(store, namespace) == []
        gate.open()

    start = seen[0][2]
    assert seen == [("before", (A,), start), ("after", 1, start + 10)]


async def test_a_stale_store_answers_as_of_then(store, namespace, clock):
    """A stale store answers values, absences, metadata and lists of so many seconds ago, and catches up later."""
    stale = stale_store(store, 60, clock)
    await store.put(namespace, A, Entry(b"old", b"1"))
    await stale.bulk_put(namespace, {A: Entry(b"new", b"2"), B: Entry(b"new")})
    clock.advance(30)
    await stale.put(namespace, A, Entry(b"newest"))
    await stale.delete(namespace, B)

    assert await stale.get(namespace, A) == ValueRead(b"old")
    assert await stale.get(namespace, B) is None
    assert await stale.get_metadata(namespace, A) == b"1"
    assert (await stale.list_keys(namespace)).keys == (KeyInfo(A, b"1"),)

    clock.advance(30)
    assert await stale.bulk_get(namespace, [A, B]) == {A: Entry(b"new", b"2"), B: Entry(b"new")}
    page = await stale.list_keys(namespace, limit=1)
    assert page.keys == (KeyInfo(A, b"2"),)
    assert (await stale.list_keys(namespace, cursor=page.cursor)).keys == (KeyInfo(B),)

    clock.advance(30)
    assert await stale.bulk_get(namespace, [A, B]) == {A: Entry(b"newest"), B: None}
    assert await keys(stale, namespace) == [A]
