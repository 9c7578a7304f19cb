"""Unreadable values: each is named and counted, and the rest is copied, unless --strict or no service."""

import json
import time
from contextlib import asynccontextmanager
from io import BytesIO

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline
from support.mounted import Api
from support.moves import dump_store, fill_store
from support.serving import ACCOUNT, TOKEN, served, served_by_process

from kvfs.cli.places import ANSWER_SECONDS, patient
from kvfs.core.errors import KvfsError, NoAnswerError, UnavailableError
from kvfs.core.kinds import Kinds
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage
from kvfs.data.backups import BackupIndex, write_changes
from kvfs.data.copier import Copier, CopyOptions
from kvfs.data.items import Item, ProblemKind
from kvfs.data.job import Job
from kvfs.data.reading import BulkValues
from kvfs.data.storeplace import StoreReader, StoreWriter
from kvfs.store.embedded.sqlite_store import open_sqlite

ENTRIES = {Key(f"k{number:03}"): Entry(b"v%d" % number) for number in range(250)}
ENTRIES |= {Key("image.png"): Entry(b"\xff\xd8")}
BAD = Key("k123")


@asynccontextmanager
async def rest(tmp_path, faults):
    """A server with faults, its store filled; our client of it, and the namespace."""
    async with open_sqlite(tmp_path / "store.sqlite", account="0123456789abcdef" * 2) as inside:
        await fill_store(inside, "shop", ENTRIES)
        [namespace] = await inside.list_namespaces()
    async with served(tmp_path, faults=faults) as server, server.open_rest() as store:
        yield server, store, namespace.id


async def read_all(store, namespace):
    """Read all entries in waves; return those that were read, and the problems."""
    values, left, loaded, problems = (
        BulkValues(store, namespace, Kinds()),
        [Item(key, key) for key in ENTRIES],
        {},
        [],
    )
    while left:
        taken = await values.take(left)
        left = taken.left
        loaded |= {one.item.key: one.entry for one in taken.loaded}
        problems += taken.problems
    return loaded, problems


@pytest.mark.parametrize("bad", [BAD, Key("image.png")])
async def test_one_value_that_cannot_be_read_stops_no_other(tmp_path, bad):
    """A value that cannot be read, alone or in a bulk get, becomes a problem with its reason, and stops no other."""
    async with rest(tmp_path, f"bad_key={bad}") as (_, store, namespace):
        loaded, problems = await read_all(store, namespace)
        assert loaded == {key: entry for key, entry in ENTRIES.items() if key != bad}
        [problem] = problems
        assert (problem.kind, problem.key) == (ProblemKind.UNREADABLE, bad)
        assert "its value cannot be read: " in problem.message
        assert "HTTP 500" in problem.message


def silent(store, is_silent):
    """Requests for which `is_silent(call)` holds have no answer, as `store/rest` tells it."""

    async def hang(call):
        seconds = 10 if len(call.keys) > 1 else ANSWER_SECONDS
        await trio.sleep(seconds)
        raise NoAnswerError(f"{call.operation}: no progress within {seconds:g} s")

    store.before("*", hang, when=is_silent)


@asynccontextmanager
async def silent_store(tmp_path, is_silent):
    """A store with such requests, seen with the patience of data commands; its namespace."""
    with open_inline(tmp_path / "store.db") as embedded:
        namespace = (await embedded.create_namespace("shop")).id
        await embedded.bulk_put(namespace, ENTRIES)
        store = FaultStore(embedded)
        silent(store, is_silent)
        yield patient(store), namespace


@pytest.mark.parametrize("bad", [BAD, Key("image.png")])
async def test_a_key_that_never_answers_is_tried_for_some_minutes(tmp_path, autojump_clock, expect_log, bad):
    """Then it is named with the reason, and all the others are there."""
    expect_log("attempt 1 of 2")
    async with silent_store(tmp_path, lambda call: bad in call.keys) as (store, namespace):
        loaded, problems = await read_all(store, namespace)
    assert loaded == {key: entry for key, entry in ENTRIES.items() if key != bad}
    [problem] = problems
    assert (problem.kind, problem.key) == (ProblemKind.UNREADABLE, bad)
    assert "no progress within 30 s" in problem.message
    assert trio.current_time() < 240


async def test_a_service_that_is_silent_for_minutes_costs_no_key(tmp_path, autojump_clock, expect_log):
    """It is waited for, and what had no answer meanwhile is asked for again."""
    expect_log("failed")
    async with silent_store(tmp_path, lambda call: trio.current_time() < 150) as (store, namespace):
        taken = await BulkValues(store, namespace, Kinds()).take([Item(key, key) for key in ENTRIES])
    assert not taken.problems
    assert taken.loaded


def test_an_export_goes_on_without_a_key_that_hangs(tmp_path, kvfs, monkeypatch, expect_log):
    """Its status says that something is missing, and what."""
    expect_log("get failed")
    monkeypatch.setattr("kvfs.cli.places.ANSWER_SECONDS", 0.3)
    with served_by_process(tmp_path, faults="stuck_key=b") as server:
        monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", server.url)
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", TOKEN)
        with Api(server) as api:
            namespace = api.result("POST", "", json={"title": "shop"})["id"]
            for key in "abc":
                api.put(namespace, key, b"x")
        said = kvfs("export", f"cloudflare:{ACCOUNT}/shop", "shop.ndjson", ok=False)
    assert said.status == 3
    assert "b: its value cannot be read" in said.text.replace("'", "")
    lines = (tmp_path / "shop.ndjson").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["a", "c"]


@pytest.mark.parametrize("path", ["/bulk/get|/values/", ""])
async def test_a_service_that_answers_nobody_is_no_fault_of_its_keys(tmp_path, path):
    """A service that answers nothing ends the copy, which can go on later, even if the service still lists."""
    async with rest(tmp_path, "") as (server, store, namespace):
        await server.set_faults({"fault": "status", "status": 503, "path": path})
        with pytest.raises((UnavailableError, BaseExceptionGroup)) as caught:
            await BulkValues(store, namespace, Kinds()).take([Item(key, key) for key in list(ENTRIES)[:20]])
        assert caught.group_contains(UnavailableError) or caught.errisinstance(UnavailableError)


@pytest.mark.parametrize("strict", [False, True])
async def test_a_copy_without_one_value(tmp_path, strict):
    """A copy without one value delivers all others and counts it; with --strict it ends there."""
    async with (
        rest(tmp_path, f"bad_key={BAD}") as (_, store, namespace),
        open_sqlite(tmp_path / "b.sqlite") as target,
    ):
        made = (await target.create_namespace("shop")).id
        with Job.open(tmp_path / "job") as job:
            copier = Copier(job, CopyOptions(strict=strict), now=time.time)
            reader = StoreReader(store, namespace, "", Kinds())
            await copier.scan(reader)
            copier.check_problems()
            if strict:
                with pytest.raises(BaseExceptionGroup) as caught:
                    await copier.move(reader, StoreWriter(target, made))
                assert caught.group_contains(KvfsError, match="k123.*--strict goes no further")
            else:
                await copier.move(reader, StoreWriter(target, made))
                assert job.problems.failures() == 1
                found = await dump_store(target, "shop")
                assert found == {key: entry for key, entry in ENTRIES.items() if key != BAD}


async def test_a_backup_takes_no_key_for_gone_while_a_row_is_no_key(tmp_path):
    """While a row of the listing is malformed a backup takes no key for deleted, because the row may be that key's."""
    with open_inline(tmp_path / "store.db") as embedded:
        namespace = (await embedded.create_namespace("shop")).id
        await embedded.bulk_put(namespace, {Key("a"): Entry(b"1"), Key("b"): Entry(b"2")})
        store, index = FaultStore(embedded), BackupIndex(tmp_path)

        async def back_up():
            index.begin()
            reader = StoreReader(store, namespace, "", Kinds())
            found = await write_changes(index, reader, BytesIO(), time.time, listing_only=True)
            index.commit("backup")
            return found.changed, found.gone, len(found.problems)

        assert await back_up() == (2, 0, 0)
        store.lie("list_keys", KeyPage((KeyInfo(Key("a"), None, None),), None, False))
        assert await back_up() == (0, 0, 1)
        store.clear()
        await embedded.delete(namespace, Key("b"))
        assert await back_up() == (0, 1, 0)
        index.close()


async def test_a_row_of_a_listing_that_is_no_key_is_named(tmp_path):
    """A malformed row of a listing is named, because the copy must not look complete without its key."""
    async with rest(tmp_path, "odd_rows") as (_, store, namespace):
        parts = [part async for part in StoreReader(store, namespace, "", Kinds()).scan("")]
        assert sum(len(part.items) for part in parts) == len(ENTRIES)
        assert [problem.message for part in parts for problem in part.problems] == [
            "the server names something that is no key"
        ]
