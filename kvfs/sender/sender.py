"""The sender's loop: when to send pending changes, and how to drain them. fsync has its own way, `fsync.py`.

`run` is `send_once` repeated when something is due, `drain` until nothing is left, `send_now` for a few keys at once.
One round runs at a time, and fsyncs beside it: no key is on its way twice, because each sending claims its keys.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Final

import trio

from kvfs.core.errors import DeniedError, KvfsError
from kvfs.core.model import Change, Key, KeyRef, NamespaceId, Seq
from kvfs.journal.journal import Journal
from kvfs.sender.backoff import DRAINING, UrgentBackoff
from kvfs.sender.choice import FOREVER, Accept, RoundChoice
from kvfs.sender.dispatch import Dispatch
from kvfs.sender.events import DrainResult, Event, SenderOptions, SenderState, SenderStatistics
from kvfs.sender.fsync import LEAST_WAIT, Fsyncs
from kvfs.sender.outcome import Outcome, Reports
from kvfs.sender.round import Round
from kvfs.store.base import Store

SETTLE_AT_ONCE: Final = 200  # changes handed to on_settled between two checkpoints
INSTANT: Final = 0.001  # seconds; epoch seconds as a float are no finer than some 1e-7


class Countdown:
    """Counts seconds since a moment by the wall clock, or since it was first seen if that clock jumps."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None
        self._seen_at = 0.0

    def left(self, since: float | None, now: float) -> float:
        """Return the seconds that are left, 0 when it is over."""
        monotonic = trio.current_time()
        if since != self._since:
            self._since, self._seen_at = since, monotonic
        passed = max(monotonic - self._seen_at, now - (since or 0.0))
        left = self._seconds - passed
        return left if left > INSTANT else 0.0


class Sender:
    """Journal → store.

    `on_settled` gets changes about to leave the journal, while their values can still be read from it.
    Invariant: at most one task chooses and waits for a round, the holder of `_lock`.
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
        reports = Reports(self._resolved, self._moved, on_event)
        self._round = Round(journal, store, now=now, options=options, reports=reports)
        self._choice = RoundChoice(journal, self._round)
        self._dispatch = Dispatch(self._round, on_event)
        self._dispatch.listeners.append(self._learned)
        self._fsyncs = Fsyncs(journal, self._dispatch, now)
        self.send_at_once = self._fsyncs.at_once.send

        self._lock = trio.Lock()
        self._drained: list[set[KeyRef]] = []  # the keys that each drain under way waits for
        self._exhausted: int | None = None  # the journal's generation at which nothing could be sent
        self._ended = 0  # sendings that have ended, those of others too
        self._quiet = Countdown(options.delay)
        self._age = Countdown(options.max_age)
        self._nap: trio.CancelScope | None = None  # the loop's wait, while it waits
        self._short_nap: trio.CancelScope | None = None  # the latest that ends in time for any change
        self._next_ready = FOREVER  # when (monotonic) something that could not be sent may be
        self._settle_at: float | None = None  # when (monotonic) the next change has settled
        journal.news.on_change = self._noted

    # the loop

    async def run(self) -> None:
        """Send for ever: a quiet while after the last change, at an age, or when a body is full; and settle."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._dispatch.run)
            await self._loop()

    async def _loop(self) -> None:
        while True:
            await self.settle_due()
            with trio.move_on_after(self._pause()) as self._nap:
                await self._wait_for_work()
            self._nap = None
            if self._until_send() <= 0:
                await self._send_through(self._journal.totals.last_seq)

    async def _wait_for_work(self) -> None:
        if self._exhausted is None and self._dispatch.backoff.kind is None:
            await self._journal.news.wait_full(self._round.limits.round_pairs, self._round.limits.round_bytes)
        else:
            await self._journal.news.wait_changed()

    def _noted(self) -> None:
        """Take in a new change: the loop wakes in time for it.

        It is not woken for each, *because* an fsync sends most of what a database writes, at the cost of a wake.
        """
        nap, options = self._nap, self._options
        if nap is None or nap is self._short_nap:
            return  # the clock is asked once a nap, because a change is most often one of many
        # a long write-back is cut short by the greatest age, and what a command wrote settles alone
        soonest = trio.current_time() + min(options.delay, options.max_age, options.settle_window)
        if nap.deadline > soonest:
            nap.deadline = min(nap.deadline, trio.current_time() + self._pause())
        if nap.deadline <= soonest:
            self._short_nap = nap

    def _pause(self) -> float:
        return max(0.0, min(self._until_send(), self._until_settled()))

    def _until_send(self) -> float:
        """Return the seconds until something is to be sent. The wall clock may jump: it is believed within bounds."""
        if not self._journal.pending_count:
            return FOREVER
        monotonic = trio.current_time()
        if self._exhausted == self._journal.news.generation.number:
            return self._next_ready - monotonic
        self._exhausted = None
        if self._dispatch.backoff.kind is not None:
            return self._dispatch.backoff.retry_at - monotonic
        limits = self._round.limits
        if (
            self._journal.pending_count >= limits.round_pairs
            or self._journal.pending_bytes >= limits.round_bytes
        ):
            return 0.0
        now = self._now()
        quiet = self._quiet.left(self._journal.news.last_change_at, now)
        return min(quiet, self._age.left(self._journal.totals.oldest_pending_at, now))

    async def _send_through(self, seq: Seq) -> None:
        """Send all recorded up to `seq`; later changes wait their own time."""
        while True:
            outcome = await self._send_round(lambda change: change.seq <= seq, patient=True)
            if outcome.failure is not None or outcome.idle:
                return

    async def send_once(self) -> int:
        """Do one round: a body of puts, then of deletes. Return how many changes it settled in some way."""
        return (await self._send_round(lambda change: True)).done

    async def _send_round(self, accept: Accept, *, patient: bool = False) -> Outcome:
        """Select and send.

        `patient`: not if another's try failed while this one waited for its turn, or each pause would count double and
        soon be a minute.
        """
        async with self._lock:
            backoff = self._dispatch.backoff
            if patient and backoff.error is not None and trio.current_time() < backoff.retry_at:
                return Outcome(failure=backoff.error)
            generation, ended = self._journal.news.generation.number, self._ended
            changes = self._choice.choose(accept)
            outcome = await self._dispatch.carry_out(changes)
            self._choice.learn(changes, outcome)
            is_alone = self._ended <= ended + 1  # else a key that was passed over may be free now
            is_unchanged = generation == self._journal.news.generation.number
            outcome.idle = outcome.is_quiet and is_unchanged and is_alone
            self._next_ready = min(self._choice.next_ready, outcome.next_try)
            if outcome.idle and not self._choice.passed_over:
                self._exhausted = generation
            return outcome

    def _learned(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Take in the end of a sending, an fsync's too: it changes when to wake.

        Where all went well the loop sleeps on, at most until something is due: to wake it for each fsync would cost
        as much as the fsync.
        """
        self._ended += 1
        was_exhausted, self._exhausted = self._exhausted is not None, None
        nap = self._nap
        if nap is None:
            return
        if was_exhausted or not outcome.went_well or self._dispatch.backoff.kind is not None:
            nap.cancel()
        else:
            nap.deadline = min(nap.deadline, trio.current_time() + self._pause())

    # settling

    async def settle_due(self, *, at_once: bool = False) -> int:
        """Hand on and drop what has settled; returns how many.

        `at_once`: do not wait for the next look of the loop, because somebody wants to see what the store has now.
        """
        if not at_once and self._until_settled() > 0:
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
        """Return the seconds until something settles.

        Changes acknowledged later settle later, so the first moment stands.
        """
        if not self._journal.totals.settling_count:
            self._settle_at = None
            return FOREVER
        if self._settle_at is None:
            left = Countdown(self._options.settle_window).left(
                self._journal.totals.oldest_acked_at, self._now()
            )
            self._settle_at = trio.current_time() + max(left, LEAST_WAIT)
        return self._settle_at - trio.current_time()

    # draining

    async def drain(self, progress: Callable[[int, int], None] | None = None) -> DrainResult:
        """Send what is pending now, waiting through an outage for as long as the caller lets it.

        Ends when all has arrived, or what is left cannot be sent as things are (denied, quota, set aside).
        `progress` is called with how many of how many changes are settled.
        """
        wanted = {change.place for change in self._journal.iter_pending()}
        self._drained.append(wanted)
        try:
            return await self._drain(wanted, progress)
        finally:
            self._drained = [other for other in self._drained if other is not wanted]

    async def _drain(self, wanted: set[KeyRef], progress: Callable[[int, int], None] | None) -> DrainResult:
        total, sent = len(wanted), self._sent()
        self._round.forget_waits()
        waits = UrgentBackoff(DRAINING)
        await trio.sleep_until(self._dispatch.backoff.asked_until)
        while True:
            outcome = await self._send_round(lambda change: change.place in wanted)
            if progress is not None:
                left = sum(c.place in wanted for c in self._journal.iter_pending())
                progress(total - left, total)
            if isinstance(outcome.failure, DeniedError):
                break
            if outcome.failure is not None:
                if outcome.progress:
                    waits.succeed()
                waits.fail(trio.current_time())
                await trio.sleep_until(max(waits.retry_at, self._dispatch.backoff.asked_until))
            elif not outcome.idle:
                waits.succeed()
            elif self._choice.elsewhere:
                await trio.sleep(LEAST_WAIT)
            elif self._next_ready >= (self._round.quota_until() or FOREVER):
                break
            else:
                await trio.sleep_until(self._next_ready)
        error = outcome.failure or self._quota_error()
        totals = self._journal.totals
        left = totals.pending_count + totals.rejected_count
        said = str(error) if error is not None else None
        return DrainResult(self._sent() - sent, left, totals.rejected_count, said)

    def pending_count(self) -> int:
        """Return the number of changes that are not at the server."""
        return self._journal.pending_count

    def pending_bytes(self) -> int:
        """Return the bytes of their values."""
        return self._journal.pending_bytes

    def _quota_error(self) -> KvfsError | None:
        errors = (self._round.quota_error(change) for change in self._journal.iter_pending())
        return next((error for error in errors if error is not None), None)

    def _sent(self) -> int:
        return self._round.counts.sent + self._round.counts.deleted

    # fsync

    async def send_now(self, keys: Collection[KeyRef], timeout: float) -> None:
        """See `Fsyncs.send_now`."""
        await self._fsyncs.send_now(keys, timeout)

    def _resolved(self, change: Change, error: KvfsError | None) -> None:
        self._fsyncs.resolved(change, error)

    def _moved(self, change: Change, beside: Change) -> None:
        self._fsyncs.moved(change, beside)
        for wanted in self._drained:
            if change.place in wanted:
                wanted.add((beside.namespace, beside.key))

    # telling

    def beside(self, namespace: NamespaceId, key: Key) -> Key:
        """Return the name for the content of an open file whose key another client has written since.

        It is reported.
        """
        return self._round.beside(namespace, key)

    def is_in_flight(self, change: Change) -> bool:
        """Return whether a request that carries the change is on its way."""
        return change.seq in self._round.poster.in_flight

    @property
    def in_flight_count(self) -> int:
        """Return how many changes are carried by requests on their way."""
        return len(self._round.poster.in_flight)

    def next_try(self, change: Change) -> float | None:
        """Return in how many seconds a change that could not be sent is tried again.

        None when nothing holds it back.
        """
        ready = self._round.ready_at(change)
        if self._dispatch.backoff.kind is not None:
            ready = max(ready, self._dispatch.backoff.retry_at)
        left = ready - trio.current_time()
        return left if left > 0 else None

    def statistics(self) -> SenderStatistics:
        """Return the counts so far and the present state."""
        counts = self._round.counts
        backoff, quota_until = self._dispatch.backoff, self._round.quota_until()
        state, again = backoff.kind, backoff.retry_at
        if state is None and quota_until is not None:
            state, again = SenderState.QUOTA, quota_until
        retry_at = None if state is None else self._now() + again - trio.current_time()
        if state is None:
            state = SenderState.SENDING if self._dispatch.is_busy else SenderState.IDLE
        return SenderStatistics(
            state=state, last_error=self._dispatch.last_error, retry_at=retry_at, **asdict(counts)
        )
