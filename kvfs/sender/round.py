"""One round of sending: which of the chosen changes go, in which order, in which bodies.

Puts first. A tombstone of a rename goes only when the new name has arrived: a crash or a refusal may leave both
names, never neither. Any other waits for the puts before it as well, as `cp a b; rm a` means it, but no longer
than the oldest change waits: a put that does not get through must not hold up every deletion.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import trio

from kvfs.core.errors import JournalError, StoreError
from kvfs.core.expiry import EXPIRED, expiration_to_send
from kvfs.core.limits import KEY_WRITE_SECONDS
from kvfs.core.model import Change
from kvfs.core.packing import Batch, pack
from kvfs.journal.journal import Journal
from kvfs.sender.backoff import may_go_on
from kvfs.sender.conflicts import Checks, copy_key, needs_check
from kvfs.sender.events import Event, EventKind, OnConflict, SenderOptions
from kvfs.sender.outcome import Counts, Limits, Outcome, Reports, body_size
from kvfs.sender.post import Poster
from kvfs.store.base import Store

PACK_IN_THREAD: Final = 2_000  # packing more changes than this would hold the loop for long


class Round:
    """Sends what it is given. One call of `send` at a time: the caller holds the sending lock."""

    def __init__(
        self,
        journal: Journal,
        store: Store,
        *,
        now: Callable[[], float],
        options: SenderOptions,
        reports: Reports,
    ) -> None:
        self._journal = journal
        self._now = now
        self._options = options
        self._reports = reports
        self._checks = Checks(store, lambda change: journal.row(change.seq), now, options.settle_window)
        self._poster = Poster(journal, store, now=now, options=options, reports=reports)
        self.limits: Limits = self._poster.limits

    @property
    def counts(self) -> Counts:
        """So far."""
        counts = self._poster.counts
        counts.requests += self._checks.digests.requests
        self._checks.digests.requests = 0
        return counts

    def is_in_flight(self, change: Change) -> bool:
        """Whether a request that carries the change is under way."""
        return change.seq in self._poster.in_flight

    def ready_at(self, change: Change) -> float:
        """From when (monotonic) the key may be written again: KV takes one write a second."""
        return self._poster.written_at(change) + KEY_WRITE_SECONDS

    async def send(self, changes: Sequence[Change]) -> Outcome:
        """Send these. Raises nothing the store or a full disk does: that is in the outcome."""
        outcome = Outcome()
        try:
            puts = self._unexpired([change for change in changes if not change.is_tombstone], outcome)
            puts = await self._without_conflicts(puts, outcome)
            if outcome.failure is None or may_go_on(outcome.failure):
                await self._send_all(puts, outcome)
            if not outcome.is_over:
                tombstones = self._unblocked(change for change in changes if change.is_tombstone)
                await self._send_all(await self._without_conflicts(tombstones, outcome), outcome)
        except (StoreError, JournalError) as exc:
            self.counts.failures += 1
            outcome.fail(exc)
        return outcome

    def _unexpired(self, puts: Iterable[Change], outcome: Outcome) -> list[Change]:
        """Those whose time has not come; the others become absent, here and in the store."""
        alive = []
        for change in puts:
            if expiration_to_send(change.expiration, self._now()) is not EXPIRED:
                alive.append(change)
                continue
            self._journal.expire(change)
            outcome.done += 1
            self.counts.expired += 1
            text = f"{change.key!r} expired before it was sent"
            self._reports.event(Event(EventKind.EXPIRED, text, change.namespace, change.key))
        return alive

    async def _without_conflicts(self, changes: list[Change], outcome: Outcome) -> list[Change]:
        """Those whose values nobody else changed. Of the others both values are kept.

        A put becomes a copy beside its key, for the next round; a deletion is given up. Those that could not be
        asked for stay for the next round too, and hold up nobody.
        """
        rows = [self._journal.row(change.seq) for change in changes]
        asked = [row.change for row in rows if row is not None and needs_check(row)]
        if self._options.on_conflict is OnConflict.OVERWRITE or not asked:
            return changes
        verdicts = await self._checks.check(asked)
        outcome.checked = verdicts.answered
        if verdicts.failure is not None:
            self.counts.failures += 1
            outcome.fail_check(verdicts.failure, verdicts.wait_until)
        clear = []
        for change in changes:
            place = (change.namespace, change.key)
            if self._journal.row(change.seq) is None:
                continue
            if place in verdicts.changed:
                (self._spare if change.is_tombstone else self._keep_both)(change, outcome)
            elif place not in verdicts.open:
                clear.append(change)
        return clear

    def _keep_both(self, change: Change, outcome: Outcome) -> None:
        namespace = change.namespace
        copy = copy_key(
            change.key,
            self._options.host,
            self._now(),
            lambda key: self._journal.get(namespace, key) is not None,
        )
        self._journal.set_beside(change, copy)
        outcome.done += 1
        self.counts.conflicts += 1
        beside = self._journal.get(namespace, copy)
        if beside is not None:
            self._reports.moved(change, beside)
        text = (
            f"{change.key!r} was changed elsewhere since it was read here; the change made here is {copy!r}"
        )
        self._reports.event(Event(EventKind.CONFLICT, text, namespace, change.key, copy))

    def _spare(self, change: Change, outcome: Outcome) -> None:
        """Leave a value that is not the one that was renamed away, or that expired."""
        self._journal.spare(change)
        outcome.done += 1
        self.counts.conflicts += 1
        text = f"{change.key!r} was changed elsewhere since it was read here; it stays, and so does what was renamed"
        self._reports.event(Event(EventKind.CONFLICT, text, change.namespace, change.key))

    def _unblocked(self, tombstones: Iterable[Change]) -> list[Change]:
        """Tombstones that no put still has to precede."""
        first_put = next((c.seq for c in self._journal.iter_pending() if not c.is_tombstone), None)
        return [
            change
            for change in tombstones
            if (first_put is None or change.seq < first_put or not self.gives_way(change))
            and self._journal.blocker(change) is None
        ]

    def gives_way(self, tombstone: Change) -> bool:
        """Whether a deletion waits for puts before it that it does not depend on, as far as we know."""
        return tombstone.recorded_at > self._now() - self._options.max_age

    async def _send_all(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """All of them, a few requests at a time; when none of these comes through, what has not left stays."""
        for group in self._groups(await self._packed(changes)):
            await trio.sleep_until(outcome.wait_until)
            done = outcome.done
            async with trio.open_nursery() as nursery:
                for batch in group:
                    nursery.start_soon(self._poster.post, batch, outcome)
            if outcome.is_over or (outcome.refused and outcome.done == done):
                return

    async def _packed(self, changes: Sequence[Change]) -> list[tuple[Batch, int]]:
        """The batches with their sizes."""
        limits = self.limits

        def packed() -> list[tuple[Batch, int]]:
            batches = pack(changes, pairs=limits.pairs, body_bytes=limits.body_bytes)
            return [(batch, body_size(batch)) for batch in batches]

        return await trio.to_thread.run_sync(packed) if len(changes) > PACK_IN_THREAD else packed()

    def _groups(self, batches: Iterable[tuple[Batch, int]]) -> Iterator[list[Batch]]:
        """Requests to make at the same time: few, and together not above one full body."""
        group: list[Batch] = []
        used = 0
        for batch, size in batches:
            if group and (len(group) >= self._options.parallel or used + size > self._options.body_bytes):
                yield group
                group, used = [], 0
            group.append(batch)
            used += size
        if group:
            yield group
