"""Patience: a caller with an older answer waits only a moment for a newer one, and the request goes on."""

import pytest
import trio

from kvfs.cache.patience import PAUSE, WAIT, StalePatience
from kvfs.core.errors import UnavailableError

LONGEST = 30.0


async def slow(seconds: float, done: list[float]) -> str:
    await trio.sleep(seconds)
    done.append(trio.current_time())
    return "answer"


async def test_a_quick_answer_is_waited_for_and_a_slow_one_goes_on_alone(autojump_clock) -> None:
    """After a second the caller goes on without the answer; the answer that comes later ends the pause."""
    patience, done = StalePatience(LONGEST), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.background.serve)
        await trio.testing.wait_all_tasks_blocked()
        assert await patience.ask(lambda: slow(0.9, done)) == "answer"
        assert not patience.is_spent
        begun = trio.current_time()
        with pytest.raises(UnavailableError, match="no answer within 1 s"):
            await patience.ask(lambda: slow(3, done))
        assert trio.current_time() - begun == pytest.approx(WAIT)
        assert patience.is_spent
        await trio.sleep(2.5)
        assert len(done) == 2
        assert not patience.is_spent
        nursery.cancel_scope.cancel()


async def test_without_an_answer_it_is_spent_for_a_pause_and_the_question_ends(autojump_clock) -> None:
    """Without an answer nobody waits until a pause is over; then the next caller tries again."""
    patience, done = StalePatience(LONGEST), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.background.serve)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnavailableError):
            await patience.ask(lambda: slow(1000, done))
        await trio.sleep(PAUSE - 0.1)
        assert patience.is_spent
        await trio.sleep(0.2)
        assert not patience.is_spent
        await trio.sleep(LONGEST)
        assert patience.background.count == 0
        nursery.cancel_scope.cancel()


async def test_a_failure_in_time_is_raised(autojump_clock) -> None:
    """A failure in time reaches the caller unchanged; a later one reaches nobody."""
    patience = StalePatience(LONGEST)

    async def fails(seconds: float) -> None:
        await trio.sleep(seconds)
        raise UnavailableError("the cable is out")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.background.serve)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnavailableError, match="the cable is out"):
            await patience.ask(lambda: fails(0.5))
        with pytest.raises(UnavailableError, match="no answer"):
            await patience.ask(lambda: fails(5))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()


async def test_without_a_place_to_go_on_the_answer_is_waited_for(autojump_clock) -> None:
    """A store on this machine has no place for a request to go on, so its answer is waited for."""
    done: list[float] = []
    assert await StalePatience(LONGEST).ask(lambda: slow(500, done)) == "answer"


async def test_whoever_has_waited_for_a_name_waits_the_rest_for_what_nobody_knows(autojump_clock) -> None:
    """A call that asks for several things waits the longest time once.

    Afterwards even a name known to be absent counts as absent for a while.
    """
    patience, done = StalePatience(LONGEST), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(patience.background.serve)
        await trio.testing.wait_all_tasks_blocked()
        assert await patience.rest(lambda: slow(LONGEST + 5, done)) == "answer"
        with pytest.raises(UnavailableError):
            await patience.ask(lambda: slow(1000, done))
        assert not patience.is_exhausted
        begun = trio.current_time()
        with pytest.raises(UnavailableError, match="none for a moment before"):
            await patience.rest(lambda: slow(1000, done))
        assert trio.current_time() - begun == pytest.approx(LONGEST - WAIT)
        assert patience.is_exhausted
        await trio.sleep(PAUSE + 0.1)
        assert not patience.is_exhausted
        nursery.cancel_scope.cancel()


async def test_a_question_that_ends_with_its_place_is_a_failure_like_any_other(autojump_clock) -> None:
    """A caller whose question is cut off, because another one failed beside it, goes on with the older answer."""
    patience, failures = StalePatience(LONGEST), []

    async def breaks() -> None:
        await trio.sleep(0.5)
        raise ZeroDivisionError

    async def asks(question) -> None:
        try:
            await patience.ask(question)
        except UnavailableError as exc:
            failures.append(str(exc))

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as callers, trio.open_nursery() as place:
            place.start_soon(patience.background.serve)
            await trio.testing.wait_all_tasks_blocked()
            callers.start_soon(asks, breaks)
            callers.start_soon(asks, lambda: slow(5, []))
    assert len(failures) == 2
