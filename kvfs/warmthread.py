"""A thread that is kept for work of microseconds: a commit, or a sync on a quick disk.

`trio.to_thread.run_sync` takes the event loop through three turns, which costs more than such work does. Here the
caller waits on the spot for a moment, while nothing else of the loop runs. What is not done by then is waited for as
trio does it, and so is all that follows, until a piece of work is quick again.
"""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

PATIENCE: Final = 0.000_5  # seconds for which the loop is held at most, and only if the work before took less


class _Job(Generic[T]):
    """One piece of work. `done` is locked until it has ended, after so many `seconds`."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: list[T] = []
        self._error: BaseException | None = None
        self.seconds = 0.0
        self.done = threading.Lock()
        self.done.acquire()

    def run(self) -> None:
        """Run in the thread."""
        began = time.monotonic()
        try:
            self._value.append(self._work())
        except BaseException as exc:  # it is the caller's
            self._error = exc
        self.seconds = time.monotonic() - began
        self.done.release()

    def result(self) -> T:
        """Return what the work came to, or raise what it raised. It is asked once: then nothing is kept of it."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it holds this frame, and that of the work with its values
        return self._value[0]


class WarmThread:
    """Runs one piece of work at a time, in the order of the calls. `close` it in the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job[object] | None] | None = None
        self._turn = trio.Lock()
        self._waiter = trio.CapacityLimiter(1)  # of its own: those of trio may all be waiting for a disk
        self._is_quick = True  # the last piece of work was

    @property
    def is_busy(self) -> bool:
        """Return True while a piece of work is under way."""
        return self._turn.locked()

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` does, once a thread has done it. A call that is cancelled meanwhile waits for it."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._turn.acquire_nowait()  # a lock that is free is a turn of the loop all the same
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            job = self._begin(work)
            if not (self._is_quick and job.done.acquire(timeout=PATIENCE)):
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(job.done.acquire, limiter=self._waiter)
            self._is_quick = job.seconds < PATIENCE
        finally:
            self._turn.release()
        return job.result()

    def _begin(self, work: Callable[[], T]) -> _Job[T]:
        if self._jobs is None:
            self._jobs = SimpleQueue()
            threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True).start()
        job = _Job(work)
        self._jobs.put(job)  # type: ignore[arg-type]  # the thread does not look at what comes of it
        return job

    def close(self) -> None:
        """Let the thread end. The next call would begin another."""
        if self._jobs is not None:
            self._jobs.put(None)
            self._jobs = None


def _serve(jobs: "SimpleQueue[_Job[object] | None]") -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # objects of the work must not be kept until the next
