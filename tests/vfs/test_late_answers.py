"""Late answers, given before a change of ours arrived and read when it has settled already."""

import threading

import pytest
import trio
from support.journals import put

from kvfs.core.model import Key
from kvfs.vfs.file import identity


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
        assert mount.journal.totals.settling_count == 0

    return change


@pytest.mark.parametrize(("name", "request_"), [("a", "bulk_get"), ("a.png", "get")])
async def test_a_value_read_before_ours_arrived_is_not_believed(mount, kernel, change, name, request_):
    """A value read before ours arrived is not believed, nor that a key is still there, nor the size."""
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
    """Values read ahead before ours arrived are not believed: a later reader gets what was written here."""
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
    """A listing made before ours arrived shows keys made here and not those deleted here, at every moment."""
    for key in ("gone", "kept"):
        await mount.other(key, b"old")

    async def meanwhile(_call):
        await change({"made": b"ours", "gone": None})

    mount.store.after("list_keys", meanwhile, times=1)
    assert await kernel.listdir("ns") == ["kept", "made"]
    assert await kernel.read("ns/made") == b"ours"
    with trio.fail_after(1):
        assert not await kernel.exists("ns/gone")


async def test_a_late_page_says_nothing_of_keys_that_are_not_in_it(mount, change):
    """A late page says nothing of keys that are not in it, because others may have deleted what settled meanwhile."""
    await mount.other("a/x", b"1")
    await mount.other("b/x", b"1")
    lister, listings = mount.reading.overlay.lister, mount.reading.listings
    gate = mount.store.block("list_keys", when=lambda call: call.kwargs.get("prefix") == "a/", times=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lister.whole, mount.namespace, "a/")
        await gate.entered.wait()
        await change({"b/k": b"ours"})
        await mount.other("b/k", None)
        await lister.whole(mount.namespace, "b/")
        gate.open()
    assert not listings.span_of(mount.namespace, "b/k").has("b/k")


async def test_a_change_that_settles_while_a_large_value_is_opened_is_seen(mount, kernel, monkeypatch):
    """A change that comes and settles while a thread digests a large value for an open is seen."""
    kernel.eager = False
    await mount.other("f", b"0" * 1_000_000)
    await kernel.read("ns/f")  # there are pages to keep or not: the next open waits for the digest
    await mount.other("f", b"o" * 1_000_000)
    mount.fs.forgetting.forget_knowledge()
    begun, go, make = threading.Event(), threading.Event(), identity.digest

    def slow(value):
        if not begun.is_set():
            begun.set()
            go.wait(5)
        return make(value)

    async def meanwhile():
        await trio.to_thread.run_sync(begun.wait, 5)
        await kernel.write("ns/f", b"ours")
        await mount.drain()
        go.set()

    monkeypatch.setattr(identity, "digest", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meanwhile)
        assert await kernel.read("ns/f") == b"ours"
    kernel.forget()


@pytest.mark.parametrize("name", ["a", "a.png"])
async def test_a_size_asked_for_during_a_refresh_is_never_zero(mount, kernel, name):
    """A size asked for during a refresh is never zero: the answer counts, though everything else was forgotten."""
    await mount.other(name, b"\xffvalue")
    await kernel.listdir("ns")
    for request in ("get", "bulk_get"):
        mount.store.after(request, lambda call: mount.fs.forgetting.forget_knowledge())
    assert (await kernel.stat(f"ns/{name}")).size == 6


async def test_nothing_is_remembered_of_what_settled_when_no_request_is_under_way(mount, kernel, change):
    """Without a request under way settled changes are forgotten, because every key ever written would cost memory."""
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
