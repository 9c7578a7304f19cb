"""The breaker: after the service was out of reach, calls fail at once for a moment instead of waiting again.

Without it a path of several names, or a walk over a tree, would wait its whole bound at every step of an outage.
It counts answers of the service, never of one key. A key whose reads fail, or have no answer, makes its own next
reads fail at once, and the next call for something else a short one: if that is answered, it was the key; if that
has no answer either, it is the service. Where there is no connection at all, no key can be the reason.

A service may be slow. Short means twice as long as its last answers took, at least; and a call that was cut short tells
less than one that had its time: it does not make further calls short.

A firewall's page, or a code that nobody knows, is an answer, and most often about one key. Where different keys get
nothing else it is about the address or the account: then nobody asks for a while, which doubles with each try.
"""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Final, TypeVar

import trio

from kvfs.core.answer_times import AnswerTimes
from kvfs.core.errors import (
    BlockedError,
    BodyTooLargeError,
    NoAnswerError,
    NotSentError,
    OutOfTimeError,
    RateLimitedError,
    StoreError,
    UnavailableError,
    UnknownRefusalError,
    UnreachableError,
)
from kvfs.core.latest import Latest
from kvfs.store.base import Store
from kvfs.store.bulkread import Suspects
from kvfs.store.passage import heard, passage
from kvfs.store.wrapper import Around, StoreCall

T = TypeVar("T")

PAUSE: Final = 5.0  # seconds
LONGEST: Final = 60.0  # seconds, where everything is refused
PROBE: Final = 2.0  # seconds for an answer while a failure just before it is not explained
_PROOF: Final = 3  # failed calls in a row, of different subjects, that show the service to be away
_SILENCE: Final = 2  # a failure without an answer counts as this many
_REMEMBERED: Final = 1000  # subjects that failed

Subject = Set[object]
"""The keys that a call names, or its other arguments."""

NOTHING: Final[Subject] = frozenset()


class Breaker:
    """Knows if the service was out of reach a moment ago. Monotonic time: clocks that jump do not reach it."""

    def __init__(self, pause: float = PAUSE, probe: float = PROBE) -> None:
        self._pause = pause
        self._probe = probe
        self._answered_at = float("-inf")
        self._until = float("-inf")
        self._reason = ""
        self._doubtful_until = float("-inf")
        self._times = AnswerTimes()  # the times of reads
        self._is_silent = False  # the last answer that was waited for did not come
        self._suspects = Suspects(_PROOF)
        self._refused = Suspects(_PROOF)  # by a firewall, or with a code that nobody knows
        self._rest = pause  # seconds without a request once all of these are refused
        self._failed = Latest[Subject, tuple[float, str]](_REMEMBERED)  # until when, and why
        self._calls = 0  # under way
        self._unheard_since = float("inf")  # nothing came since then, although somebody waited

    def is_open(self) -> bool:
        """True while the service counts as out of reach: stale knowledge is better than another wait."""
        return trio.current_time() < self._until

    @property
    def reason(self) -> str:
        """Return why the service counts as out of reach; "" while it does not."""
        return self._reason if self.is_open() else ""

    @contextmanager
    def call(self) -> Iterator[float]:
        """Count a call while it is under way; yield the moment at which it began."""
        since = trio.current_time()
        self._calls += 1
        self._unheard_since = min(self._unheard_since, since)
        try:
            yield since
        finally:
            self._calls -= 1

    def heard(self) -> None:
        """Note that the service sent an answer, whatever it says."""
        self._unheard_since = trio.current_time() if self._calls > 1 else float("inf")
        heard()

    def took(self, seconds: float) -> None:
        """Note that a read was answered after so long."""
        self._times.note(seconds)

    def silence(self) -> float:
        """Return for how many seconds the service has sent nothing although somebody waits, over several tries."""
        return max(0.0, trio.current_time() - self._unheard_since) if self._calls else 0.0

    def check(self, operation: str, subject: Subject = NOTHING) -> None:
        """Raise `UnavailableError` for a moment after a failure, unless an answer came since."""
        if self.is_open():
            raise UnreachableError(
                f"{operation}: the store could not be reached a moment ago ({self._reason})"
            )
        until, reason = self._failed.get(subject, (float("-inf"), ""))
        if trio.current_time() < until:
            raise UnavailableError(f"{operation}: this failed a moment ago ({reason})")

    def bound(self) -> float:
        """Return the seconds that a call may take: few while it is open if the last failure was the service's."""
        is_open = self._is_silent or self._suspects.has_failures
        if not is_open or trio.current_time() >= self._doubtful_until:
            return float("inf")
        return self._times.patience(self._probe)

    def answered(self, subject: Subject = NOTHING) -> None:
        """Note that the service is there, and so is the subject."""
        self._answered_at = trio.current_time()
        self._until = float("-inf")
        self._is_silent = False
        self._rest = self._pause
        self._refused = Suspects(_PROOF)
        self._suspects.answered()
        self._failed.pop(subject, None)

    def failed(
        self, since: float, error: UnavailableError, subject: Subject = NOTHING, *, is_cut: bool = False
    ) -> None:
        """Note that a call begun at `since` failed. While others are answered it is the call, not the service.

        `is_cut`: it was given less than its time.
        """
        if isinstance(error, RateLimitedError | BodyTooLargeError | OutOfTimeError):
            return
        if isinstance(error, BlockedError | UnknownRefusalError):
            self.refused(error, subject)
            return
        if not is_cut:
            self.doubt(error)
        until = trio.current_time() + self._pause
        if self._answered_at < since:
            weight = _SILENCE if isinstance(error, UnreachableError) else 1
            if self._suspects.failed(subject, weight) or isinstance(error, NotSentError):
                self._until, self._reason = until, str(error)
        self._failed.keep(subject, (until, str(error)))

    def refused(self, error: UnavailableError, subject: Subject = NOTHING) -> None:
        """Note that the service is there: it understood the request, or a firewall chose it, as it may choose all."""
        rest, refused = self._rest, self._refused
        self.answered(subject)
        self._rest, self._refused = rest, refused
        if refused.failed(subject):
            self._until, self._reason = trio.current_time() + rest, str(error)
            self._rest = min(2 * rest, LONGEST)

    def doubt(self, error: UnavailableError) -> None:
        """Note a failed call: the next ones are to be short, until one is answered."""
        self._doubtful_until = trio.current_time() + self._pause
        self._is_silent = isinstance(error, NoAnswerError)


class Breaking(Around):
    """Calls fail at once while the breaker says so.

    With `patient` they never do, and only tell it of their success, and of reads that had no answer.
    """

    def __init__(self, store: Store, breaker: Breaker, *, patient: bool = False) -> None:
        super().__init__(store)
        self._breaker = breaker
        self._patient = patient

    async def _call(self, call: StoreCall[T]) -> T:
        with self._breaker.call() as since:
            return await self._within(since, call)

    async def _within(self, since: float, call: StoreCall[T]) -> T:
        subject = _subject(call)
        if not self._patient:
            self._breaker.check(call.operation, subject)
        bound = self._breaker.bound() if not self._patient or call.is_read else float("inf")
        try:
            with passage() as way, way.scope:
                way.scope.deadline = since + bound
                answer = await call()
            if way.scope.cancelled_caught:
                raise NoAnswerError(
                    f"{call.operation}: no answer within {bound:g} s, just after another failure"
                )
            if call.is_read:
                self._breaker.took(way.seconds)
        except UnavailableError as exc:
            # that several keys fail together is a question; the answer comes when they are asked apart
            tells = isinstance(exc, UnreachableError | BlockedError | UnknownRefusalError)
            is_cut = way.scope.cancelled_caught
            if not self._patient and (len(subject) < 2 or tells):
                self._breaker.failed(since, exc, subject, is_cut=is_cut)
            elif self._patient and not is_cut and call.is_read and isinstance(exc, NoAnswerError):
                self._breaker.doubt(exc)
            raise
        except StoreError:
            self._breaker.answered(subject)
            raise
        self._breaker.answered(subject)
        return answer


def _subject(call: StoreCall[T]) -> Subject:
    """Return the keys that a call names. A listing names its prefix, which a lookup makes the key that is looked up."""
    if "namespace" in call.operation:
        return frozenset([(call.operation, *call.args)])
    if call.operation == "list_keys":
        return frozenset([(call.namespace, str(call.kwargs.get("prefix", "")).rstrip("/"))])
    return frozenset((call.namespace, key) for key in call.keys)
