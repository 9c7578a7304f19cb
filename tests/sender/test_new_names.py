"""New names: one that another client made meanwhile is not overwritten, and a list for a thousand names tells."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.inline import open_inline
from support.journals import put, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import UnavailableError
from kvfs.core.model import Entry, Key, KeyPage
from kvfs.sender.events import EventKind, OnConflict
from kvfs.sender.newnames import Names, look_up

ON_CONFLICT = OnConflict.KEEP_BOTH  # for the fixture `setting`


@pytest.fixture
def make(setting):
    """Make new files, all with the same content."""

    def make(names, value=b"mine"):
        for name in names:
            put(setting.journal, name, value, namespace=setting.namespace, base=b"")

    return make


@pytest.fixture
def there(setting):
    """Make keys as another client."""

    async def there(names, value=b"theirs", **options):
        for name in names:
            await setting.backend.put(setting.namespace, Key(name), Entry(value, **options))

    return there


def counts(setting):
    """Return how often each operation was asked for."""
    return {name: setting.operations().count(name) for name in set(setting.operations())}


async def test_a_new_name_that_another_client_made_is_kept_twice(autojump_clock, setting, make, there):
    """Another client's version of a new name keeps the name, and both versions are kept."""
    await there(["a"])
    make(["a"])
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    assert found.pop("a") == Entry(b"theirs")
    assert [entry.value for entry in found.values()] == [b"mine"]
    assert setting.happened() == [EventKind.CONFLICT]


async def test_a_listing_with_an_odd_row_proves_no_name_to_be_free(autojump_clock, setting, make, there):
    """A listing with an odd row proves no name free, because the row may be any name, so values are asked for."""
    await there(["k005"])
    make([f"k{number:03}" for number in range(150)])
    setting.store.lie("list_keys", KeyPage((), None, False))
    await setting.sender().drain()
    setting.store.clear()
    assert (await stored(setting.backend, setting.namespace))["k005"] == Entry(b"theirs")
    assert setting.happened() == [EventKind.CONFLICT]


async def test_identical_bytes_are_no_conflict(autojump_clock, setting, make, there):
    """Identical bytes under few new names and under many are no conflict."""
    await there(["a", "k050"], b"mine")
    make(["a"])
    await setting.sender().drain()
    make([f"k{number:03}" for number in range(200)])
    await setting.sender().drain()
    assert setting.events == []


async def test_a_hundred_new_names_cost_one_bulk_get(autojump_clock, setting, make):
    """A hundred new names cost one bulk get and their write."""
    make([f"k{number:03}" for number in range(100)])
    await setting.sender().drain()
    assert counts(setting) == {"bulk_get": 1, "bulk_put": 1}


@pytest.mark.parametrize(("count", "bodies"), [(101, 1), (1_000, 1), (3_000, 2)])
async def test_many_new_names_in_a_new_directory_cost_one_list(
    autojump_clock, setting, make, there, count, bodies
):
    """Many new names in a new directory cost one list, however many keys are beside it.

    Bodies double from a thousand pairs.
    """
    await there([f"{letter}{number:03}" for letter in "az" for number in range(600)])
    make([f"new/{number:04}" for number in range(count)])
    await setting.sender().drain()
    assert counts(setting) == {"list_keys": 1, "bulk_put": bodies}


@pytest.mark.parametrize(
    ("pair", "is_quick"),
    [(0.0, True), (0.004, True), (0.02, True), (0.05, True), (0.1, False), (0.2, False), (0.3, False)],
)
async def test_a_slow_server_costs_no_more_lists(autojump_clock, setting, make, pair, is_quick):
    """A slow server costs one list for a thousand names at most; a very slow one a list and a read for each body."""
    put_all = setting.backend.bulk_put

    async def slowly(namespace, entries, **options):
        await trio.sleep(pair * len(entries))
        return await put_all(namespace, entries, **options)

    setting.backend.bulk_put = slowly
    with setting.journal.transaction():
        make([f"new/{number:05}" for number in range(10_000)])
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (10_000, 0)
    bodies = counts(setting)["bulk_put"]
    assert counts(setting)["list_keys"] <= (10 if is_quick else bodies)
    assert counts(setting).get("bulk_get", 0) <= (0 if is_quick else bodies)


async def test_a_slow_server_costs_no_more_reads(autojump_clock, setting):
    """A slow server costs one bulk get for a hundred names that were read, and no name twice."""
    with setting.journal.transaction():
        for number in range(5_000):
            put(setting.journal, f"{number:05}", namespace=setting.namespace, base=digest(b"read"))
    setting.store.delay("bulk_put", 20)
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (5_000, 0)
    assert counts(setting)["bulk_get"] == 50


async def test_what_a_list_told_is_not_believed_for_long(autojump_clock, setting, make, there):
    """A list is not believed after a body of two minutes, because another client may have made a name since."""
    setting.store.delay("bulk_put", 120, times=1)
    make([f"new/{number:04}" for number in range(200)])

    async def make_one(call):
        if setting.store.count("bulk_put") == 1:
            await there(["new/0150"])

    setting.store.before("bulk_put", make_one)
    await setting.sender(first_pairs=100).drain()
    found = await stored(setting.backend, setting.namespace)
    assert found["new/0150"] == Entry(b"theirs")
    assert len(found) == 201


async def test_of_many_new_names_those_that_are_taken_are_read(autojump_clock, setting, make, there):
    """Two taken names of 500 cost one list, one bulk get, and the names of the copies."""
    await there(["new/007", "new/400"])
    make([f"new/{number:03}" for number in range(500)])
    sender = setting.sender()
    await sender.drain()
    assert counts(setting) == {"list_keys": 1, "bulk_get": 1 + 1, "bulk_put": 2}
    assert sender.statistics().conflicts == 2
    found = await stored(setting.backend, setting.namespace)
    assert len(found) == 502
    assert found["new/007"] == found["new/400"] == Entry(b"theirs")


async def test_an_expired_key_takes_no_name(autojump_clock, setting, make, there):
    """An expired key takes no name, though the server may show it a moment longer."""
    make(["a"])
    setting.store.lie("bulk_get", {Key("a"): Entry(b"theirs", None, int(simulated_now()) - 1)}, times=1)
    await setting.sender().drain()
    assert setting.events == []


async def test_a_list_that_fails_leaves_the_names_for_the_next_round(autojump_clock, setting, make, there):
    """After a list that fails nothing is overwritten unseen, and the next round sends the names."""
    await there(["new/007"])
    make([f"new/{number:03}" for number in range(200)])
    setting.store.fail("list_keys", UnavailableError("503"), times=1)
    sender = setting.sender()
    await sender.send_once()
    assert setting.journal.pending_count == 200
    assert setting.operations() == ["list_keys"]
    await sender.drain()
    assert (await stored(setting.backend, setting.namespace))["new/007"] == Entry(b"theirs")
    assert setting.journal.pending_count == 0


async def test_overwriting_can_be_asked_for(autojump_clock, setting, make, there):
    """With `overwrite` new names are not looked for."""
    await there(["a"])
    make(["a", *(f"k{number:03}" for number in range(200))])
    await setting.sender(on_conflict=OnConflict.OVERWRITE).drain()
    assert counts(setting) == {"bulk_put": 1}


async def test_a_change_that_was_sent_before_is_compared_again(autojump_clock, setting, make, there):
    """A change that was sent before and failed is compared again, because hours may have passed since."""
    make(["a"])
    setting.store.fail("bulk_put", UnavailableError("no network"), times=1)
    sender = setting.sender()
    await sender.send_once()
    assert setting.journal.pending()[0].attempted
    await there(["a"])
    await sender.drain()
    found = await stored(setting.backend, setting.namespace)
    assert found["a"] == Entry(b"theirs")
    assert len(found) == 2


async def test_what_lists_do_not_reach_is_read(autojump_clock, setting, make, there):
    """For 200 names all over a large namespace one list answers a part, and bulk gets the rest."""
    await there([f"{number:04}x" for number in range(2_500)])
    await there(["2400"])
    make([f"{number * 12:04}" for number in range(201)])
    sender = setting.sender()
    await sender.drain()
    assert counts(setting)["list_keys"] == 1
    assert sender.statistics().conflicts == 1
    assert (await stored(setting.backend, setting.namespace))["2400"] == Entry(b"theirs")


_PARTS = st.text("ab/", min_size=1, max_size=5)


@given(st.sets(_PARTS, min_size=1, max_size=40), st.sets(_PARTS, max_size=60), st.integers(2, 9))
async def test_every_name_is_told_as_it_is(tmp_path_factory, new, old, page) -> None:
    """Every name is absent, taken, or left to be read, in pages of any size, with a bounded number of lists."""
    with open_inline(tmp_path_factory.mktemp("store") / "store.db", now=simulated_now) as store:
        namespace = (await store.create_namespace("n")).id
        for key in old:
            await store.put(namespace, Key(key), Entry(b""))
        names = Names()
        keys = [Key(key) for key in new]
        await look_up(store, namespace, keys, simulated_now(), names, page_keys=page)
    assert sorted([*names.absent, *names.taken, *names.rest]) == sorted(new)
    assert set(names.taken) <= old
    assert not set(names.absent) & old
    assert names.lists <= -(-len(new) // page)
