"""Failures of sending: the three kinds, and other trouble with a batch: nothing is lost, no server is hammered."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.journals import START, delete, full_disk, keys, put, segments_of, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import (
    BodyTooLargeError,
    DeniedError,
    NamespaceNotFoundError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    StoreError,
    UnavailableError,
)
from kvfs.core.model import ChangeState, Entry, Key, NamespaceId
from kvfs.sender.backoff import Backoff, pause
from kvfs.sender.events import EventKind, SenderState


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
def running(setting, nursery):
    """Start a sender's loop; it ends with the test."""

    def start(**options):
        sender = setting.sender(**options)
        nursery.start_soon(sender.run)
        return sender

    return start


async def test_an_hour_without_the_store_loses_nothing(autojump_clock, setting, write, running):
    """An hour without the store costs few attempts and one event, and all arrives in fewer requests than changes."""
    setting.store.fail("*", UnavailableError("no network"))
    sender = running()
    for minute in range(60):
        write(f"k{minute % 20}", str(minute).encode())
        await trio.sleep(60)
    assert sender.statistics().state is SenderState.UNAVAILABLE
    assert "no network" in sender.statistics().last_error
    assert sender.statistics().retry_at >= simulated_now()
    assert 40 < setting.store.count() < 90
    assert setting.journal.pending_count == 20

    setting.store.clear()
    before = setting.store.count("bulk_put")
    await trio.sleep(70)
    assert setting.journal.pending_count == 0
    assert setting.store.count("bulk_put") == before + 1
    assert setting.happened() == [EventKind.UNAVAILABLE, EventKind.RECOVERED]
    found = await stored(setting.backend, setting.namespace)
    assert found == {f"k{i}": Entry(str(40 + i).encode()) for i in range(20)}
    assert sender.statistics().state is SenderState.IDLE


async def test_retry_after_is_obeyed(autojump_clock, setting, write, running):
    """No request is sent before the time of Retry-After."""
    setting.store.fail("*", RateLimitedError("429", retry_after=300.0), times=1)
    running(delay=1)
    write("a")
    await trio.sleep(300)
    assert setting.store.count() == 1
    await trio.sleep(2)
    assert setting.store.count() == 2
    assert setting.journal.pending() == []


async def test_a_drain_tries_at_once_and_often(autojump_clock, setting, write, running):
    """After an hour's outage the loop waits a minute, but a drain does not wait for that back-off."""
    setting.store.fail("*")
    sender = running(delay=1)
    write("a")
    await trio.sleep(3600)
    assert sender.statistics().retry_at - simulated_now() > 0
    before = setting.store.count()
    with trio.move_on_after(20):
        await sender.drain()
    assert 5 <= setting.store.count() - before <= 9
    setting.store.clear()
    started = trio.current_time()
    await sender.drain()
    assert trio.current_time() - started < 0.1
    assert setting.journal.pending_count == 0


async def test_a_drain_does_not_make_the_loop_wait_longer(autojump_clock, setting, write, running):
    """A try of a drain that fails does not make the loop wait longer."""
    setting.store.fail("*")
    sender = running(delay=1)
    write("a")
    await trio.sleep(1.1)
    with trio.move_on_after(3):
        await sender.drain()
    assert sender.statistics().retry_at - simulated_now() < 5


async def test_the_pause_does_not_grow_while_something_gets_through(autojump_clock, setting, write, running):
    """While something gets through the pause does not grow, so one namespace that fails does not hold up the others."""
    other = await setting.backend.create_namespace("other")
    setting.store.fail("bulk_put", when=lambda call: call.args[0] == other.id)
    sender = running(delay=1)
    put(setting.journal, "stuck", namespace=other.id)
    for number in range(100):
        write(f"k{number}")
        await trio.sleep(3)
    assert sender.statistics().retry_at - simulated_now() < 3
    assert len(await stored(setting.backend, setting.namespace)) >= 98


async def test_writes_that_never_get_through_are_left_in_peace(autojump_clock, setting, write, running):
    """Writes that never get through are not tried every second, though their checks are answered."""
    setting.store.fail("bulk_put")
    running(delay=1)
    for number in range(600):
        write(f"k{number}", base=digest(b"read"))
        await trio.sleep(1)
    assert setting.store.count("bulk_put") < 30


async def test_an_expired_token_rejects_nothing(autojump_clock, setting, write, running):
    """With an expired token everything is kept, attempts are slow, and the user is told once.

    With a new one all is sent.
    """
    setting.store.fail("*", DeniedError("Authentication error", code=10000, status=403))
    sender = running()
    for number in range(5):
        write(f"k{number}")
    await trio.sleep(3600)
    assert sender.statistics().state is SenderState.DENIED
    assert setting.journal.rejected() == []
    assert setting.journal.pending_count == 5
    assert setting.store.count() < 3600 / 200
    assert setting.happened() == [EventKind.DENIED]

    setting.store.clear()
    await trio.sleep(306)
    assert setting.journal.pending_count == 0
    assert setting.happened() == [EventKind.DENIED, EventKind.RECOVERED]


async def test_a_used_up_quota_waits_for_its_reset(autojump_clock, setting, write, running):
    """A used-up quota waits for 00:00 UTC, without a request before."""
    setting.store.fail("*", QuotaError("free usage limit", code=10048), times=1)
    running()
    write("a")
    midnight = 86_400 - START % 86_400
    await trio.sleep(midnight)
    assert setting.store.count() == 1
    assert setting.happened() == [EventKind.QUOTA]
    await trio.sleep(61)
    assert setting.journal.pending() == []


@pytest.mark.parametrize("culprit", [0, 4_567, 9_999])
async def test_one_poisoned_key_in_ten_thousand(autojump_clock, setting, write, culprit):
    """A batch is halved until the poisoned key stands alone; it is set aside with its reason, and the others arrive."""
    poison = f"k{culprit}"
    refuse = RejectedError("metadata must be valid json", code=10147, status=400)
    setting.store.fail("*", refuse, when=lambda call: poison in call.keys)
    with setting.journal.transaction():
        for number in range(10_000):
            write(f"k{number}", b"x")
    sender = setting.sender()
    await sender.drain()

    assert keys(setting.journal.rejected()) == [poison]
    assert setting.journal.rejected()[0].error == "metadata must be valid json"
    assert setting.journal.value(setting.journal.rejected()[0]) == b"x"
    assert setting.journal.pending() == []
    assert setting.store.count() <= 2 * 14 + 4
    assert sender.statistics().sent == 9_999
    assert setting.happened() == [EventKind.REJECTED]


async def test_a_poisoned_deletion_is_isolated_too(autojump_clock, setting):
    """A poisoned deletion is isolated by halving too."""
    for name in "abcd":
        delete(setting.journal, name, namespace=setting.namespace)
    setting.store.fail("*", RejectedError("no"), when=lambda call: "c" in call.keys)
    await setting.sender().drain()
    assert keys(setting.journal.rejected()) == ["c"]


async def test_a_real_refusal_of_the_store_is_told_apart(autojump_clock, setting, write):
    """A refusal in the words of the embedded store, for malformed metadata, is told apart from other failures."""
    write("bad", metadata=b"{")
    write("good", metadata=b"{}")
    await setting.sender().drain()
    assert keys(setting.journal.rejected()) == ["bad"]
    assert list(await stored(setting.backend, setting.namespace)) == ["good"]


async def test_keys_the_store_wants_again_are_sent_again(autojump_clock, setting, write):
    """Keys that the store wants again under HTTP 200 are sent again, only those, and not within the second."""
    for name in "abcd":
        write(name)
    setting.store.torn("bulk_put", times=1)
    sender = setting.sender()
    await sender.send_once()
    assert keys(setting.journal.pending()) == ["b", "d"]
    assert setting.journal.pending()[0].error is not None
    await sender.drain()
    assert sorted(setting.store.calls[-1].keys) == ["b", "d"]
    assert list(await stored(setting.backend, setting.namespace)) == ["a", "b", "c", "d"]


async def test_deletions_the_store_wants_again_are_sent_again(autojump_clock, setting):
    """Deletions that the store wants again are sent again in the same way."""
    for name in "abcd":
        await setting.backend.put(setting.namespace, Key(name), Entry(b"1"))
        delete(setting.journal, name, namespace=setting.namespace)
    setting.store.torn("bulk_delete", times=1)
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {}


async def test_a_lost_answer_is_only_a_repetition(autojump_clock, setting, write):
    """A lost answer costs only a repetition, because every write may be repeated."""
    write("a")
    setting.store.lost_ack("bulk_put", times=1)
    await setting.sender().drain()
    assert setting.store.count("bulk_put") == 2
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"value")}


@pytest.mark.parametrize(
    "error", [BodyTooLargeError("413", status=413), BodyTooLargeError("524", status=524)]
)
async def test_bodies_shrink_to_what_the_server_copes_with(autojump_clock, setting, write, error):
    """The size of bodies is halved at once for a slow server, remembered, and grows again slowly while all is well."""
    most = 100
    setting.store.fail("bulk_put", error, when=lambda call: len(call.keys) > most)
    with setting.journal.transaction():
        for number in range(1_000):
            write(f"a{number}")
    sender = setting.sender(pairs=1_000)
    await sender.drain()
    assert setting.journal.pending() == []
    refused = sender.statistics().failures
    assert refused <= 20

    with setting.journal.transaction():
        for number in range(1_000):
            write(f"b{number}")
    await sender.drain()
    assert sender.statistics().failures - refused < 15
    assert setting.journal.rejected() == []

    most = 10_000
    for round_ in range(10):
        with setting.journal.transaction():
            for number in range(1_000):
                write(f"c{round_}/{number}")
        await sender.drain()
    assert sender._round.limits.pairs == 1_000


async def test_a_server_that_never_answers_is_left_in_time(autojump_clock, setting, write):
    """Without an answer a large body is tried in halves, and a single change later."""
    for name in "ab":
        write(name)
    setting.store.block("bulk_put", times=1)
    started = trio.current_time()
    await setting.sender(timeout=30).drain()
    assert trio.current_time() - started < 35
    assert list(await stored(setting.backend, setting.namespace)) == ["a", "b"]


async def test_one_change_too_large_for_a_bulk_body_goes_alone(autojump_clock, setting, write):
    """A change for which even a bulk body of one is too much goes by a single PUT."""
    write("a")
    setting.store.fail("bulk_put", BodyTooLargeError("413"))
    await setting.sender().drain()
    assert setting.operations() == ["bulk_put", "put"]
    assert setting.journal.pending() == []


async def test_a_namespace_that_vanished_keeps_its_changes(autojump_clock, setting, write, running):
    """Changes of a namespace that vanished are set aside with that reason, readable; the others go on.

    A namespace just made is given a moment.
    """
    gone = NamespaceId("f" * 32)
    running()
    put(setting.journal, "a", b"kept", namespace=gone)
    await trio.sleep(6)
    assert setting.journal.rejected() == []
    write("b")
    await trio.sleep(60)
    change = setting.journal.get(gone, Key("a"))
    assert change.state is ChangeState.REJECTED
    assert "gone" in change.error
    assert setting.journal.value(change) == b"kept"
    assert list(await stored(setting.backend, setting.namespace)) == ["b"]


async def test_an_edit_in_a_namespace_that_vanished_is_set_aside_too(autojump_clock, setting, write, running):
    """An edit in a namespace that vanished is set aside too: its comparison gets that answer, and holds up nobody."""
    gone = NamespaceId("f" * 32)
    running()
    put(setting.journal, "a", b"kept", namespace=gone, base=digest(b"read"))
    write("b")
    await trio.sleep(60)
    assert keys(setting.journal.rejected()) == ["a"]
    assert list(await stored(setting.backend, setting.namespace)) == ["b"]
    assert setting.happened().count(EventKind.REJECTED) == 1


async def test_a_namespace_unknown_for_a_moment_loses_nothing(autojump_clock, setting, write):
    """A new namespace that answers 10013 at first loses no change."""
    setting.store.fail("*", NamespaceNotFoundError("10013"), times=2)
    write("a")
    result = await setting.sender().drain()
    assert (result.sent, result.left) == (1, 0)


async def test_a_drain_that_is_denied_ends_and_says_why(autojump_clock, setting, write):
    """A drain that is denied ends with the reason and the rest, because waiting would not help."""
    write("a")
    setting.store.fail("*", DeniedError("Authentication error"))
    result = await setting.sender().drain()
    assert (result.sent, result.left, result.rejected) == (0, 1, 0)
    assert result.error == "Authentication error"


async def test_a_drain_waits_out_an_outage(autojump_clock, setting, write):
    """A drain waits out an outage as long as its caller lets it."""
    write("a")
    setting.store.fail("*", times=3)
    result = await setting.sender().drain()
    assert (result.sent, result.error) == (1, None)
    write("b")
    setting.store.fail("*")
    with trio.move_on_after(100) as patience:
        await setting.sender().drain()
    assert patience.cancelled_caught
    assert keys(setting.journal.pending()) == ["b"]


async def test_a_cancelled_request_may_have_arrived(autojump_clock, setting, write):
    """The change of a cancelled request stays pending and counts as attempted, because it may have arrived."""
    write("a", base=b"")
    gate = setting.store.block("bulk_put")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.sender().send_once)
        await gate.entered.wait()
        nursery.cancel_scope.cancel()
    change = setting.journal.get(setting.namespace, Key("a"))
    assert (change.state, change.attempted) == (ChangeState.PENDING, True)
    assert delete(setting.journal, "a", namespace=setting.namespace, base=b"") is not None


async def test_a_full_disk_does_not_stop_the_loop(autojump_clock, setting, write, running):
    """On a full disk an acknowledgement is recorded later, and the loop goes on."""
    write("a")
    sender = running()
    with full_disk(setting.journal):
        await trio.sleep(30)
        assert "journal" in sender.statistics().last_error
        assert await stored(setting.backend, setting.namespace) == {}
    await trio.sleep(70)
    assert list(await stored(setting.backend, setting.namespace)) == ["a"]
    assert setting.journal.pending() == []


async def test_a_bug_is_not_swallowed(autojump_clock, setting, write):
    """An error that is not the store's ends the loop, so that a bug is seen."""

    def breaks(call):
        raise ZeroDivisionError

    write("a")
    setting.store.before("bulk_put", breaks)
    with pytest.raises(ZeroDivisionError):
        await setting.sender().send_once()
    assert keys(setting.journal.pending()) == ["a"]


ERRORS = st.one_of(
    st.builds(UnavailableError, st.just("x"), retry_after=st.none() | st.floats(0, 10_000)),
    st.builds(DeniedError, st.just("x")),
)


@given(ERRORS, st.integers(1, 10**6))
def test_pauses_are_bounded_and_never_short(error, attempt):
    """A pause is at least what the server asked for, and at most a minute (denied: five) more."""
    seconds = pause(error, attempt)
    if isinstance(error, DeniedError):
        assert 30 <= seconds <= 305
    else:
        assert max(1, error.retry_after or 0) <= seconds <= max(61, error.retry_after or 0)


@given(st.lists(ERRORS, min_size=1, max_size=30))
def test_news_is_told_once(errors: list[StoreError]):
    """An event comes when the kind of trouble changes, and when it ends."""
    backoff = Backoff()
    told = [backoff.fail(error, monotonic=0.0) for error in errors]
    kinds = [type(error) for error in errors]
    assert [event is not None for event in told] == [
        index == 0 or kinds[index] is not kinds[index - 1] for index in range(len(kinds))
    ]
    assert backoff.succeed()
    assert not backoff.succeed()
    assert backoff.retry_at < 0


async def test_a_content_that_is_damaged_is_set_aside_and_never_sent(autojump_clock, setting, write):
    """A content for which the disk returns other bytes is set aside with the reason and never sent; the others go."""
    write("good", b"good")
    write("bad", b"as it was written")
    write("also good", b"good")
    journal = setting.journal
    (segment,) = segments_of(journal.path)
    content = segment.read_bytes()
    with segment.open("r+b") as file:
        file.seek(content.index(b"as it was written"))
        file.write(b"AS")
    await setting.sender().drain()
    assert {key: entry.value for key, entry in (await stored(setting.store, setting.namespace)).items()} == {
        "good": b"good",
        "also good": b"good",
    }
    (change,) = journal.rejected()
    assert change.key == "bad"
    assert "damaged" in (change.error or "")
    journal.discard(setting.namespace, change.key)
