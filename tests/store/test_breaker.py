"""The breaker: when an outage begins and ends, and which calls wait in one."""

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline

from kvfs.core.errors import (
    BodyTooLargeError,
    NoAnswerError,
    NotSentError,
    OutOfTimeError,
    RateLimitedError,
    RejectedError,
    UnavailableError,
    UnreachableError,
)
from kvfs.core.model import Entry, Key
from kvfs.store.breaker import Breaker, Breaking
from kvfs.store.ratelimit import Budget, Limiting


@pytest.fixture
def store(tmp_path):
    with open_inline(tmp_path / "store.db") as backend:
        yield FaultStore(backend)


async def test_after_a_failure_nobody_asks_for_a_moment(store, autojump_clock):
    """For a moment after a failure calls fail at once with its reason, unsent; after the pause they are sent."""
    breaking = Breaking(store, Breaker(5))
    store.fail("list_namespaces", UnavailableError("no route to host"), times=1)
    with pytest.raises(UnavailableError):
        await breaking.list_namespaces()
    with pytest.raises(UnavailableError, match=r"a moment ago .*no route to host"):
        await breaking.list_namespaces()
    assert store.count() == 1
    await trio.sleep(5)
    assert await breaking.list_namespaces() == []


@pytest.mark.parametrize(
    "error",
    [RateLimitedError("429"), BodyTooLargeError("413"), RejectedError("400"), OutOfTimeError("over")],
    ids=str,
)
async def test_an_answer_is_no_outage(store, autojump_clock, error):
    """An answer that refuses is no outage, because the server is there; nor is it if nobody had time for an answer."""
    breaking = Breaking(store, Breaker(5))
    store.fail("list_namespaces", error, times=1)
    with pytest.raises(type(error)):
        await breaking.list_namespaces()
    assert await breaking.list_namespaces() == []


async def test_one_call_that_fails_while_others_succeed_is_no_outage(store, autojump_clock):
    """One call that fails while others succeed is no outage, so one slow value does not make others fail."""
    breaking = Breaking(store, Breaker(5))
    gate = store.block("create_namespace")
    store.fail("create_namespace")

    async def fail() -> None:
        with pytest.raises(UnavailableError):
            await breaking.create_namespace("slow")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await gate.entered.wait()
        await trio.sleep(1)
        await breaking.list_namespaces()
        gate.open()
    assert await breaking.list_namespaces() == []


async def test_a_patient_view_asks_all_the_same_and_ends_the_pause(store, autojump_clock):
    """A patient view, as the sender's, asks in a pause too, and its success tells readers that the store is back."""
    breaker = Breaker(5)
    breaking, sending = Breaking(store, breaker), Breaking(store, breaker, patient=True)
    store.fail("list_namespaces", times=1)
    with pytest.raises(UnavailableError):
        await breaking.list_namespaces()
    assert await sending.list_namespaces() == []
    assert await breaking.list_namespaces() == []
    store.fail("list_namespaces", times=1)
    with pytest.raises(UnavailableError):
        await sending.list_namespaces()
    assert await breaking.list_namespaces() == []


async def test_silence_is_counted_over_several_tries_while_somebody_waits(autojump_clock):
    """Silence counts from the first call without an answer, while a caller waits, and any answer ends it."""
    breaker = Breaker()
    with breaker.call():
        await trio.sleep(2)
        assert breaker.silence() == 2
    assert breaker.silence() == 0
    with breaker.call():
        await trio.sleep(3)
        assert breaker.silence() == 5
        breaker.heard()
        assert breaker.silence() == 0
    with breaker.call(), breaker.call():
        breaker.heard()
        await trio.sleep(4)
        assert breaker.silence() == 4


@pytest.fixture
async def space(store):
    """Yield a namespace with two keys."""
    namespace = (await store.create_namespace("n")).id
    for name in ("good", "stuck"):
        await store.put(namespace, Key(name), Entry(b"x"))
    return namespace


def hang(store, *names):
    """Let reads of these keys have no answer within ten seconds."""

    async def wait(call):
        await trio.sleep(10)
        raise NoAnswerError("no progress within 10 s")

    store.before("get", wait, when=lambda call: call.args[1] in names)


async def test_one_key_without_an_answer_is_no_outage(store, space, autojump_clock):
    """One key without an answer, however often asked for, fails at once for a while, and the others are answered."""
    breaker = Breaker(5, 2)
    breaking = Breaking(store, breaker)
    hang(store, "stuck")
    for _ in range(5):
        with pytest.raises(NoAnswerError):
            await breaking.get(space, Key("stuck"))
        assert not breaker.is_open()
        with pytest.raises(UnavailableError, match="failed a moment ago"):
            await breaking.get(space, Key("stuck"))
        assert (await breaking.get(space, Key("good"))).value == b"x"
        assert breaker.bound() == float("inf")
        await trio.sleep(5)


async def test_two_subjects_without_an_answer_are_an_outage(store, space, autojump_clock):
    """After a second key without an answer, which waits two seconds and not ten, all calls fail at once."""
    breaker = Breaker(5, 2)
    breaking = Breaking(store, breaker)
    hang(store, "stuck", "good")
    with pytest.raises(NoAnswerError):
        await breaking.get(space, Key("stuck"))
    begun = trio.current_time()
    with pytest.raises(NoAnswerError, match="within 2 s"):
        await breaking.get(space, Key("good"))
    assert trio.current_time() - begun == pytest.approx(2)
    assert breaker.is_open()
    with pytest.raises(UnreachableError, match="could not be reached"):
        await breaking.list_namespaces()


async def test_no_connection_is_an_outage_at_once(store, space, autojump_clock):
    """A refused connection is an outage at once, because no key can be its reason."""
    breaker = Breaker(5, 2)
    store.fail("get", NotSentError("refused"), times=1)
    with pytest.raises(NotSentError):
        await Breaking(store, breaker).get(space, Key("good"))
    assert breaker.is_open()


async def test_a_read_of_the_sender_without_an_answer_makes_the_next_ones_short(store, space, autojump_clock):
    """A read of the sender without an answer makes the next reads short, and its writes take their time."""
    breaker = Breaker(5, 2)
    sending = Breaking(store, breaker, patient=True)
    hang(store, "stuck")
    with pytest.raises(NoAnswerError, match="10 s"):
        await sending.get(space, Key("stuck"))
    with pytest.raises(NoAnswerError, match="within 2 s"):
        await sending.get(space, Key("stuck"))
    assert not breaker.is_open()
    gate = store.block("put")

    async def open_late():
        await trio.sleep(4)
        gate.open()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_late)
        await sending.put(space, Key("good"), Entry(b"y"))


def slow(store, seconds):
    """Every answer takes so long."""
    store.delay("get", seconds)


async def test_a_service_that_takes_three_seconds_is_slow_and_not_away(store, space, autojump_clock):
    """One key hangs; the next call is given twice the time that answers of late took, and is answered."""
    breaker = Breaker(5, 2)
    breaking = Breaking(store, breaker)
    hang(store, "stuck")
    slow(store, 3)
    await breaking.get(space, Key("good"))
    with pytest.raises(NoAnswerError):
        await breaking.get(space, Key("stuck"))
    assert (await breaking.get(space, Key("good"))).value == b"x"
    assert not breaker.is_open()


@pytest.mark.parametrize("patient", [True, False], ids=["the sender", "a program"])
async def test_a_call_that_was_cut_short_makes_no_other_short(store, space, autojump_clock, patient):
    """A slow service of which nothing is known yet is called away for a moment at most."""
    breaking = Breaking(store, Breaker(5, 2), patient=patient)
    hang(store, "stuck")
    with pytest.raises(NoAnswerError, match="10 s"):
        await breaking.get(space, Key("stuck"))
    slow(store, 3)
    since, answer = trio.current_time(), None
    while answer is None:
        try:
            answer = await breaking.get(space, Key("good"))
        except UnavailableError:
            await trio.sleep(0.25)
    assert trio.current_time() - since < 11


async def test_the_time_in_the_queue_of_requests_is_no_silence(store, space, autojump_clock):
    """A call that waits for the budget has its two seconds from when it is let through."""
    breaking = Breaking(Limiting(store, Budget(1, 3)), Breaker(5, 2))
    hang(store, "stuck")
    with pytest.raises(NoAnswerError):
        await breaking.get(space, Key("stuck"))
    slow(store, 1)
    assert (await breaking.get(space, Key("good"))).value == b"x"
    assert trio.current_time() == pytest.approx(14, abs=0.2)  # 10 of silence, 3 of the window, 1
