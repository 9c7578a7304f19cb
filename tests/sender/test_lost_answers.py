"""Lost or inconsistent answers to bulk writes: the pairs that arrived are asked for, and not paid for twice."""

import pytest
import trio
from support.journals import delete, put, stored

from kvfs.core.errors import BodyTooLargeError, UnavailableError, UncertainError
from kvfs.core.model import Entry, Key

PAGE_524 = BodyTooLargeError("HTTP 524", status=524)


@pytest.fixture
def files(setting):
    """Record so many small files in the namespace of the setting."""

    def files(count, **options):
        with setting.journal.transaction():
            for number in range(count):
                put(setting.journal, f"k{number:05}", b"%d" % number, namespace=setting.namespace, **options)

    return files


def written(setting) -> int:
    """Return the pairs in all bulk writes."""
    return sum(len(call.keys) for call in setting.store.calls if call.operation == "bulk_put")


async def test_what_a_524_left_done_is_not_sent_again(autojump_clock, setting, files):
    """A body that the server wrote in spite of a 524 is read back by the hundred, and counts as arrived."""
    setting.store.lost_ack("bulk_put", PAGE_524, when=lambda call: len(call.keys) > 1_000)
    files(4_000)
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (4_000, 0)
    assert written(setting) == 4_000
    assert setting.store.count("bulk_get") == 20
    assert len(await stored(setting.backend, setting.namespace)) == 4_000


async def test_a_server_that_writes_on_is_waited_for(autojump_clock, setting, files):
    """While more and more pairs turn up nothing is sent again."""
    namespace = setting.namespace

    async def write_on(entries):
        for key, entry in entries.items():
            await trio.sleep(0.02)
            await setting.backend.put(namespace, key, entry)

    async with trio.open_nursery() as nursery:
        setting.store.before("bulk_put", lambda call: nursery.start_soon(write_on, dict(call.args[1])))
        setting.store.fail("bulk_put", PAGE_524)
        files(1_000)
        result = await setting.sender().drain()
    assert (result.sent, result.left) == (1_000, 0)
    assert written(setting) == 1_000


async def test_what_did_not_arrive_is_sent_again_in_smaller_bodies(autojump_clock, setting, files):
    """If reading back finds nothing, after some seconds halves go, packed anew."""
    setting.store.fail("bulk_put", PAGE_524, on=1)
    files(1_000)
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (1_000, 0)
    assert [len(call.keys) for call in setting.store.calls if call.operation == "bulk_put"] == [
        1_000,
        500,
        500,
    ]
    assert setting.store.count("bulk_get") < 10
    assert trio.current_time() < 15


async def test_a_body_refused_unread_is_not_asked_for(autojump_clock, setting, files):
    """A 413 says that nothing was done, so the body is not asked for."""
    setting.store.fail("bulk_put", BodyTooLargeError("HTTP 413", status=413), on=1)
    files(1_000)
    await setting.sender().drain()
    assert setting.store.count("bulk_get") == 0
    assert setting.journal.pending_count == 0


async def test_another_value_under_the_key_does_not_count_as_arrived(autojump_clock, setting, files):
    """A pair counts as arrived only if value, metadata and expiration are those that were sent."""
    for number in range(1_000):
        await setting.backend.put(setting.namespace, Key(f"k{number:05}"), Entry(b"%d" % number, b'{"a":1}'))
    setting.store.fail("bulk_put", PAGE_524, on=1)
    files(1_000, metadata=b'{"a":2}')
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    assert {entry.metadata for entry in found.values()} == {b'{"a":2}'}
    assert written(setting) == 2_000


async def test_a_value_that_may_be_an_answer_of_the_past_does_not_count(autojump_clock, setting, files):
    """After A, B and A again were written, an A may be an old answer for B, and does not count."""
    sender = setting.sender(settle_window=90.0)
    files(200)
    await sender.drain()
    with setting.journal.transaction():
        for number in range(200):
            put(setting.journal, f"k{number:05}", b"other", namespace=setting.namespace)
    await sender.drain()
    files(200)
    setting.store.fail("bulk_put", PAGE_524, times=1)
    await sender.drain()
    assert written(setting) == 4 * 200
    assert (await stored(setting.backend, setting.namespace))["k00007"] == Entry(b"7")


@pytest.mark.parametrize("error", [UncertainError("3 of 5"), PAGE_524])
async def test_deletions_whose_answer_was_lost_are_asked_for_too(autojump_clock, setting, error):
    """Deletions whose answer was lost are asked for too, and an absent key was deleted."""
    for number in range(200):
        await setting.backend.put(setting.namespace, Key(f"k{number:03}"), Entry(b"x"))
        delete(setting.journal, f"k{number:03}", namespace=setting.namespace)
    setting.store.lost_ack("bulk_delete", error, times=1)
    result = await setting.sender().drain()
    assert (result.left, setting.store.count("bulk_delete")) == (0, 1)
    assert await stored(setting.backend, setting.namespace) == {}


async def test_an_answer_that_does_not_add_up_confirms_only_what_is_there(autojump_clock, setting, files):
    """An answer that counts one of three pairs, which was written, leads to a repetition of the two others."""
    sender = setting.sender()
    files(3)

    async def write_one(call):
        await setting.backend.put(setting.namespace, Key("k00001"), Entry(b"1"))

    setting.store.before("bulk_put", write_one, on=1)
    setting.store.fail("bulk_put", UncertainError("1 key done and 0 not, of 3"), on=1)
    await sender.send_once()
    assert [change.key for change in setting.journal.pending()] == ["k00000", "k00002"]
    await sender.drain()
    assert setting.store.calls[-1].keys == ("k00000", "k00002")
    assert len(await stored(setting.backend, setting.namespace)) == 3


async def test_a_store_that_cannot_be_asked_gets_all_of_it_again(autojump_clock, setting, files):
    """If reading back fails all pairs are sent again, because it only saves requests."""
    setting.store.lost_ack("bulk_put", PAGE_524, on=1)
    setting.store.fail("bulk_get", UnavailableError("away"))
    files(1_000)
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (1_000, 0)
    assert setting.store.count("bulk_get") == 1


async def test_a_key_left_out_of_the_answer_counts_as_unknown(autojump_clock, setting, files):
    """A key in an odd entry of a bulk get counts as unknown and is sent again, and the sender goes on."""
    setting.store.lost_ack("bulk_put", PAGE_524, on=1)
    files(200)
    sent = {Key(f"k{number:05}"): Entry(b"%d" % number) for number in range(100)}
    del sent[Key("k00007")]
    setting.store.lie("bulk_get", sent, when=lambda call: "k00007" in call.keys)
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (200, 0)
    assert written(setting) == 201
