"""Culprits: one bad key never stops the others, for firewalls and unknown codes, and is set aside."""

import pytest
import trio
from support.journals import delete, keys, put, stored

from kvfs.core.errors import AccountError, BlockedError, RejectedError, UnknownRefusalError
from kvfs.core.model import Entry, Key
from kvfs.sender.events import EventKind, SenderState

PAGE = BlockedError("HTTP 403 with a page", status=403, ray="8f00ba4", is_firewall=True)
UNKNOWN = UnknownRefusalError("no reason given (HTTP 400, code 19999)", code=19999, status=400)


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
def firewall(setting):
    """Plant a firewall that refuses writes of a key; with `also_base64` in any form."""

    def firewall(key, *, also_base64=False, error=PAGE):
        def stops(call):
            return key in call.keys and (also_base64 or not call.kwargs.get("disguised"))

        setting.store.fail("bulk_put", error, when=stops)
        setting.store.fail("put", error, when=stops)

    return firewall


async def test_a_firewall_stops_nobody(autojump_clock, setting, write, firewall):
    """A firewall refuses one of fifty texts: it goes again in base64, unseen by it, and all are stored."""
    firewall("k25")
    for number in range(50):
        write(f"k{number}")
    result = await setting.sender().drain()
    assert (result.sent, result.left, result.error) == (50, 0, None)
    assert len(await stored(setting.backend, setting.namespace)) == 50
    assert setting.store.count() <= 2 * 6 + 2
    assert setting.happened() == []


async def test_a_text_a_firewall_dislikes_goes_in_base64_at_once_the_next_time(
    autojump_clock, setting, write, firewall
):
    """A text that a firewall refused once is sent in base64 at once, so each later save of the file is one request."""
    firewall("a")
    sender = setting.sender()
    write("a")
    await sender.drain()
    before = setting.store.count("bulk_put")
    write("a", b"again")
    write("b")
    await sender.drain()
    assert setting.store.count("bulk_put") == before + 1


async def test_what_a_firewall_refuses_in_base64_too_is_set_aside(autojump_clock, setting, write, firewall):
    """A change refused in base64 too is set aside with the words, status and ray id for Cloudflare's support.

    The rest goes.
    """
    firewall("k7", also_base64=True)
    for number in range(20):
        write(f"k{number}")
    result = await setting.sender().drain()
    assert (result.sent, result.rejected) == (19, 1)
    (refused,) = setting.journal.rejected()
    assert refused.key == "k7"
    assert refused.error == "Cloudflare's firewall refused this content (HTTP 403, ray 8f00ba4)"
    assert setting.happened() == [EventKind.REJECTED]


async def test_the_only_change_is_set_aside_when_the_store_answers_otherwise(
    autojump_clock, setting, write, firewall
):
    """A single refused change has nothing to be compared with, so the namespace is asked for before it is set aside."""
    firewall("a", also_base64=True)
    write("a")
    await setting.sender().drain()
    assert keys(setting.journal.rejected()) == ["a"]
    assert setting.operations() == ["bulk_put", "bulk_put", "get_namespace"]


async def test_a_deletion_a_firewall_refuses_is_set_aside(autojump_clock, setting, write, firewall):
    """A deletion has no text to hide: it is set aside, and other deletions and puts go."""
    for name in "abcd":
        await setting.backend.put(setting.namespace, Key(name), Entry(b"1"))
        delete(setting.journal, name, namespace=setting.namespace)
    setting.store.fail("bulk_delete", PAGE, when=lambda call: "c" in call.keys)
    await setting.sender().drain()
    assert keys(setting.journal.rejected()) == ["c"]
    assert list(await stored(setting.backend, setting.namespace)) == ["c"]


@pytest.mark.parametrize("error", [PAGE, UNKNOWN])
async def test_a_store_that_takes_nothing_sets_nothing_aside(autojump_clock, setting, write, nursery, error):
    """If the store refuses everything, for a blocked address for instance, nothing is set aside, with few requests."""
    setting.store.fail("*", error)
    for number in range(1_000):
        write(f"k{number}")
    nursery.start_soon(setting.sender().run)
    await trio.sleep(600)
    assert setting.journal.rejected() == []
    assert setting.journal.pending_count == 1_000
    assert setting.store.count() <= 4 + 15, "one body and three witnesses, then one witness at a time"
    assert setting.happened() == [EventKind.UNAVAILABLE]
    setting.store.clear()
    await trio.sleep(70)
    assert setting.journal.pending_count == 0


async def test_a_code_nobody_knows_sets_aside_only_beside_an_accepted_write(autojump_clock, setting, write):
    """An unknown code sets a change aside only beside an accepted write to the same namespace in the same round."""
    other = await setting.backend.create_namespace("other")
    setting.store.fail("bulk_put", UNKNOWN, when=lambda call: "bad" in call.keys)
    sender = setting.sender()
    write("bad")
    put(setting.journal, "good", namespace=other.id)
    await sender.send_once()
    assert setting.journal.rejected() == []
    assert keys(setting.journal.pending()) == ["bad"]
    write("good")
    await sender.send_once()
    assert keys(setting.journal.rejected()) == ["bad"]
    assert "19999" in setting.journal.rejected()[0].error


async def test_a_known_code_for_content_needs_no_witness(autojump_clock, setting, write):
    """A known code for content, as for malformed metadata, needs no witness."""
    setting.store.fail("bulk_put", RejectedError("metadata must be valid json", code=10147, status=400))
    write("a")
    await setting.sender().drain()
    assert keys(setting.journal.rejected()) == ["a"]


async def test_a_code_of_the_account_waits_and_is_told(autojump_clock, setting, write, nursery):
    """With code 10026 of the account fifty files wait, with one request a try, and go when it is mended."""
    setting.store.fail("*", AccountError("not on this plan", code=10026, status=403))
    sender = setting.sender(delay=1)
    nursery.start_soon(sender.run)
    for number in range(50):
        write(f"k{number}")
    await trio.sleep(3_600)
    assert setting.journal.rejected() == []
    assert setting.store.count() < 20
    assert setting.happened() == [EventKind.DENIED]
    assert sender.statistics().state is SenderState.DENIED
    setting.store.clear()
    await trio.sleep(306)
    assert setting.journal.pending_count == 0


async def test_a_few_culprits_at_the_front_stop_nobody(autojump_clock, setting, write, firewall):
    """A witness from further behind in the queue shows that several culprits at its front are at fault."""
    for number in range(5):
        firewall(f"k{number}", also_base64=True)
    for number in range(200):
        write(f"k{number}")
    await setting.sender().drain()
    assert len(await stored(setting.backend, setting.namespace)) == 195
    assert {change.key for change in setting.journal.rejected()} == {f"k{number}" for number in range(5)}
