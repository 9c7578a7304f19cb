"""When to try again after a failure: the three kinds, and how long each waits.

Unavailable backs off from a second to a minute, denied from half a minute to five, a used-up quota waits for
its reset. What the server itself asked for (Retry-After) is the least.
"""

from typing import Final

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_base, wait_exponential, wait_random

from kvfs.core.errors import DeniedError, KvfsError, QuotaError, UnavailableError
from kvfs.sender.events import EventKind, SenderState

DAY: Final = 86_400
SHORT_WAIT: Final = 2.0  # seconds for which it is worth to wait in the middle of a round
_UNAVAILABLE: Final = wait_exponential(multiplier=1, max=60) + wait_random(0, 1)
_DENIED: Final = wait_exponential(multiplier=30, max=300) + wait_random(0, 5)
_QUOTA: Final = wait_random(1, 60)  # after the reset: not all machines at once
_URGENT: Final = wait_exponential(multiplier=0.25, max=4) + wait_random(0, 0.1)  # somebody waits in fsync


def trouble(error: KvfsError) -> SenderState:
    """Which kind a failure is."""
    if isinstance(error, QuotaError):
        return SenderState.QUOTA
    return SenderState.DENIED if isinstance(error, DeniedError) else SenderState.UNAVAILABLE


def may_go_on(error: KvfsError) -> bool:
    """Whether something else may be asked of the store after `asked_wait`: it said neither no nor much later."""
    return isinstance(error, UnavailableError) and asked_wait(error) <= SHORT_WAIT


def asked_wait(error: KvfsError) -> float:
    """Seconds in which the server wants to be left alone."""
    return (error.retry_after or 0.0) if isinstance(error, UnavailableError) else 0.0


def pause(error: KvfsError, attempt: int, now: float) -> float:
    """Seconds to wait after the `attempt`-th failure in a row (from 1), at epoch second `now`."""
    kind = trouble(error)
    if kind is SenderState.QUOTA:
        return DAY - now % DAY + _draw(_QUOTA, 1)  # the allowance comes back at 00:00 UTC
    if kind is SenderState.DENIED:
        return _draw(_DENIED, attempt)
    asked = error.retry_after if isinstance(error, UnavailableError) else None
    return max(_draw(_UNAVAILABLE, attempt), asked or 0.0)


def _draw(strategy: wait_base, attempt: int) -> float:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return strategy(state)


class Backoff:
    """How many failures there were in a row, and until when (monotonic seconds) nothing is tried.

    `asked_until` is the part of it that is the server's word, which holds for an fsync too.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.kind: SenderState | None = None
        self.error: KvfsError | None = None
        self.retry_at = float("-inf")
        self.asked_until = float("-inf")

    def fail(self, error: KvfsError, *, now: float, monotonic: float) -> EventKind | None:
        """Count a failure; returns the event when it is news."""
        kind = trouble(error)
        news = kind is not self.kind
        self.attempts = 1 if news else self.attempts + 1
        self.kind, self.error = kind, error
        self.retry_at = monotonic + pause(error, self.attempts, now)
        asked = self.retry_at if kind is SenderState.QUOTA else monotonic + asked_wait(error)
        self.asked_until = max(self.asked_until, asked)
        return EventKind(kind.value) if news else None

    def succeed(self) -> bool:
        """The store took something; True when that is news."""
        news = self.kind is not None
        self.__init__()  # type: ignore[misc]  # back to the start, all fields of it
        return news


class UrgentBackoff:
    """When those who wait in an fsync may try again after a failure: soon, whatever the loop's back-off.

    They try together, so a crowd of them in an outage costs as few requests as one.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.retry_at = float("-inf")

    def fail(self, monotonic: float) -> None:
        """Count a try of theirs that failed."""
        self.attempts += 1
        self.retry_at = monotonic + _draw(_URGENT, self.attempts)

    def succeed(self) -> None:
        """The store answers: start again with the shortest wait."""
        self.attempts = 0
