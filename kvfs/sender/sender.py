"""The sender's loop: when to send what is pending, how to drain it, and fsync's way past the waiting.

`run` is `send_once` repeated when something is due, `drain` until nothing is left, `send_now` for a few keys
at once. All of them send under one lock: two bodies with the same key on the wire may land in either order.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Final

import trio

from kvfs.core.errors import DeniedError, KvfsError, RejectedError, TimedOutError
from kvfs.core.model import Change, ChangeState, Seq
from kvfs.journal.index import Place
from kvfs.journal.journal import Journal
from kvfs.sender.backoff import Backoff, UrgentBackoff
from kvfs.sender.choice import FOREVER, Accept, Choice
from kvfs.sender.events import (
    DrainResult,
    Event,
    EventKind,
    SenderOptions,
    SenderState,
    SenderStatistics,
)
from kvfs.sender.fsync import FsyncWait
from kvfs.sender.outcome import Outcome, Reports
from kvfs.sender.round import Round
from kvfs.store.base import Store

SETTLE_AT_ONCE: Final = 200  # changes handed to on_settled between two checkpoints
LEAST_WAIT: Final = 0.05  # seconds between two looks at something that has no moment of its own
INSTANT: Final = 0.001  # seconds; epoch seconds as a float are no finer than some 1e-7


class Countdown:
    """So many seconds since a moment by the wall clock, or since it was first seen if that clock jumps."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._seen_at = 0.0

    def left(self, since: float | None, now: float) -> float:
        """What is left of it, 0 when it is over."""
        monotonic = trio.current_time()
        if since != self._since:
            self._since, self._seen_at = since, monotonic
        passed = max(monotonic - self._seen_at, now - (since or 0.0))
        left = self._seconds - passed
        return left if left > INSTANT else 0.0


class Sender:
    """Journal → store.

    `on_settled` gets changes about to leave the journal, while their values can still be read from it.
    Invariant: at most one task is inside `_round.send`, the holder of `_lock`.
    """

    def __init__(
        self,
        journal: Journal,
        store: Store,
        *,
        now: Callable[[], float],
        options: SenderOptions = SenderOptions(),  # noqa: B008  frozen
        on_settled: Callable[[Sequence[Change]], None] = lambda changes: None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._journal = journal
        self._now = now
        self._options = options
        self._on_settled = on_settled
        self._on_event = on_event
        reports = Reports(self._resolved, self._moved, on_event)
        self._round = Round(journal, store, now=now, options=options, reports=reports)
        self._choice = Choice(journal, self._round)

        self._lock = trio.Lock()
        self._backoff = Backoff()
        self._urgency = UrgentBackoff()
        self._requests: list[FsyncWait] = []
        self._drained: list[set[Place]] = []  # what each drain under way waits for
        self._last_error: str | None = None
        self._exhausted: int | None = None  # the journal's version at which nothing could be sent
        self._quiet = Countdown(options.delay)
        self._age = Countdown(options.max_age)
        self._nap: trio.CancelScope | None = None  # the loop's wait, while it waits
        self._settle_at: float | None = None  # when (monotonic) the next change has settled

    # the loop

    async def run(self) -> None:
        """For ever: send a quiet while after the last change, at an age, or when a body is full; settle."""
        while True:
            await self.settle_due()
            with trio.move_on_after(self._pause()) as self._nap:
                await self._wait_for_work()
            self._nap = None
            if self._until_send() <= 0:
                await self._send_through(self._journal.last_seq)

    async def _wait_for_work(self) -> None:
        if self._journal.pending_count and self._exhausted is None and self._backoff.kind is None:
            await self._journal.wait_full(self._round.limits.pairs, self._round.limits.body_bytes)
        else:
            await self._journal.wait_changed()

    def _pause(self) -> float:
        return max(0.0, min(self._until_send(), self._until_settled()))

    def _until_send(self) -> float:
        """Seconds until something is to be sent. The wall clock may jump: it is believed within bounds."""
        if not self._journal.pending_count:
            return FOREVER
        monotonic = trio.current_time()
        if self._exhausted == self._journal.version:
            return self._choice.next_ready - monotonic
        self._exhausted = None
        if self._backoff.kind is not None:
            return self._backoff.retry_at - monotonic
        limits = self._round.limits
        if self._journal.pending_count >= limits.pairs or self._journal.pending_bytes >= limits.body_bytes:
            return 0.0
        now = self._now()
        quiet = self._quiet.left(self._journal.last_change_at, now)
        return min(quiet, self._age.left(self._journal.oldest_pending_at, now))

    async def _send_through(self, seq: Seq) -> None:
        """Send what was recorded up to `seq`: what comes later waits its own time."""
        while True:
            outcome = await self._send_round(lambda change: change.seq <= seq, patient=True)
            if outcome.failure is not None or outcome.idle:
                return

    async def send_once(self) -> int:
        """One round: a body of puts, then of deletes. How many changes it settled one way or another."""
        return (await self._send_round(lambda change: True)).done

    async def _send_round(self, accept: Accept, *, patient: bool = False) -> Outcome:
        """Select and send. `patient`: not if another's try failed while this one waited for its turn, or each
        pause would count double and soon be a minute."""
        async with self._lock:
            if patient and self._backoff.error is not None and trio.current_time() < self._backoff.retry_at:
                return Outcome(failure=self._backoff.error)
            version = self._journal.version
            changes = self._choice.choose(accept)
            outcome = await self._round.send(changes)
            self._learn(outcome)
            self._choice.learn(changes, outcome)
            outcome.idle = outcome.failure is None and version == self._journal.version
            if outcome.idle and not self._choice.passed_over:
                self._exhausted = version
            return outcome

    def _learn(self, outcome: Outcome) -> None:
        """Slow down after a failure, go on after a success; say so when it is news."""
        if self._nap is not None:  # another's send: what it settled, or put off, changes when to wake
            self._nap.cancel()
        if outcome.answered or outcome.checked:
            self._urgency.succeed()
        if outcome.failure is not None:
            self._exhausted = None  # from now on the back-off says when
            if outcome.progress:
                self._backoff.attempts = 0
            self._last_error = str(outcome.failure)
            news = self._backoff.fail(outcome.failure, now=self._now(), monotonic=trio.current_time())
            if news is not None:
                self._on_event(Event(news, self._last_error))
        elif outcome.answered and self._backoff.succeed():
            self._on_event(Event(EventKind.RECOVERED, "the store takes changes again"))

    # settling

    async def settle_due(self) -> int:
        """Hand on and drop what has settled; returns how many."""
        if self._until_settled() > 0:
            return 0
        window, count = self._options.settle_window, 0
        now = self._now()
        while True:
            if found := self._journal.settled(now, window, SETTLE_AT_ONCE):
                self._on_settled(found)
            dropped = self._journal.settle(now, window, SETTLE_AT_ONCE)  # no checkpoint since it was told
            if not dropped:
                break
            count += len(dropped)
            await trio.lowlevel.checkpoint()
        self._settle_at = None
        return count

    def _until_settled(self) -> float:
        """Seconds; changes acknowledged later settle later, so the first moment found stands."""
        if not self._journal.settling_count:
            self._settle_at = None
            return FOREVER
        if self._settle_at is None:
            left = Countdown(self._options.settle_window).left(self._journal.oldest_acked_at, self._now())
            self._settle_at = trio.current_time() + max(left, LEAST_WAIT)
        return self._settle_at - trio.current_time()

    # draining

    async def drain(self, progress: Callable[[int, int], None] | None = None) -> DrainResult:
        """Send what is pending now, waiting through an outage for as long as the caller lets it.

        Ends when all has arrived, or what is left cannot be sent as things are (denied, quota, set aside).
        `progress` is called with how many of how many changes are settled.
        """
        wanted = {(change.namespace, change.key) for change in self._journal.iter_pending()}
        self._drained.append(wanted)
        try:
            return await self._drain(wanted, progress)
        finally:
            self._drained = [other for other in self._drained if other is not wanted]

    async def _drain(self, wanted: set[Place], progress: Callable[[int, int], None] | None) -> DrainResult:
        total, sent = len(wanted), self._sent()
        if self._backoff.kind is SenderState.UNAVAILABLE:
            await trio.sleep_until(self._backoff.asked_until)
        outcome = Outcome()
        while True:
            outcome = await self._send_round(
                lambda change: (change.namespace, change.key) in wanted, patient=outcome.failure is not None
            )
            if progress is not None:
                left = sum((c.namespace, c.key) in wanted for c in self._journal.iter_pending())
                progress(total - left, total)
            if isinstance(outcome.failure, DeniedError):
                break
            if outcome.failure is not None:
                await trio.sleep_until(self._backoff.retry_at)
            elif outcome.idle:
                if self._choice.next_ready == FOREVER:
                    break
                await trio.sleep_until(self._choice.next_ready)
        error = str(outcome.failure) if outcome.failure is not None else None
        statistics = self._journal.statistics()
        left = statistics.pending + statistics.rejected
        return DrainResult(self._sent() - sent, left, statistics.rejected, error)

    def _sent(self) -> int:
        return self._round.counts.sent + self._round.counts.deleted

    # fsync

    async def send_now(self, keys: Collection[Place], timeout: float) -> None:
        """Return when the store has these keys as they are now, or newer; callers of a moment share a body.

        Raises RejectedError, DeniedError, QuotaError or NamespaceNotFoundError when it will not have them as
        things are, UnavailableError or TimedOutError when `timeout` passed; the changes stay in the journal.
        """
        with self._request(keys) as request:
            with trio.move_on_after(timeout):
                while not request.done:
                    async with self._lock:
                        await self._send_requested(request)
                    await self._before_next_try(request)
            if request.error is not None:
                raise copy(request.error) from request.error  # one error may be raised to many callers
            if not request.done and request.failure is not None:
                raise copy(request.failure) from request.failure
            if not request.done:
                raise TimedOutError(f"no answer from the store within {timeout:g} s")

    @contextmanager
    def _request(self, keys: Collection[Place]) -> Iterator[FsyncWait]:
        request = FsyncWait(self._journal, keys)
        self._requests.append(request)
        try:
            yield request
        finally:
            self._requests.remove(request)

    async def _send_requested(self, request: FsyncWait) -> None:
        """Send what all requests wait for, unless somebody just tried or the server said when."""
        now = trio.current_time()
        early = now < self._backoff.asked_until or (request.tried and now < self._urgency.retry_at)
        if request.done or early:
            self._tell_requests([request], self._backoff.error)
            return
        requests = [other for other in self._requests if not other.done]
        changes = self._requested(requests)
        for other in requests:
            other.tried = True
        outcome = await self._round.send(changes)
        self._learn(outcome)
        if outcome.failure is not None:
            self._urgency.fail(trio.current_time())
        self._tell_requests(requests, outcome.failure)

    def _requested(self, requests: Sequence[FsyncWait]) -> list[Change]:
        """The changes they need, and every put that has to precede a deletion among them."""
        found = {change.seq: change for request in requests for change in request.review(self._journal)}
        tombstones = [change for change in found.values() if change.is_tombstone]
        blockers = [self._journal.blocker(change) for change in tombstones]
        found |= {put.seq: put for put in blockers if put is not None and put.state is ChangeState.PENDING}
        last = max((change.seq for change in tombstones if self._round.gives_way(change)), default=None)
        if last is not None:
            for change in self._journal.iter_pending():
                if change.seq > last:
                    break
                if not change.is_tombstone:
                    found[change.seq] = change
        now = trio.current_time()
        return [found[seq] for seq in sorted(found) if self._round.ready_at(found[seq]) <= now]

    def _tell_requests(self, requests: Sequence[FsyncWait], failure: KvfsError | None) -> None:
        for request in requests:
            request.failure = failure or request.failure
            if isinstance(failure, DeniedError) and request.outstanding:
                request.fail(failure)

    async def _before_next_try(self, request: FsyncWait) -> None:
        """Until another's send settles it, or the store may be tried again and its keys be written."""
        if request.done:
            return
        pending = request.review(self._journal)
        for change in pending:
            put = self._journal.blocker(change)
            if put is not None and put.state is ChangeState.REJECTED:
                request.fail(
                    RejectedError(f"{put.key!r}, the new name of {change.key!r}, was refused: {put.error}")
                )
                return
        ready_at = max((self._round.ready_at(change) for change in pending), default=0.0)
        soon = trio.current_time() + LEAST_WAIT
        with trio.move_on_at(max(ready_at, self._urgency.retry_at, self._backoff.asked_until, soon)):
            await request.settled.wait()

    def _resolved(self, change: Change, error: KvfsError | None) -> None:
        for request in self._requests:
            request.resolved(change, error)

    def _moved(self, change: Change, beside: Change) -> None:
        for request in self._requests:
            request.moved(change, beside)
        for wanted in self._drained:
            if (change.namespace, change.key) in wanted:
                wanted.add((beside.namespace, beside.key))

    # telling

    def is_in_flight(self, change: Change) -> bool:
        """Whether a request that carries the change is on its way."""
        return self._round.is_in_flight(change)

    def statistics(self) -> SenderStatistics:
        """What was done so far and what it is at."""
        counts = self._round.counts
        state = self._backoff.kind or (SenderState.SENDING if self._lock.locked() else SenderState.IDLE)
        retry_at = None
        if self._backoff.kind is not None:
            retry_at = self._now() + self._backoff.retry_at - trio.current_time()
        return SenderStatistics(
            state=state,
            sent=counts.sent,
            deleted=counts.deleted,
            requests=counts.requests,
            failures=counts.failures,
            rejected=counts.rejected,
            conflicts=counts.conflicts,
            expired=counts.expired,
            last_error=self._last_error,
            retry_at=retry_at,
        )
