"""Retrying: which calls are repeated, when, how often, and which are not."""

import logging
from itertools import pairwise

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline

from kvfs.core.callers import Call, Caller, calling
from kvfs.core.errors import (
    BodyTooLargeError,
    DeniedError,
    NamespaceNotFoundError,
    NoAnswerError,
    NotTextError,
    OutOfTimeError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    TitleExistsError,
    UnavailableError,
)
from kvfs.core.model import Entry, Key
from kvfs.store.retry import FIRST_WAIT, LONGEST_WAIT, Retrying

KEY = Key("key")
DEADLINE = 100.0


@pytest.fixture
def faults(tmp_path):
    """Yield the store inside, which fails when told."""
    with open_inline(tmp_path / "store.db") as store:
        yield FaultStore(store)


@pytest.fixture
async def namespace(faults):
    """A namespace in it."""
    return (await faults.create_namespace("namespace")).id


def retrying(faults, attempts=5, deadline=DEADLINE):
    """Yield the store under test."""
    return Retrying(faults, attempts=attempts, deadline=deadline)


async def test_what_is_unavailable_twice_is_done_the_third_time(
    faults, namespace, autojump_clock, expect_log
):
    """After two unavailable answers the caller sees success, and the store three calls."""
    expect_log("put failed")
    faults.fail("put", times=2)

    await retrying(faults).put(namespace, KEY, Entry(b"value"))

    assert faults.count("put") == 3
    assert (await faults.get(namespace, KEY)).value == b"value"


async def test_the_last_error_is_raised_when_attempts_are_used_up(
    faults, namespace, autojump_clock, expect_log
):
    """The last error of the store is raised after exactly that many calls."""
    expect_log("get failed")
    faults.fail("get", UnavailableError("down", code=7, status=503))

    with pytest.raises(UnavailableError, match="down") as caught:
        await retrying(faults, attempts=4).get(namespace, KEY)

    assert faults.count("get") == 4
    assert (caught.value.code, caught.value.status) == (7, 503)


@pytest.mark.parametrize(
    "error",
    [
        DeniedError("x"),
        QuotaError("x"),
        RejectedError("x"),
        NotTextError("x"),
        NamespaceNotFoundError("x"),
        TitleExistsError("x"),
        BodyTooLargeError("x"),
        ValueError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_will_not_change_is_not_repeated(faults, namespace, autojump_clock, error):
    """Denied, rejected, not found, too large, and bugs are raised at once, after one call."""
    faults.fail("bulk_get", error)
    start = trio.current_time()

    with pytest.raises(type(error), match=str(error)):
        await retrying(faults).bulk_get(namespace, [KEY])

    assert faults.count("bulk_get") == 1
    assert trio.current_time() == start


async def test_waits_grow_with_jitter(faults, namespace, autojump_clock, expect_log):
    """Each wait is between half and all of a bound that doubles up to the longest."""
    expect_log("get failed")
    times = []
    faults.before("get", lambda call: times.append(trio.current_time()))
    faults.fail("get")

    with pytest.raises(UnavailableError):
        await retrying(faults, attempts=10, deadline=1000).get(namespace, KEY)

    waits = [after - before for before, after in pairwise(times)]
    bounds = [min(LONGEST_WAIT, FIRST_WAIT * 2**n) for n in range(9)]
    assert bounds[-1] == LONGEST_WAIT
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert len({wait / bound for wait, bound in zip(waits, bounds, strict=True)}) > 1


async def test_it_waits_as_long_as_the_server_asks(faults, namespace, autojump_clock, expect_log):
    """Retry-After is the least wait, and is not shortened."""
    expect_log("get failed")
    faults.fail("get", RateLimitedError("slow down", retry_after=50.0), times=1)
    start = trio.current_time()

    await retrying(faults).get(namespace, KEY)

    assert 50 <= trio.current_time() - start <= 50 + FIRST_WAIT


async def test_it_gives_up_at_once_when_asked_to_wait_too_long(faults, namespace, autojump_clock):
    """An error that asks for more than the rest of the deadline is raised as it is, without waiting."""
    faults.fail("get", RateLimitedError("slow down", retry_after=DEADLINE))
    start = trio.current_time()

    with pytest.raises(RateLimitedError, match="slow down") as caught:
        await retrying(faults).get(namespace, KEY)

    assert caught.value.retry_after == DEADLINE
    assert trio.current_time() == start
    assert faults.count("get") == 1


async def test_a_store_that_never_answers_is_unavailable(faults, namespace, autojump_clock, expect_log):
    """At the deadline of the whole call the store counts as unavailable, with the earlier failure in the message."""
    expect_log("connection reset")
    faults.fail("get", UnavailableError("connection reset"), on=1)
    faults.block("get")
    start = trio.current_time()

    with pytest.raises(UnavailableError, match=r"get: no answer within 100 s; before that: connection reset"):
        await retrying(faults).get(namespace, KEY)

    assert trio.current_time() - start == pytest.approx(DEADLINE)


async def test_a_cancelled_call_is_not_repeated(faults, namespace, autojump_clock):
    """A cancellation from outside ends a call at once, without a repetition."""
    faults.block("get")

    with trio.move_on_after(1) as scope:
        await retrying(faults).get(namespace, KEY)

    assert scope.cancelled_caught
    assert trio.current_time() < DEADLINE
    assert faults.count("get") == 1


async def test_a_creation_whose_answer_was_lost_succeeds(faults, autojump_clock, expect_log):
    """A creation whose answer was lost succeeds: the title existing at the second attempt is the first one's."""
    expect_log("create_namespace failed")
    faults.lost_ack("create_namespace", on=1)

    created = await retrying(faults).create_namespace("new")

    assert [created] == await faults.list_namespaces()
    assert faults.count("create_namespace") == 2


@pytest.mark.parametrize("turned_away", [False, True])
async def test_a_title_that_was_there_before_is_refused(faults, autojump_clock, expect_log, turned_away):
    """A title that exists is refused at the first attempt that gets through, if none before it can have worked."""
    await faults.create_namespace("taken")
    if turned_away:
        faults.fail("create_namespace", RateLimitedError("429"), on=2)
        expect_log("create_namespace failed")

    with pytest.raises(TitleExistsError):
        await retrying(faults).create_namespace("taken")


async def test_a_deletion_whose_answer_was_lost_succeeds(faults, namespace, autojump_clock, expect_log):
    """A deletion whose answer was lost succeeds: the first attempt is why the namespace is gone at the second."""
    expect_log("delete_namespace failed")
    faults.lost_ack("delete_namespace", on=1)

    await retrying(faults).delete_namespace(namespace)

    assert await faults.list_namespaces() == []
    with pytest.raises(NamespaceNotFoundError):
        await retrying(faults).delete_namespace(namespace)


async def test_every_retry_is_one_line_in_the_log(faults, namespace, autojump_clock, caplog, expect_log):
    """Every retry is one line in the log with operation, reason and wait, without values, and success is none."""
    expect_log("WARNING kvfs.store: put failed")
    caplog.set_level(logging.DEBUG)
    await retrying(faults).put(namespace, KEY, Entry(b"fine"))
    assert caplog.records == []
    faults.fail("put", UnavailableError("down"), times=2)

    await retrying(faults).put(namespace, KEY, Entry(b"secret"))

    assert {(record.name, record.levelname) for record in caplog.records} == {("kvfs.store", "WARNING")}
    assert len(caplog.records) == 2
    assert caplog.messages[0].startswith("put failed (down), attempt 1 of 5; the next in 0.")
    assert "secret" not in caplog.text


@pytest.fixture
def left():
    """Tell how many seconds the system call has left that the test makes."""
    return lambda seconds: calling.set(Call(Caller(1, 0, "test"), trio.current_time() + seconds))


@pytest.mark.parametrize(
    ("seconds", "kind", "said"),
    [
        (200, NoAnswerError, "no answer within 100 s"),
        (60, NoAnswerError, "no answer within 60 s"),
        (40, OutOfTimeError, "no answer within 40 s"),
        (0, OutOfTimeError, "the time of the call is over"),
        (-1, OutOfTimeError, "the time of the call is over"),
    ],
)
async def test_a_request_ends_with_the_system_call_that_waits(
    faults, namespace, autojump_clock, left, seconds, kind, said
):
    """A request takes no longer than the system call has left; one of little time tells nothing of the server."""
    faults.block("get")
    left(seconds)
    start = trio.current_time()

    with pytest.raises(kind, match=said):
        await retrying(faults).get(namespace, KEY)

    assert trio.current_time() - start == max(0, min(seconds, DEADLINE))


async def test_who_stays_waits_for_the_limit_to_the_end(faults, namespace, autojump_clock):
    """A mount's call that is refused for its rate fails when its time is over, not at once; the reason is the same."""
    faults.fail("get", RateLimitedError("slow down", retry_after=300))
    start = trio.current_time()

    with pytest.raises(RateLimitedError, match="slow down"):
        await Retrying(faults, attempts=5, deadline=DEADLINE, stays=True).get(namespace, KEY)

    assert DEADLINE - 0.1 <= trio.current_time() - start < DEADLINE
    assert faults.count("get") == 1
