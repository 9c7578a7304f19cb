"""Sends one body to the store, or the pieces it has to be cut into, and records the answer.

A change that fails stays pending; a body that is refused is halved until the culprit stands alone. Values are read
when their body is made, so that no more than a body of them is in memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from kvfs.core.bulksize import BulkSize
from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import (
    BlockedError,
    BodyTooLargeError,
    JournalError,
    KvfsError,
    NamespaceNotFoundError,
    NoAnswerError,
    OvertakenError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    StoreError,
    UnavailableError,
    UncertainError,
    UnknownRefusalError,
    without_frames,
)
from kvfs.core.expiry import EXPIRED, expiration_to_send
from kvfs.core.model import Change, Entry, Key, Seq
from kvfs.core.packing import Batch, BatchKind, halve, pack
from kvfs.journal.journal import Journal
from kvfs.sender.arrivals import Arrivals
from kvfs.sender.backoff import KeyBackoff, asked_wait
from kvfs.sender.chunks import CHUNK, chunks, turn
from kvfs.sender.culprits import Culprits
from kvfs.sender.disguise import Disguises, can_be_disguised
from kvfs.sender.doubts import Doubts
from kvfs.sender.events import Event, EventKind, SenderOptions
from kvfs.sender.outcome import Counts, Outcome, Reports
from kvfs.sender.quota import BilledOperation, Quotas, operation_of
from kvfs.sender.vouched import Vouched
from kvfs.store.base import Store
from kvfs.store.passage import passage

READ_BYTES: Final = (
    2 * 1024 * 1024
)  # contents read between two: five milliseconds, if the journal is read for them
AGAIN: Final = "the store asked to send it again"
ASKED_FROM: Final = 100  # changes; a smaller body whose answer was lost is sent again without asking first
PATIENCE: Final = 10.0  # seconds without any more of them, after which what a server writes on has ended
KEY_WAIT: Final = 10.0  # seconds; a longer wait that the server asks for is not for the sake of one key


class Poster:
    """Makes requests; several calls of `post` may run at once, for different keys."""

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
        self._store = store
        self._now = now
        self._timeout = options.timeout
        self._reports = reports

        self.limits = BulkSize(options.first_pairs, pairs=options.pairs, body_bytes=options.body_bytes)
        self.counts = Counts()
        self.keys = KeyBackoff(trio.current_time)
        self.quotas = Quotas(now)
        self.in_flight: set[Seq] = set()  # carried by requests under way
        self.culprits = Culprits(journal, store, self.counts, reports, options.timeout)
        self._arrivals = Arrivals(store, self.counts)
        self.vouched = Vouched(store)
        self.doubts = Doubts()
        self._disguises = Disguises()

    async def post(self, batch: Batch, outcome: Outcome) -> None:
        """Send a batch. It raises no error of the store or a full disk: the outcome has them."""
        parts = self._apart(batch)
        while parts:
            part = parts.pop()
            if self.quotas.error(operation_of(part.changes[0])) is not None:
                return
            if len(part.changes) > self.limits.pairs:
                parts += reversed(self._packed(part))
                continue
            if self.culprits.is_refusing(part.namespace) and not await self._has_witness(part, outcome):
                return
            try:
                await self._attempt(part, outcome)
            except (StoreError, JournalError) as exc:
                without_frames(exc)
                if self._is_doubtful(part, exc):
                    parts = [*reversed(self._divided(part, exc, outcome)), *parts]  # the widest first
                    continue
                smaller = await self._after(part, exc, outcome)
                if smaller is None:
                    return
                parts += reversed(smaller)

    # one key may be the reason

    def _apart(self, batch: Batch) -> list[Batch]:
        """Split off keys that failed alone before: return the batch without them, to go first, and each of them."""
        alone = [change for change in batch.changes if self.doubts.is_culprit(change.place)]
        if not alone or len(batch.changes) == 1:
            return [batch]
        others = tuple(change for change in batch.changes if not self.doubts.is_culprit(change.place))
        singles = [replace(batch, changes=(change,)) for change in alone]
        return [*singles, replace(batch, changes=others)] if others else singles

    def _is_doubtful(self, part: Batch, error: KvfsError) -> bool:
        """Return whether it fails again and again for a reason that the server does not give."""
        is_plain = type(error) in (UnavailableError, NoAnswerError)
        return is_plain and self.doubts.failed([change.place for change in part.changes], error)

    def _divided(self, part: Batch, error: KvfsError, outcome: Outcome) -> list[Batch]:
        self.counts.failures += 1
        if len(part.changes) > 1:
            return list(halve(part))
        outcome.alone.append((part.changes[0], error))
        return []

    def judge_alone(self, outcome: Outcome) -> None:
        """Let a key that failed alone wait for itself, if the store takes others; called at the end of a round."""
        alone, outcome.alone = outcome.alone, []
        for change, error in alone:
            if change.namespace in outcome.accepted:
                self.doubts.blame(change.place)
            if self.doubts.is_culprit(change.place):
                self.postpone([change], error, outcome)
            else:
                self._fail(error, outcome)

    # the batches to try instead: smaller ones, none, or None to leave all the rest pending

    async def _after(self, part: Batch, error: KvfsError, outcome: Outcome) -> list[Batch] | None:
        match error:
            case OvertakenError():
                outcome.overtaken = True
                return None
            case BodyTooLargeError():
                return self._too_large(part, error, outcome)
            case UncertainError():
                self.postpone(self._left(part), error, outcome)
                return []
            case RejectedError() | BlockedError() | UnknownRefusalError():
                return await self._with_culprit(part, error, outcome)
            case QuotaError():
                return self._beyond_quota(part, error, outcome)
            case NamespaceNotFoundError():
                await self.culprits.missing(part.namespace, error, outcome)
                return None
            case RateLimitedError() if _is_for_one_key(part, error):
                self.postpone(part.changes, error, outcome, asked_wait(error))
                return []
        self._fail(error, outcome)
        return None

    def _left(self, part: Batch) -> list[Change]:
        return [change for change in part.changes if self._journal.row(change.seq) is not None]

    def _packed(self, part: Batch) -> list[Batch]:
        """Pack the rest of a batch into bodies of the size that is known to pass."""
        batches = pack(self._left(part), pairs=self.limits.pairs, body_bytes=self.limits.body_bytes)
        return [replace(batch, disguised=part.disguised) for batch in batches]

    def _too_large(self, part: Batch, error: StoreError, outcome: Outcome) -> list[Batch]:
        self.counts.failures += 1
        self.limits.shrink(len(part.changes), part.body_bytes)
        smaller = self._packed(part)
        if len(smaller) != 1:
            return smaller
        if len(smaller[0].changes) > 1:
            return list(halve(smaller[0]))
        if part.kind is BatchKind.PUT and len(part.changes) == 1:
            return [Batch(part.namespace, BatchKind.SINGLE, part.changes)]
        if len(part.changes) == 1:
            outcome.fail(error)
            return []
        return smaller

    async def _with_culprit(self, part: Batch, error: StoreError, outcome: Outcome) -> list[Batch] | None:
        """Halve to the culprit; send it once more in base64, which a firewall cannot read, if one refused it."""
        if not isinstance(error, RejectedError):
            self.counts.failures += 1
            if not await self._has_witness(part, outcome, error):
                return None
        if len(part.changes) > 1:
            return list(halve(part))
        change = part.changes[0]
        if isinstance(error, RejectedError):
            outcome.answered = True
            self.culprits.refuse(change, error, outcome)
        elif isinstance(error, BlockedError) and not part.disguised and can_be_disguised(change):
            return [Batch(part.namespace, BatchKind.PUT, part.changes, disguised=True)]
        else:
            outcome.suspects.append((change, error))
        return []

    async def _has_witness(self, part: Batch, outcome: Outcome, error: StoreError | None = None) -> bool:
        """Return whether the store takes anything for this namespace; if not, that is the round's failure."""
        if len(part.changes) < 2 or part.namespace in outcome.accepted:
            return True
        for witness in self.culprits.witnesses(part):
            try:
                await self._attempt(witness, outcome)
            except (BlockedError, UnknownRefusalError) as exc:
                error = without_frames(exc)
            except RejectedError as exc:  # a word of the API itself
                self.culprits.refuse(witness.changes[0], exc, outcome)
                return True
            except StoreError as exc:
                self._fail(exc, outcome)
                return False
            else:
                return True
        self.culprits.note_refusing(part.namespace)
        self._fail(error or UnavailableError("the store takes nothing"), outcome)
        return False

    def _beyond_quota(self, part: Batch, error: QuotaError, outcome: Outcome) -> list[Batch] | None:
        """Try a smaller body, which may fit into the rest of the day; when a single change does not, nothing does."""
        self.counts.failures += 1
        if len(part.changes) > 1:
            return list(halve(part))
        self.use_up(operation_of(part.changes[0]), error, outcome)
        return None

    def use_up(self, operation: BilledOperation, error: QuotaError, outcome: Outcome) -> None:
        """Note that an allowance of the day is used up: changes that need it wait, and the user is told once."""
        outcome.quota = error
        if self.quotas.use_up(operation, error):
            text = f"the day's allowance of {operation} is used up; they go on after 00:00 UTC: {error}"
            self._reports.event(Event(EventKind.QUOTA, text))

    # one request

    async def _attempt(self, part: Batch, outcome: Outcome) -> None:
        """Send one request and acknowledge the changes it took. Raises what the store raises."""
        changes = self._left(part)
        for number, some in enumerate(chunks(changes)):
            await turn(number)
            self._journal.mark_attempted([change.seq for change in some])
        entries: dict[Key, Entry] = {}
        if part.kind is not BatchKind.DELETE:
            entries, changes = await self._entries(changes, outcome)
        if not changes:
            return
        self.counts.requests += 1
        seqs = {change.seq for change in changes}
        self.in_flight |= seqs
        waiting = self._journal.waiting_for(seqs)
        begun = self.vouched.begin()
        try:
            left = await self._request(part, changes, entries)
        except (BodyTooLargeError, UncertainError) as exc:
            arrived = await self._arrived(changes, entries, exc)
            await self._acknowledge([change for change in changes if change.key in arrived], outcome)
            raise
        finally:
            self.in_flight -= seqs
        self._taken(part, outcome)
        self.vouched.note((change for change in changes if change.key not in left), begun)
        self._release(changes, left, waiting)
        await self._acknowledge([change for change in changes if change.key not in left], outcome)
        if left:
            error = UnavailableError(f"{len(left)} keys were not written everywhere: {AGAIN}")
            self.postpone([change for change in changes if change.key in left], error, outcome)

    def _taken(self, part: Batch, outcome: Outcome) -> None:
        outcome.accepted.add(part.namespace)
        self.doubts.answered(change.place for change in part.changes)
        self.culprits.known(part.namespace)
        if part.disguised:
            self._disguises.remember(part.changes)
        operation = operation_of(part.changes[0])
        if self.quotas.succeed(operation):
            self._reports.event(Event(EventKind.RECOVERED, f"the store takes {operation} again"))

    def _release(
        self, changes: Iterable[Change], left: frozenset[Key], waiting: Mapping[Seq, Sequence[Seq]]
    ) -> None:
        """Release tombstones that waited for a put that has landed, though a newer put has its place by now."""
        replaced = (c.seq for c in changes if c.key not in left and self._journal.row(c.seq) is None)
        self._journal.release([tombstone for seq in replaced for tombstone in waiting.get(seq, ())])

    async def _entries(
        self, changes: Iterable[Change], outcome: Outcome
    ) -> tuple[dict[Key, Entry], list[Change]]:
        """Return the entries of changes that are still the newest of their keys and readable, and which they are."""
        entries: dict[Key, Entry] = {}
        taken = []
        left = READ_BYTES
        for change in list(changes):
            left -= max(change.size, READ_BYTES // CHUNK)
            if left < 0:
                await turn(1)
                left = READ_BYTES
            try:
                if change.size <= INLINE_BYTES:
                    value = self._journal.value(change)
                else:
                    value = await self._journal.read_value(change)
            except KeyError:
                continue  # a newer change came
            except JournalError as exc:  # its file is gone
                self.culprits.refuse(change, exc, outcome)
                continue
            expiration = expiration_to_send(change.expiration, self._now())
            if expiration is EXPIRED:
                continue  # the next round sees to it
            entries[change.key] = Entry(value, change.metadata, expiration)
            taken.append(change)
        return entries, taken

    async def _request(
        self, part: Batch, changes: Sequence[Change], entries: dict[Key, Entry]
    ) -> frozenset[Key]:
        """Return the keys the store wants again; without an answer in time, raise an error as for a body too large."""
        with passage() as way, trio.move_on_after(self._timeout):
            left = await self._asked_for(part, [change.key for change in changes], entries)
            self.limits.note(len(part.changes), part.body_bytes, trio.current_time() - way.began)
            return left
        text = f"no answer from the store within {self._timeout:g} s"
        raise BodyTooLargeError(text) if len(changes) > 1 else UnavailableError(text)

    async def _asked_for(self, part: Batch, keys: list[Key], entries: dict[Key, Entry]) -> frozenset[Key]:
        store = self.vouched.store_for(part)
        if part.kind is BatchKind.DELETE:
            return await store.bulk_delete(part.namespace, keys)
        if part.kind is BatchKind.PUT:
            disguised = part.disguised or self._disguises.wanted(part.namespace, keys)
            return await store.bulk_put(part.namespace, entries, disguised=disguised)
        for key, entry in entries.items():
            await store.put(part.namespace, key, entry)
        return frozenset()

    # after a request

    async def _arrived(
        self, changes: Sequence[Change], entries: Mapping[Key, Entry], error: UnavailableError
    ) -> frozenset[Key]:
        """Return the changes that arrived although no answer said so. An answer that may be stale does not count."""
        never_read = isinstance(error, BodyTooLargeError) and error.status == 413
        if never_read or (isinstance(error, BodyTooLargeError) and len(changes) < ASKED_FROM):
            return frozenset()
        sent: dict[Key, Entry | None] = {}
        for change in changes:
            row = self._journal.row(change.seq)
            if row is not None and not row.ancestors:
                sent[change.key] = None if change.is_tombstone else entries[change.key]
        patience = PATIENCE if isinstance(error, BodyTooLargeError) else 0.0
        return await self._arrivals.ask(changes[0].namespace, sent, patience)

    async def _acknowledge(self, taken: Sequence[Change], outcome: Outcome) -> None:
        for number, some in enumerate(chunks(taken)):
            await turn(number, shield=True)  # the store has them: milliseconds, and nothing to send twice
            self._journal.ack([change.seq for change in some], self._now())
            for change in some:
                self.keys.succeed(change.place)
                self._reports.resolved(change, None)
        outcome.done += len(taken)
        outcome.answered = outcome.answered or bool(taken)
        deleted = sum(change.is_tombstone for change in taken)
        self.counts.deleted += deleted
        self.counts.sent += len(taken) - deleted

    def postpone(
        self, changes: Iterable[Change], error: KvfsError, outcome: Outcome, asked: float = 0.0
    ) -> None:
        """Let these keys wait, each for itself; the others go on."""
        changes = list(changes)
        if changes:
            self.counts.failures += 1
            outcome.postponed = error
            seqs = [change.seq for change in changes]
            self._journal.set_error(seqs, str(error))
            self._journal.note_failure(seqs, str(error), self._now())
        for change in changes:
            self.keys.fail(change.place, asked)

    def _fail(self, error: KvfsError, outcome: Outcome) -> None:
        self.counts.failures += 1
        outcome.fail(error)


def _is_for_one_key(part: Batch, error: RateLimitedError) -> bool:
    """True for a 429 of the server that may be about the key alone."""
    return error.status == 429 and len(part.changes) == 1 and asked_wait(error) <= KEY_WAIT
