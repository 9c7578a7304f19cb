"""Questions that outlive their askers: a caller may give up, and the answer still comes for the next one."""

import copy
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from kvfs.core.callers import current, done_for, waits
from kvfs.core.errors import KvfsError, UnavailableError, without_frames

log = logging.getLogger("kvfs")

T = TypeVar("T")


class Question(Generic[T]):
    """A question under way. `ended`: it has an answer, or failed."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self._answers: list[T] = []
        self._error: KvfsError | None = None

    async def answer_by(self, question: Callable[[], Awaitable[T]]) -> None:
        """Ask. Raises nothing of ours: a failure is the answer."""
        try:
            self._answers.append(await question())
        except KvfsError as exc:
            self._error = without_frames(exc)
            log.debug("what was asked for in the background failed: %s", exc)
        finally:
            self.ended.set()

    async def answer(self) -> T:
        """Wait for the answer. Raises what the question raised, `UnavailableError` where it was cut off."""
        await self.ended.wait()
        if self._error is not None:
            raise copy.copy(self._error)  # every waiter its own: it would hold their frames
        if not self._answers:  # it was cut off: with the mount, or by a bug in another question
            raise UnavailableError("the mount is ending")
        return self._answers[0]


class Background:
    """The place where questions go on. Until it is served, there is none: whoever asks has to wait."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    @property
    def is_served(self) -> bool:
        """True if `ask` may be called."""
        return self._nursery is not None

    @property
    def count(self) -> int:
        """The number of questions under way."""
        return len(self._nursery.child_tasks) if self._nursery is not None else 0

    async def serve(self) -> None:
        """Let questions go on, for ever."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def ask(self, question: Callable[[], Awaitable[T]]) -> Question[T]:
        """Begin a question; it is answered whether anybody waits or not."""
        assert self._nursery is not None, "nobody serves"
        asked = Question[T]()
        waits()
        with done_for(current()):  # it may take longer than the call of the asker
            self._nursery.start_soon(asked.answer_by, question)
        return asked
