"""Breaking: a Store around a Store that, after a failure, says so at once for a moment instead of waiting again.

Without it a path of several names, or a walk over a tree, would wait its whole bound at every step of an outage.
"""

from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

import trio

from kvfs.core.errors import BodyTooLargeError, RateLimitedError, StoreError, UnavailableError
from kvfs.store.base import Store
from kvfs.store.wrapper import Around

P = ParamSpec("P")
T = TypeVar("T")

PAUSE: Final = 5.0  # seconds


class Breaker:
    """Whether the store was out of reach a moment ago. Monotonic time: clocks that jump do not reach it."""

    def __init__(self, pause: float = PAUSE) -> None:
        self._pause = pause
        self._answered_at = float("-inf")
        self._until = float("-inf")
        self._reason = ""

    def check(self, operation: str) -> None:
        """Raises `UnavailableError` for `pause` seconds after a failure, unless an answer came since."""
        if trio.current_time() < self._until:
            raise UnavailableError(
                f"{operation}: the store could not be reached a moment ago ({self._reason})"
            )

    def answered(self) -> None:
        """The store is there."""
        self._answered_at = trio.current_time()
        self._until = float("-inf")

    def failed(self, since: float, error: UnavailableError) -> None:
        """A call begun at `since` failed. While others are answered it is the call, not the store."""
        if self._answered_at < since and not isinstance(error, RateLimitedError | BodyTooLargeError):
            self._until = trio.current_time() + self._pause
            self._reason = str(error)


class Breaking(Around):
    """Calls fail at once while the breaker says so; with `patient` they only tell it of their success."""

    def __init__(self, store: Store, breaker: Breaker, *, patient: bool = False) -> None:
        super().__init__(store)
        self._breaker = breaker
        self._patient = patient

    async def _call(
        self, operation: str, method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        since = trio.current_time()
        if not self._patient:
            self._breaker.check(operation)
        try:
            answer = await method(*args, **kwargs)
        except UnavailableError as exc:
            if not self._patient:
                self._breaker.failed(since, exc)
            raise
        except StoreError:
            self._breaker.answered()
            raise
        self._breaker.answered()
        return answer
