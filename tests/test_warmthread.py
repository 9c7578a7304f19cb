"""A thread for work of microseconds: done on the spot, and never at the loop's expense for long."""

import gc
import threading
import time
import weakref
from contextlib import suppress

import pytest
import trio
import trio.testing

from kvfs import warmthread
from kvfs.warmthread import WarmThread


@pytest.fixture
def thread(monkeypatch):
    """A thread that is waited for on the spot as long as the tests need it."""
    monkeypatch.setattr(warmthread, "PATIENCE", 20.0)
    thread = WarmThread("test")
    yield thread
    thread.close()


async def _note(turns: list[str]) -> None:
    turns.append("a turn")


async def test_quick_work_takes_no_turn_of_the_loop(thread: WarmThread) -> None:
    """No other task runs between the call and its result, which another thread makes."""
    async with trio.open_nursery() as nursery:
        others: list[str] = []
        nursery.start_soon(_note, others)
        assert await thread.run(threading.get_ident) != threading.get_ident()
        assert not others


async def test_an_error_is_the_callers(thread: WarmThread) -> None:
    """It is raised where the work was asked for, and the thread goes on."""
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    assert await thread.run(lambda: 1) == 1


async def test_the_loop_goes_on_while_slow_work_is_done(thread: WarmThread, monkeypatch) -> None:
    """It is held for a moment, once; the next work is waited for as trio does it, until one was quick."""
    monkeypatch.setattr(warmthread, "PATIENCE", 0.000_001)
    may_end = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, may_end.wait)
        await trio.testing.wait_all_tasks_blocked()  # it comes here
        may_end.set()
    monkeypatch.setattr(warmthread, "PATIENCE", 20.0)
    for turns in (["a turn"], []):
        async with trio.open_nursery() as nursery:
            others: list[str] = []
            nursery.start_soon(_note, others)
            await thread.run(int)
            assert others == turns


async def test_one_piece_of_work_at_a_time_in_the_order_of_the_calls(thread: WarmThread, monkeypatch) -> None:
    """A commit must not meet another on the same connection."""
    monkeypatch.setattr(warmthread, "PATIENCE", 0.000_001)
    done, may_go = [], threading.Event()

    def work(number: int) -> None:
        assert may_go.wait(30)
        done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(thread.run, lambda number=number: work(number))
            await trio.testing.wait_all_tasks_blocked()
        may_go.set()
    assert done == list(range(5))


async def test_a_call_that_is_cancelled_waits_for_its_work(thread: WarmThread, monkeypatch) -> None:
    """Work that runs ends before anything else may follow; work that has not begun never does."""
    monkeypatch.setattr(warmthread, "PATIENCE", 0.000_001)
    done, may_end = [], threading.Event()

    def work() -> None:
        assert may_end.wait(30)
        done.append("first")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, work)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(thread.run, lambda: done.append("second"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            assert not done
            may_end.set()
    assert done == ["first"]
    assert await thread.run(lambda: 1) == 1


async def test_threads_that_wait_for_a_disk_keep_nobody_waiting_here(thread: WarmThread, monkeypatch) -> None:
    """All the threads of trio may be taken: a commit ends all the same."""
    monkeypatch.setattr(warmthread, "PATIENCE", 0.000_001)
    limiter, ended = trio.to_thread.current_default_thread_limiter(), trio.Event()
    others = [object() for _ in range(int(limiter.available_tokens))]
    for other in others:
        limiter.acquire_on_behalf_of_nowait(other)

    async def work() -> None:
        await thread.run(lambda: time.sleep(0.01))
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with trio.move_on_after(3):
            await ended.wait()
        is_ended = ended.is_set()
        for other in others:
            limiter.release_on_behalf_of(other)
    assert is_ended


async def test_work_that_failed_is_not_kept_in_memory(thread: WarmThread) -> None:
    """The values of work that failed are free as soon as its error is, without a look for cycles."""

    class Value:
        pass

    async def fail(value: Value) -> None:
        with suppress(ZeroDivisionError):
            await thread.run(lambda: 1 // (value is None))

    value = Value()
    known = weakref.ref(value)
    gc.disable()
    try:
        await fail(value)
        del value
        await thread.run(lambda: None)  # the thread has let go of the work before
        assert known() is None
    finally:
        gc.enable()
