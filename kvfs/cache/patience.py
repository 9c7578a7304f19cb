"""Bounds the wait for the store where an older answer is known: a second, then not at all for a while.

The request goes on when nobody waits for it any more. So a slow store brings its news a little later, and one that is
away keeps nobody waiting for cached data.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import trio

from kvfs.background import Background
from kvfs.core.errors import NoAnswerError, UnavailableError

T = TypeVar("T")

WAIT: Final = 1.0  # seconds for an answer, where an older one is at hand
PAUSE: Final = 5.0  # seconds in which nobody waits, once that was not enough


class StalePatience:
    """The patience of a mount, shared by all who ask. Without `run` it is endless: a caller waits for the answer."""

    def __init__(
        self, longest: float, is_away: Callable[[], bool] = lambda: False, *, wait: float = WAIT
    ) -> None:
        """`longest`: seconds after which a question that nobody waits for is given up.

        `is_away`: the breaker's word, true while the store counts as out of reach. Then nobody asks at all.
        """
        self.is_away = is_away
        self._longest = longest
        self._wait = wait
        self.background = Background()
        self._spent_until = float("-inf")
        self._exhausted_until = float("-inf")

    @property
    def is_exhausted(self) -> bool:
        """True for a while after the longest wait had no answer either: then even an absence known before counts."""
        return self.is_spent and trio.current_time() < self._exhausted_until

    @property
    def is_spent(self) -> bool:
        """True for a while after an answer did not come in time: then the older answer is used."""
        return trio.current_time() < self._spent_until

    async def rest(self, question: Callable[[], Awaitable[T]]) -> T:
        """Ask, and wait for the answer to its end, because no older one is known. Raises what the question raises.

        A moment that the caller has just waited for another thing, a name for instance, is part of the longest wait,
        because one system call asks for several.
        """
        if not self.is_spent:
            return await question()
        seconds = max(self._longest - self._wait, self._longest / 2)
        with trio.move_on_after(seconds):
            return await question()
        self._spent_until = self._exhausted_until = trio.current_time() + PAUSE
        raise NoAnswerError(f"no answer within {seconds:g} s, and none for a moment before")

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Ask, and wait for the answer for a moment. Raises what the question raises.

        Raises `UnavailableError` when the answer takes longer: the caller has an older one.
        """
        if not self.background.is_served:
            return await question()
        asked = self.background.ask(partial(self._bounded, question))
        with trio.move_on_after(self._wait):
            return await asked.answer()
        self._spent_until = trio.current_time() + PAUSE
        raise UnavailableError(f"no answer within {self._wait:g} s")

    async def _bounded(self, question: Callable[[], Awaitable[T]]) -> T:
        with trio.move_on_after(self._longest):
            answer = await question()
            self._spent_until = float("-inf")
            return answer
        raise NoAnswerError(f"no answer within {self._longest:g} s")
