"""A shorter way round pyfuse3's request loop: look for the next request before asking trio to wait for it.

As it comes, pyfuse3 goes through trio's scheduler twice a request (a fair lock, then epoll), which costs more
than most requests. A busy process and its file system talk in turns: the next request is there microseconds
after the answer. So the task that answered looks for it itself, again and again for about as long as a turn of
the scheduler takes, and only then lets trio wait. It looks rather than sleeps where there is another processor
for whoever asks: to put a processor to sleep and wake it costs more than most requests, too. One wait in `DOZES`
is a sleep all the same. The kernel wakes a sleeper where it is called from: so it and its caller get onto one
processor, where they alternate without any going to sleep, faster than two processors that call each other.
The other tasks get a turn after `CALM` seconds at the latest, after `ALERT` when they had something to do lately.
While a handler waits for something else, so does whoever called it: the task that takes its place does not look again
and again, which would keep from its turn what the handler waits for.

pyfuse3 names the library it runs on in its global `trio`, which is how `pyfuse3.asyncio.enable` puts another
in its place; so does this. Where that is not so, `enable` changes nothing.
"""

import os
import select
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pyfuse3
import trio

from kvfs.patches import PYFUSE3_TRIO

CALM: Final = 0.001  # seconds of requests between two turns of tasks that have nothing to do
ALERT: Final = 0.000_1  # ... that had something to do lately
LATELY: Final = 0.005  # seconds
PATIENCE: Final = 0.000_05  # seconds to wait for the next request: about what the way through trio takes
DOZES: Final = 16  # fewer sleeps bring the two together too late, more of them cost more than that saves
_IDLE_TURN: Final = 0.000_05  # seconds: a turn that was longer did some work
_MOST_FD: Final = 1023  # select(2) knows no more


class Turnstile:
    """The lock around the wait for a request, one task at a time: free, it is taken without a checkpoint.

    Whoever leaves wakes one that waits, which goes back to waiting when the place is taken again by then. One that
    was woken and finds the place free stands in for a task that waits for something else: `on_relief` is called.
    """

    def __init__(self, on_relief: Callable[[], None] = lambda: None) -> None:
        self._on_relief = on_relief
        self._taken = False
        self._queue = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        has_waited = False
        while self._taken:
            await self._queue.park()
            has_waited = True
        self._taken = True
        if has_waited:
            self._on_relief()

    async def __aexit__(self, *_: object) -> None:
        self._taken = False
        if self._queue:
            self._queue.unpark()


class Readiness:
    """`wait_readable` that looks first."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone  # on the only processor: looking would keep whoever is to ask from it
        self._waits = 0
        self._turn_due = 0.0  # monotonic seconds
        self._alert_until = 0.0
        self._is_hopeless = False  # the last caller waits for an answer

    def relieve(self) -> None:
        """Spare the next wait a look, because the task before waits for something, and so does its caller."""
        self._is_hopeless = True

    async def wait_readable(self, fd: int) -> None:
        """Return when `fd` can be read. A checkpoint now and then, not every time."""
        if fd > _MOST_FD:
            await trio.lowlevel.wait_readable(fd)
            return
        now = time.monotonic()
        is_hopeless, self._is_hopeless = self._is_hopeless, False
        if now < self._turn_due and not is_hopeless:
            if self._looks_again(fd, now):
                return
            await trio.lowlevel.wait_readable(fd)
            now = time.monotonic()
        else:
            await trio.lowlevel.checkpoint()
            after = time.monotonic()
            if after - now > _IDLE_TURN and not is_hopeless:
                self._alert_until = after + LATELY
            now = after
            if not select.select((fd,), (), (), 0)[0]:
                await trio.lowlevel.wait_readable(fd)
                now = time.monotonic()
        self._turn_due = now + (ALERT if now < self._alert_until else CALM)

    def _looks_again(self, fd: int, now: float) -> bool:
        self._waits += 1
        if self._alone or not self._waits % DOZES:
            return bool(select.select((fd,), (), (), PATIENCE)[0])
        end = now + PATIENCE
        while not select.select((fd,), (), (), 0)[0]:
            if time.monotonic() > end:
                return False
        return True


class _Lowlevel:
    """`trio.lowlevel` with another `wait_readable`."""

    def __init__(self, readiness: Readiness) -> None:
        self.wait_readable = readiness.wait_readable

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """`trio` with another `Lock` and `lowlevel`."""

    def __init__(self) -> None:
        readiness = Readiness(alone=len(os.sched_getaffinity(0)) < 2)
        self.Lock = partial(Turnstile, readiness.relieve)
        self.lowlevel = _Lowlevel(readiness)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def enable() -> bool:
    """Let pyfuse3 look first, if it is made as expected; to be called before its `main`. Whether it does."""
    known = getattr(pyfuse3, "trio", None)
    return isinstance(known, _Trio) or (known is trio and PYFUSE3_TRIO.apply(pyfuse3, _Trio()))


def disable() -> None:
    """Restore pyfuse3's own waiting."""
    if isinstance(getattr(pyfuse3, "trio", None), _Trio):
        PYFUSE3_TRIO.apply(pyfuse3, trio)
