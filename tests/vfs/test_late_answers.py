"""Answers that were given before a change of ours arrived, and come when it has settled already."""

import pytest
import trio
from support.journals import put

from kvfs.core.model import Key


@pytest.fixture
def change(mount):
    """Change keys past the kernel, and have that sent and settled at once."""

    async def change(values):
        for key, value in values.items():
            if value is None:
                mount.journal.record_delete(mount.namespace, Key(key), base=None)
            else:
                put(mount.journal, key, value, namespace=mount.namespace, base=None)
        await mount.drain()
        assert mount.journal.statistics().settling == 0

    return change


@pytest.mark.parametrize(("name", "request_"), [("a", "bulk_get"), ("a.png", "get")])
async def test_a_value_read_before_ours_arrived_is_not_believed(mount, kernel, change, name, request_):
    """Nor that a key is still there, nor the size."""
    for key in (name, name + "2", name + "3"):
        await mount.other(key, b"\xffold")
    await kernel.listdir("ns")

    async def meanwhile(_call):
        await change({name: b"\xffours and longer", name + "2": b"ours", name + "3": None})

    mount.store.after(request_, meanwhile, times=1, when=lambda call: Key(name) in call.keys)
    assert await kernel.read(f"ns/{name}") == b"\xffours and longer"
    assert await kernel.read(f"ns/{name}2") == b"ours"
    assert (await kernel.stat(f"ns/{name}")).size == len(b"\xffours and longer")
    assert not await kernel.exists(f"ns/{name}3")


async def test_values_read_ahead_before_ours_arrived_are_not_believed(mount, kernel, change):
    """Nobody waited for them; who comes later gets what was written here."""
    for key in "abc":
        await mount.other(key, b"old")
    await kernel.listdir("ns")

    async def meanwhile(_call):
        await change({"b": b"ours", "c": None})

    mount.store.after("bulk_get", meanwhile, times=1)
    assert await kernel.read("ns/a") == b"old"
    assert await kernel.read("ns/b") == b"ours"
    assert (await kernel.stat("ns/b")).size == 4
    assert not await kernel.exists("ns/c")


async def test_a_listing_made_before_ours_arrived_is_not_believed(mount, kernel, change):
    """What was made here is in it, what was deleted is not; neither comes and goes."""
    for key in ("gone", "kept"):
        await mount.other(key, b"old")

    async def meanwhile(_call):
        await change({"made": b"ours", "gone": None})

    mount.store.after("list_keys", meanwhile, times=1)
    assert await kernel.listdir("ns") == ["kept", "made"]
    assert await kernel.read("ns/made") == b"ours"
    with trio.fail_after(1):
        assert not await kernel.exists("ns/gone")


async def test_nothing_is_remembered_of_what_settled_when_no_request_is_under_way(mount, kernel, change):
    """Else every key ever written would cost memory."""
    settled = mount.reading.listings.settled
    await mount.other("a", b"old")

    async def meanwhile(_call):
        await change({"b": b"ours"})
        assert settled._places

    mount.store.after("list_keys", meanwhile, times=1)
    assert await kernel.listdir("ns") == ["a", "b"]
    await change({"c": b"ours"})
    assert not settled._places
    assert not settled._under_way
