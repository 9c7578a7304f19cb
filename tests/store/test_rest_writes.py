"""Answers to writes in the client: how long it waits, what it believes, what it bills."""

import json
from contextlib import suppress

import pytest
import trio
from support.hostile import answering, failure, http

from kvfs.core import errors
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.rest.client import BULK_SECONDS, open_rest
from kvfs.store.wire import codec

NS = NamespaceId("0123456789abcdef0123456789abcdef")
KEYS = [Key("a"), Key("b"), Key("c")]
ENTRIES = {key: Entry(b"v") for key in KEYS}


def opened(server, **options):
    return open_rest(base_url=server.url, account="acc", token="token", **options)


def answer(**result) -> bytes:
    return http(json.dumps({"success": True, "result": result, "errors": []}).encode())


@pytest.mark.parametrize("timeout", [5.0, 300.0])
async def test_the_answer_of_a_bulk_write_is_awaited_two_minutes(autojump_clock, timeout):
    """The answer of a bulk write is awaited two minutes, because the server goes on writing and billing.

    A longer `--timeout` stays.
    """

    async def stall(stream):
        await trio.sleep_forever()

    async with answering(stall) as server, opened(server, timeout=timeout) as store:
        for write in (lambda: store.bulk_put(NS, ENTRIES), lambda: store.bulk_delete(NS, KEYS)):
            begun = trio.current_time()
            with pytest.raises(errors.BodyTooLargeError):
                await write()
            assert trio.current_time() - begun == pytest.approx(max(timeout, BULK_SECONDS), abs=1)
        begun = trio.current_time()
        with pytest.raises(errors.UnavailableError):
            await store.put(NS, KEYS[0], Entry(b"v"))
        assert trio.current_time() - begun == pytest.approx(timeout, abs=1)


@pytest.mark.parametrize(
    "result",
    [
        {"successful_key_count": 1, "unsuccessful_keys": []},
        {"successful_key_count": 3, "unsuccessful_keys": ["a"]},
        {"successful_key_count": 4, "unsuccessful_keys": []},
        {"successful_key_count": 2, "unsuccessful_keys": ["strange"]},
    ],
)
async def test_counts_that_do_not_add_up_confirm_nothing(result):
    """Counts that do not add up confirm nothing: the answer is believed only where it says the same of every key."""
    async with answering(answer(**result)) as server, opened(server) as store:
        with pytest.raises(errors.UncertainError):
            await store.bulk_put(NS, ENTRIES)
        with pytest.raises(errors.UncertainError):
            await store.bulk_delete(NS, KEYS)


@pytest.mark.parametrize(
    ("result", "left"),
    [
        ({"successful_key_count": 3, "unsuccessful_keys": []}, set()),
        ({"successful_key_count": 2.0, "unsuccessful_keys": ["b"]}, {"b"}),
        ({"unsuccessful_keys": ["b"]}, {"b"}),
        ({}, set()),
    ],
)
async def test_counts_that_add_up_or_are_left_out_are_believed(result, left):
    """Counts that add up, or are left out by a server that counts nothing, are believed."""
    async with answering(answer(**result)) as server, opened(server) as store:
        assert await store.bulk_put(NS, ENTRIES) == left
        assert await store.bulk_delete(NS, KEYS) == left


@pytest.mark.parametrize(
    ("planted", "billed"),
    [
        (answer(successful_key_count=2, unsuccessful_keys=["a"]), 3),
        (http(b"<html>", 524), 3),
        (failure(500, 10500), 3),
        (b"", 3),
        (failure(400, 10147), 0),
        (failure(429, 10048), 0),
        (http(b"<html>", 403), 0),
    ],
)
async def test_what_was_sent_is_billed_and_what_was_refused_is_not(planted, billed):
    """A body sent twice is billed twice, with or without an answer, and a refused one is not."""
    async with answering(planted) as server, opened(server) as store:
        for _ in range(2):
            for write in (lambda: store.bulk_put(NS, ENTRIES), lambda: store.bulk_delete(NS, KEYS)):
                with suppress(errors.StoreError):
                    await write()
        keys = store.billing.keys
        assert (keys["written"], keys["deleted"]) == (2 * billed, 2 * billed)


async def test_what_never_left_is_not_billed():
    """A request that never left, because nobody listens, is not billed."""
    async with answering(b"") as server:
        pass
    async with opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.bulk_put(NS, ENTRIES)
        assert store.billing.keys["written"] == 0


def test_a_disguised_body_holds_no_readable_value():
    """A disguised body has text as base64 too, so that a firewall finds nothing in it."""
    entries = {Key("k"): Entry(b"1 UNION SELECT"), Key("empty"): Entry(b"")}
    pairs = json.loads(b"".join(codec.encode_pairs(entries, disguised=True)))
    assert [(pair["value"], pair["base64"]) for pair in pairs] == [("MSBVTklPTiBTRUxFQ1Q=", True), ("", True)]
