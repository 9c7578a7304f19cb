"""The breaker: who waits in an outage, and when it is taken for one."""

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline

from kvfs.core.errors import BodyTooLargeError, RateLimitedError, RejectedError, UnavailableError
from kvfs.store.breaker import Breaker, Breaking


@pytest.fixture
def store(tmp_path):
    with open_inline(tmp_path / "store.db") as backend:
        yield FaultStore(backend)


async def test_after_a_failure_nobody_asks_for_a_moment(store, autojump_clock):
    """Calls fail at once with the reason, are not sent, and are tried again after the pause."""
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
    "error", [RateLimitedError("429"), BodyTooLargeError("413"), RejectedError("400")], ids=str
)
async def test_an_answer_is_no_outage(store, autojump_clock, error):
    """A server that says no is there."""
    breaking = Breaking(store, Breaker(5))
    store.fail("list_namespaces", error, times=1)
    with pytest.raises(type(error)):
        await breaking.list_namespaces()
    assert await breaking.list_namespaces() == []


async def test_one_call_that_fails_while_others_succeed_is_no_outage(store, autojump_clock):
    """A value that takes too long must not make the others fail."""
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
    """The sender has waits of its own; what it achieves tells the readers that the store is back."""
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
    """From the first call that got no answer on; any answer ends it, and without a caller there is none."""
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
