"""Back-off after a failure: of the store as a whole, of one key, and for callers that wait.

Unavailable backs off from a second to a minute, denied from half a minute to five. What the server itself asked
for (Retry-After) is the least. A used-up quota is no failure of the store: see `quota.py`.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from kvfs.core.errors import DeniedError, KvfsError, UnavailableError
from kvfs.core.model import KeyRef
from kvfs.sender.events import EventKind, SenderState

SHORT_WAIT: Final = 2.0  # seconds for which it is worth to wait in the middle of a round


@dataclass(frozen=True, slots=True)
class Growth:
    """A wait that doubles with each failure in a row: `min(longest, first * 2**n)`, and up to `jitter` more."""

    first: float
    longest: float
    jitter: float

    def seconds(self, attempt: int) -> float:
        """Return the wait after the `attempt`-th failure in a row, from 1."""
        exponent = min(attempt - 1, 60)  # beyond that a float overflows, and `longest` is long reached
        return min(self.longest, self.first * 2.0**exponent) + random.uniform(0, self.jitter)


UNAVAILABLE: Final = Growth(1, 60, 1)
DENIED: Final = Growth(30, 300, 5)
URGENT: Final = Growth(0.25, 4, 0.1)  # for callers that wait in fsync
DRAINING: Final = Growth(0.5, 15, 0.5)  # for users that wait in `kvfs sync` or `kvfs umount`
ONE_KEY: Final = Growth(1, 60, 0.2)


def trouble(error: KvfsError) -> SenderState:
    """Return the state of the sender after such a failure."""
    return SenderState.DENIED if isinstance(error, DeniedError) else SenderState.UNAVAILABLE


def may_go_on(error: KvfsError) -> bool:
    """Return True when another request may follow after `asked_wait`: the server said neither no nor much later."""
    return isinstance(error, UnavailableError) and asked_wait(error) <= SHORT_WAIT


def asked_wait(error: KvfsError) -> float:
    """Return the seconds in which the server wants to be left alone."""
    return (error.retry_after or 0.0) if isinstance(error, UnavailableError) else 0.0


def pause(error: KvfsError, attempt: int) -> float:
    """Return the seconds to wait after the `attempt`-th failure in a row, from 1."""
    growth = DENIED if isinstance(error, DeniedError) else UNAVAILABLE
    return max(growth.seconds(attempt), asked_wait(error))


class Backoff:
    """The failures in a row, and the time (monotonic seconds) before which the loop tries nothing.

    `asked_until` is the part of it that is the server's word, which holds for callers that wait too.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.kind: SenderState | None = None
        self.error: KvfsError | None = None
        self.retry_at = float("-inf")
        self.asked_until = float("-inf")

    def fail(self, error: KvfsError, *, monotonic: float) -> EventKind | None:
        """Count a failure; return the event when it is news.

        A try before its time, by fsync or `kvfs sync`, does not make the loop's wait longer.
        """
        kind = trouble(error)
        news = kind is not self.kind
        if news or monotonic >= self.retry_at:
            self.attempts = 1 if news else self.attempts + 1
            self.retry_at = monotonic + pause(error, self.attempts)
        self.kind, self.error = kind, error
        self.asked_until = max(self.asked_until, monotonic + asked_wait(error))
        self.retry_at = max(self.retry_at, self.asked_until)
        return EventKind(kind.value) if news else None

    def succeed(self) -> bool:
        """Note that the store took something; return True when that is news."""
        news = self.kind is not None
        self.__init__()  # type: ignore[misc]  # back to the start, all fields of it
        return news


class UrgentBackoff:
    """The back-off of callers that wait: they try again soon, whatever the loop's back-off.

    They try together, so a crowd of them in an outage costs as few requests as one.
    """

    def __init__(self, growth: Growth) -> None:
        self._growth = growth
        self._attempts = 0
        self.retry_at = float("-inf")

    def fail(self, monotonic: float) -> None:
        """Count a try of waiting callers that failed."""
        self._attempts += 1
        self.retry_at = monotonic + self._growth.seconds(self._attempts)

    def succeed(self) -> None:
        """Start again with the shortest wait, because the store answers."""
        self._attempts = 0
        self.retry_at = float("-inf")


class KeyBackoff:
    """Keys that the store wants again (unsuccessful, or 429 for them alone): each waits for itself.

    REST has no limit of one write a second to a key, so a key that was written may be written again at once.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` is in monotonic seconds."""
        self._now = now
        self._keys: dict[KeyRef, tuple[int, float]] = {}  # failures in a row, and when to try again

    def ready_at(self, place: KeyRef) -> float:
        """Return the time (monotonic) from which the key may be sent."""
        return self._keys[place][1] if place in self._keys else float("-inf")

    def fail(self, place: KeyRef, asked: float = 0.0) -> None:
        """Note that the store wants a key again, not before `asked` seconds."""
        attempt = self._keys[place][0] + 1 if place in self._keys else 1
        self._keys[place] = attempt, self._now() + max(ONE_KEY.seconds(attempt), asked)

    def succeed(self, place: KeyRef) -> None:
        """Note that a key arrived, or need not any more."""
        self._keys.pop(place, None)

    def forget(self) -> None:
        """Forget all waits, because a caller asked for everything to be tried now."""
        self._keys.clear()
