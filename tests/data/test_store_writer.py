"""Writing to a store: bodies that fit the server, texts that a firewall refuses, and deletes, over a real server."""

import time
from contextlib import asynccontextmanager

import pytest
from support.inline import open_inline
from support.moves import dump_store, fill_store
from support.serving import served

from kvfs.core.bulksize import QUICK, BulkSize, first_pairs
from kvfs.core.kinds import Kinds
from kvfs.core.model import Entry, Key
from kvfs.data.copier import Copier, CopyOptions
from kvfs.data.items import Item, Loaded, ProblemKind
from kvfs.data.job import Job
from kvfs.data.storeplace import StoreReader, StoreWriter
from kvfs.store.embedded.sqlite_store import open_sqlite
from kvfs.store.ratelimit import Budget, Limiting


@asynccontextmanager
async def rest(tmp_path, faults):
    """A server with faults, our client of it, a namespace."""
    async with served(tmp_path, faults=faults) as server, server.open_rest() as store:
        yield server, store, (await store.create_namespace("shop")).id


async def stored(tmp_path):
    async with open_sqlite(tmp_path / "store.sqlite", account="0123456789abcdef" * 2) as store:
        return await dump_store(store, "shop")


def loaded(entries):
    return [Loaded(Item(key, key), entry) for key, entry in entries.items()]


async def test_bodies_grow_while_the_server_copes(tmp_path):
    """Bodies double from a thousand pairs, by the rule of `core/bulksize`, for copies as for mounts."""
    entries = {Key(f"k{n:05}"): Entry(b"v") for n in range(15_000)}
    async with rest(tmp_path, "") as (server, store, namespace):
        assert not await StoreWriter(store, namespace).write(loaded(entries))
        assert (await server.requests())["bulk_put"] == 4
        assert len((await stored(tmp_path)).keys()) == 15_000


async def test_a_slow_server_gets_bodies_that_it_can_write_in_time(tmp_path):
    """After a 524 for more than 300 pairs the next bodies are smaller at once, and everything arrives."""
    entries = {Key(f"k{n:05}"): Entry(b"v%d" % n) for n in range(2_400)}
    async with rest(tmp_path, "pair_cost=0.2ms:0.06s") as (_, store, namespace):
        writer = StoreWriter(store, namespace)
        assert not await writer.write(loaded(entries))
        assert writer.pairs <= 500
    assert await stored(tmp_path) == entries


async def test_what_a_firewall_dislikes_goes_as_base64(tmp_path):
    """A value that a firewall refuses arrives as base64; a key that it refuses cannot be hidden, and is named.

    Nothing else is missing.
    """
    entries = {Key(f"k{n}"): Entry(b"v") for n in range(20)}
    entries |= {Key("sql"): Entry(b"1 UNION SELECT 2"), Key("UNION SELECT"): Entry(b"v")}
    async with rest(tmp_path, "firewall") as (_, store, namespace):
        [problem] = await StoreWriter(store, namespace).write(loaded(entries))
        assert (problem.kind, problem.key) == (ProblemKind.REFUSED, "UNION SELECT")
        assert "firewall" in problem.message
    assert await stored(tmp_path) == {key: entry for key, entry in entries.items() if key != "UNION SELECT"}


async def test_what_went_as_base64_is_repeated_as_base64(tmp_path):
    """Keys that the server could not write everywhere go again in the form in which they passed the firewall."""
    entries = {Key(f"k{n}"): Entry(b"1 UNION SELECT %d" % n) for n in range(5)}
    async with rest(tmp_path, "") as (server, store, namespace):
        await server.set_faults(
            {"fault": "firewall"}, {"fault": "torn_bulk", "count": 5, "times": 1, "after": 1}
        )
        assert not await StoreWriter(store, namespace).write(loaded(entries))
    assert await stored(tmp_path) == entries


async def test_waiting_for_the_budget_says_nothing_of_the_server(tmp_path, autojump_clock):
    """The growth of bodies depends on the time the server took, and not on the wait of a request for its turn."""
    entries = {Key(f"k{n:05}"): Entry(b"v") for n in range(3_000)}
    with open_inline(tmp_path / "store.db") as embedded:
        namespace = (await embedded.create_namespace("shop")).id
        writer = StoreWriter(Limiting(embedded, Budget(1, 60.0)), namespace)
        assert not await writer.write(loaded(entries))
        assert writer.pairs == 4_000
        await writer.delete([(key, key) for key in entries])
        assert writer._deletes.pairs == 4_000


async def test_deletes_grow_and_shrink_alike(tmp_path):
    """Deletes grow and shrink like puts, and those that the server left are repeated."""
    entries = {Key(f"k{n:05}"): Entry(b"v") for n in range(7_000)}
    async with rest(tmp_path, "") as (server, store, namespace):
        await fill_store(store, "shop", entries)
        await server.set_faults({"fault": "torn_bulk", "count": 5, "times": 1})
        assert not await StoreWriter(store, namespace).delete([(key, key) for key in entries])
        assert (await server.requests())["bulk_delete"] == 3 + 1
    assert await stored(tmp_path) == {}


@pytest.mark.parametrize(
    ("seconds", "pairs"), [(None, 1_000), (0.0, 1_000), (0.02, 500), (1.0, 100), (0.001, 4_000)]
)
def test_the_first_body_takes_what_a_server_does_quickly(seconds, pairs):
    """The first body has the size that `kvfs verify` measured, within bounds.

    A thousand pairs if nothing was measured.
    """
    assert first_pairs(seconds) == pairs


def test_only_the_measure_that_was_too_much_shrinks():
    """A few large values that failed do not shrink the number of small ones."""
    size = BulkSize(1_000, body_bytes=90_000_000)
    size.shrink(10, 80_000_000)
    assert (size.pairs, size.body_bytes) == (1_000, 40_000_000)
    size.shrink(900, 100_000)
    assert (size.pairs, size.body_bytes) == (450, 40_000_000)
    assert not size.is_quick
    size.note(450, 1_000, QUICK / 2)
    assert size.is_quick
    assert size.pairs > 450


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_was_refused_counts_as_not_copied(tmp_path, arrives):
    """The keys and the bytes that a copy says it copied are those that arrived."""
    entries = {Key("UNION SELECT"): Entry(b"1234567")} | ({Key("k"): Entry(b"123")} if arrives else {})
    async with (
        rest(tmp_path, "firewall") as (_, store, namespace),
        open_sqlite(tmp_path / "a.sqlite") as source,
    ):
        await fill_store(source, "from", entries)
        [origin] = await source.list_namespaces()
        with Job.open(tmp_path / "job") as job:
            copier = Copier(job, CopyOptions(), now=time.time)
            reader = StoreReader(source, origin.id, "", Kinds())
            await copier.scan(reader)
            await copier.move(reader, StoreWriter(store, namespace))
            assert (copier.progress.written, copier.progress.size) == ((1, 3) if arrives else (0, 0))
            assert job.fact("bytes") == str(copier.progress.size)
