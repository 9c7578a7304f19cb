"""One round of sending: which of the chosen changes go, in which order, in which bodies.

Invariants:
- No key is in two requests at once, *because* two bodies may land in either order. The caller claims the keys of a
  `send` before, and releases them after.
- Puts go before deletions. The tombstone of a rename goes only when the put of the new name has landed, *because* a
  crash or a refusal between the two may leave both names, and never neither.
- Any other deletion waits for the puts recorded before it too, as `cp a b; rm a` means it, but no longer than the
  oldest change waits, *because* a put that never gets through must not hold up every deletion.
- A change is written shortly after it was compared with the store, *because* another client may write in between.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from math import ceil
from typing import Final

import trio

from kvfs.core.bulksize import BulkSize
from kvfs.core.errors import JournalError, QuotaError, StoreError
from kvfs.core.expiry import EXPIRED, expiration_to_send
from kvfs.core.limits import BULK_GET_KEYS, LIST_KEYS
from kvfs.core.model import Change, Key, KeyRef, NamespaceId
from kvfs.core.packing import Batch, pack
from kvfs.journal.journal import Journal
from kvfs.sender.backoff import may_go_on
from kvfs.sender.conflicts import Checks, Digests, needs_check
from kvfs.sender.copynames import copy_key
from kvfs.sender.events import Event, EventKind, OnConflict, SenderOptions
from kvfs.sender.outcome import Counts, Outcome, Reports
from kvfs.sender.post import Poster
from kvfs.sender.quota import BilledOperation, operation_of
from kvfs.store.base import Store
from kvfs.store.passage import urgently

COMPARED_SECONDS: Final = 10.0  # a change is written within this time after its comparison, or compared anew
COPIES: Final = 1_000  # conflicts of one second that are told apart for sure
OVERTAKEN: Final = 3  # times; then what was compared is written, whoever writes to the store meanwhile
PACK_IN_THREAD: Final = 2_000  # packing more changes than this would hold the loop for long


class Round:
    """Sends what it is given.

    Several calls of `send` may run at once, for different keys: whoever calls claims the keys before, and
    releases them after. Two bodies with the same key on the wire may land in either order.
    """

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
        digests = Digests(store, now, options.reading)
        self._checks = Checks(digests, lambda change: journal.row(change.seq), now, options.settle_window)
        self.poster = Poster(journal, store, now=now, options=options, reports=reports)
        self.limits: BulkSize = self.poster.limits
        self.is_near = self.poster.vouched.is_watched  # the store is on this machine: a request takes moments
        self._claimed: set[KeyRef] = set()
        self._others = 0  # the store's word on others when names were listed: see `Vouched`
        self._copies: deque[KeyRef] = deque(
            maxlen=COPIES
        )  # the latest: the journal forgets them once they are sent

    @property
    def counts(self) -> Counts:
        """Return the counts so far."""
        counts = self.poster.counts
        counts.requests += self._checks.digests.requests
        self._checks.digests.requests = 0
        return counts

    def claim(self, changes: Iterable[Change]) -> None:
        """Claim these keys, so that nobody else sends them."""
        self._claimed.update(change.place for change in changes)

    def release(self, changes: Iterable[Change]) -> None:
        """Release these keys, so that others may send them again."""
        self._claimed.difference_update(change.place for change in changes)

    def is_claimed(self, change: Change) -> bool:
        """Return whether somebody sends the key at the moment."""
        return change.place in self._claimed

    def ready_at(self, change: Change) -> float:
        """Return from when (monotonic) the change may be sent: its key may be backed off from, or a quota used up."""
        quotas = self.poster.quotas
        ready = max(
            self.poster.keys.ready_at(change.place),
            quotas.ready_at(operation_of(change)),
        )
        return max(ready, quotas.ready_at(BilledOperation.READ)) if self.asks_first(change) else ready

    def quota_error(self, change: Change) -> QuotaError | None:
        """Return the store's error about the allowance of the change, while that is used up."""
        quotas = self.poster.quotas
        error = quotas.error(operation_of(change))
        return error or (quotas.error(BilledOperation.READ) if self.asks_first(change) else None)

    def quota_until(self) -> float | None:
        """Return the time (monotonic) at which an allowance comes back; None when none is used up."""
        return self.poster.quotas.until()

    def forget_waits(self) -> None:
        """Forget all waits, because a caller asked for everything to be tried now."""
        self.poster.keys.forget()
        self.poster.quotas.forget()

    def asks_first(self, change: Change) -> bool:
        """Return whether the change is compared with the store before it is written."""
        if self._options.on_conflict is OnConflict.OVERWRITE:
            return False
        row = self._journal.row(change.seq)
        return row is not None and needs_check(row)

    async def send(self, changes: Sequence[Change], *, urgent: bool = False) -> Outcome:
        """Send these. It raises no error of the store or a full disk: the outcome has them."""
        with urgently(urgent):
            return await self._send(changes)

    async def _send(self, changes: Sequence[Change]) -> Outcome:
        outcome = Outcome()
        self.poster.doubts.begin()
        try:
            puts = self._unexpired([change for change in changes if not change.is_tombstone], outcome)
            await self._compare_and_send(puts, outcome)
            if len(puts) < len(changes) and not outcome.is_over:
                tombstones = self._unblocked((c for c in changes if c.is_tombstone), outcome)
                await self._compare_and_send(tombstones, outcome)
            await self.poster.culprits.judge(outcome)
            self.poster.judge_alone(outcome)
        except (StoreError, JournalError) as exc:
            self.counts.failures += 1
            outcome.fail(exc)
        self._note_failures(changes, outcome)
        return outcome

    def _note_failures(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Remember of what is left why, also for the next mount; those that nothing hindered wait for others."""
        for change_error, concerned in (
            (outcome.failure, list(changes)),
            (outcome.quota, [change for change in changes if self.quota_error(change) is not None]),
        ):
            if change_error is not None and concerned:
                with suppress(JournalError):
                    seqs = [change.seq for change in concerned]
                    self._journal.note_failure(seqs, str(change_error), self._now())

    def _unexpired(self, puts: Iterable[Change], outcome: Outcome) -> list[Change]:
        """Return the puts that have not expired; make the others absent, here and in the store."""
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

    async def _compare_and_send(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Compare and send all, a part at a time.

        No more is compared than can be written soon after, or it would be compared, and paid for, once more.
        """
        began, rest = trio.current_time(), list(changes)
        while rest and trio.current_time() - began <= COMPARED_SECONDS:
            size = ceil(self.limits.pairs / BULK_GET_KEYS) * BULK_GET_KEYS  # about a body
            done = outcome.done
            some, rest = rest[:size], rest[size:]
            clear = await self._without_conflicts(some, self._ahead(some, rest), outcome)
            if outcome.failure is not None and not may_go_on(outcome.failure):
                return
            await self._send_all(clear, outcome)
            if outcome.overtaken:
                outcome.overtaken = False
                outcome.overtakings += 1
                self._checks.digests.forget_lists()  # some may have been under way when others were found
                rest = [*self._to_compare_anew(clear), *rest]
                continue
            if outcome.is_over or (outcome.refused and outcome.done == done):
                return
        if rest:  # its time was up, and nothing else says that it is to be tried again
            outcome.next_try = min(outcome.next_try, trio.current_time())

    def _to_compare_anew(self, changes: Iterable[Change]) -> list[Change]:
        """Return the changes that were not written because somebody else had written meanwhile."""
        now = trio.current_time()
        pending = (change for change in changes if self._journal.row(change.seq) is not None)
        return [change for change in pending if self.ready_at(change) <= now]

    def _ahead(self, some: Sequence[Change], rest: Sequence[Change]) -> list[Change]:
        """Return the changes that follow, up to a full page, because one list tells of a page of new names."""
        room = -(len(some) + len(rest)) % LIST_KEYS
        known = {change.seq for change in [*some, *rest]}
        later = (change for change in self._journal.iter_pending() if change.seq not in known)
        return [*rest, *islice(later, room)]

    async def _without_conflicts(
        self, changes: list[Change], ahead: Sequence[Change], outcome: Outcome
    ) -> list[Change]:
        """Return the changes whose values nobody else changed. Of the others keep both values.

        A put becomes a copy beside its key, for the next round; a deletion is given up. Those that could not be
        asked for stay for the next round too, and hold up nobody.
        """
        vouched, begun = self.poster.vouched, self.poster.vouched.begin()
        compared = [change for change in changes if self.asks_first(change)]
        is_bound = outcome.overtakings < OVERTAKEN
        vouched.rely(changes, compared if is_bound else (), begun)
        asked = [change for change in compared if not (is_bound and vouched.has(change))]
        if not asked:
            return changes
        if begun != self._others:
            self._others = begun
            self._checks.digests.forget_lists()
        found = await self._checks.check(asked, ahead)
        outcome.checked = found.answered > 0
        if isinstance(found.failure, QuotaError):
            self.poster.use_up(BilledOperation.READ, found.failure, outcome)
        elif found.unasked and found.unasked <= found.alone and found.failure is not None:
            held = [change for change in asked if change.place in found.unasked]
            self.poster.postpone(held, found.failure, outcome)
        elif found.failure is not None:
            self.counts.failures += 1
            outcome.fail_check(found.failure, found.wait_until)
        clear = []
        for change in changes:
            if self._journal.row(change.seq) is None:
                continue
            if change.place in found.changed:
                (self._spare if change.is_tombstone else self._keep_both)(change, outcome)
            elif change.place not in found.unasked:
                clear.append(change)
        strange = found.changed | found.unasked
        vouched.note((c for c in asked if c.place not in strange), begun)
        return clear

    def _keep_both(self, change: Change, outcome: Outcome) -> None:
        namespace = change.namespace
        copy = self._free_key(namespace, change.key)
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

    def _free_key(self, namespace: NamespaceId, key: Key) -> Key:
        """Return a free name for a copy of a key."""

        def is_taken(copy: Key) -> bool:
            return self._journal.get(namespace, copy) is not None or (namespace, copy) in self._copies

        copy = copy_key(key, self._options.host, self._now(), is_taken)
        self._copies.append((namespace, copy))
        return copy

    def beside(self, namespace: NamespaceId, key: Key) -> Key:
        """Return the name for the content of an open file whose key another client has written since."""
        if self._options.on_conflict is OnConflict.OVERWRITE:
            return key
        copy = self._free_key(namespace, key)
        self.counts.conflicts += 1
        text = f"{key!r} was changed elsewhere since it was opened here; what was written to it is {copy!r}"
        self._reports.event(Event(EventKind.CONFLICT, text, namespace, key, copy))
        return copy

    def _spare(self, change: Change, outcome: Outcome) -> None:
        """Spare a value that differs from the one that was renamed away, or that expired."""
        self._journal.spare(change)
        outcome.done += 1
        self.counts.conflicts += 1
        text = f"{change.key!r} was changed elsewhere since it was read here; it stays, and so does what was renamed"
        self._reports.event(Event(EventKind.CONFLICT, text, change.namespace, change.key))

    def _unblocked(self, tombstones: Iterable[Change], outcome: Outcome) -> list[Change]:
        """Return the tombstones that no put still has to precede."""
        first_put = next((c.seq for c in self._journal.iter_pending() if not c.is_tombstone), None)
        free = []
        for change in tombstones:
            if self._journal.blocker(change) is not None:
                continue
            left = self._gives_way_for(change)
            if first_put is None or change.seq < first_put or left <= 0:
                free.append(change)
            else:
                outcome.next_try = min(outcome.next_try, trio.current_time() + left)
        return free

    def gives_way(self, tombstone: Change) -> bool:
        """Return whether a deletion waits for puts before it that it does not depend on, as far as we know."""
        return self._gives_way_for(tombstone) > 0

    def _gives_way_for(self, tombstone: Change) -> float:
        """Return for how many seconds more."""
        return tombstone.recorded_at + self._options.max_age - self._now()

    async def _send_all(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Send all, a few requests at a time; when none of these comes through, the rest stays.

        So does what would leave long after it was compared with the store. Each body is packed by what the one
        before it taught.
        """
        began, rest = trio.current_time(), list(changes)
        while rest and trio.current_time() - began <= COMPARED_SECONDS:
            group = self._group(await self._packed(rest))
            gone = {change.place for batch in group for change in batch.changes}
            rest = [change for change in rest if change.place not in gone]
            if outcome.wait_until > trio.current_time():
                await trio.sleep_until(outcome.wait_until)
            done = outcome.done
            await self._post_all(group, outcome)
            if outcome.is_over or outcome.overtaken or (outcome.refused and outcome.done == done):
                return

    async def _post_all(self, group: Sequence[Batch], outcome: Outcome) -> None:
        """Post all at the same time.

        One alone without a task of its own, which would cost an fsync two turns of the loop.
        """
        if len(group) == 1:
            await self.poster.post(group[0], outcome)
            return
        async with trio.open_nursery() as nursery:
            for batch in group:
                nursery.start_soon(self.poster.post, batch, outcome)

    async def _packed(self, changes: Sequence[Change]) -> list[tuple[Batch, int]]:
        """Return the batches with their sizes."""
        limits = self.limits

        def packed() -> list[tuple[Batch, int]]:
            batches = pack(changes, pairs=limits.pairs, body_bytes=limits.body_bytes)
            return [(batch, batch.body_bytes) for batch in batches]

        return await trio.to_thread.run_sync(packed) if len(changes) > PACK_IN_THREAD else packed()

    def _group(self, batches: Iterable[tuple[Batch, int]]) -> list[Batch]:
        """Return the next requests to make at the same time: few, and together not above one full body."""
        group: list[Batch] = []
        used = pairs = 0
        for batch, size in batches:
            used, pairs = used + size, pairs + len(batch.changes)
            is_full = used > self._options.body_bytes or pairs > self.limits.pairs
            if group and (is_full or len(group) >= self._options.parallel):
                break
            group.append(batch)
        return group
