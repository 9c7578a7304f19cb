"""One body to the store, or the pieces it has to be cut into, and the answer to the journal.

What fails stays pending; what is refused is halved until the culprit stands alone. Values are read when their
body is made, so that no more than a body of them is in memory.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final

import trio

from kvfs.core.errors import (
    BodyTooLargeError,
    JournalError,
    KvfsError,
    NamespaceNotFoundError,
    RejectedError,
    StoreError,
    UnavailableError,
)
from kvfs.core.expiry import EXPIRED, expiration_to_send
from kvfs.core.limits import KEY_WRITE_SECONDS
from kvfs.core.model import Change, Entry, Key, NamespaceId, Seq
from kvfs.core.packing import Batch, BatchKind, halve
from kvfs.journal.index import Place
from kvfs.journal.journal import INLINE_BYTES, Journal
from kvfs.sender.events import Event, EventKind, SenderOptions
from kvfs.sender.outcome import Counts, Limits, Outcome, Reports
from kvfs.store.base import Store

CHUNK: Final = 500  # rows of the journal touched between two checkpoints: a millisecond or two
READ_BYTES: Final = (
    2 * 1024 * 1024
)  # contents read between two: five milliseconds, if the journal is read for them
GONE_SECONDS: Final = 10.0  # a namespace just made may be unknown for a moment
AGAIN: Final = "the store asked to send it again"


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

        self.limits = Limits(options)
        self.counts = Counts()
        self.in_flight: set[Seq] = set()  # carried by requests under way
        self._written_at: OrderedDict[Place, float] = OrderedDict()  # when (monotonic) last, the latest last
        self._missing_since: dict[NamespaceId, float] = {}

    def written_at(self, change: Change) -> float:
        """When (monotonic) the key was last written, if that may matter still."""
        return self._written_at.get((change.namespace, change.key), float("-inf"))

    async def post(self, batch: Batch, outcome: Outcome) -> None:
        """Send a batch. Raises nothing the store or a full disk does: that is in the outcome."""
        parts = [batch]
        while parts:
            part = parts.pop()
            try:
                await self._attempt(part, outcome)
            except (BodyTooLargeError, RejectedError) as exc:
                parts += self._smaller(part, exc, outcome)
            except NamespaceNotFoundError as exc:
                await self._missing(part.namespace, exc, outcome)
                return
            except (StoreError, JournalError) as exc:
                self._fail(exc, outcome)
                return

    def _smaller(self, part: Batch, error: StoreError, outcome: Outcome) -> list[Batch]:
        """What to try instead of a part that was too much, or has a culprit in it; the next one last."""
        if isinstance(error, BodyTooLargeError):
            self.counts.failures += 1
            self.limits.shrink(part)
        if len(part.changes) > 1:
            return list(reversed(halve(part)))
        if isinstance(error, RejectedError):
            outcome.answered = True
            self._refuse(part.changes[0], error, outcome)
        elif part.kind is BatchKind.PUT:
            return [Batch(part.namespace, BatchKind.SINGLE, part.changes)]
        else:
            outcome.fail(error)
        return []

    async def _attempt(self, part: Batch, outcome: Outcome) -> None:
        """One request. Raises what the store raises; what it took is acknowledged."""
        changes = [change for change in part.changes if self._journal.row(change.seq) is not None]
        for some in _chunks(changes):
            self._journal.mark_attempted([change.seq for change in some])
            await trio.lowlevel.checkpoint()
        entries: dict[Key, Entry] = {}
        if part.kind is not BatchKind.DELETE:
            entries, changes = await self._entries(changes, outcome)
        if not changes:
            return
        self.counts.requests += 1
        self.in_flight |= {change.seq for change in changes}
        waiting = self._journal.waiting_for(change.seq for change in changes)
        try:
            left = await self._request(part, [change.key for change in changes], entries)
        finally:  # even a request that failed may have been a write
            self._note_written(changes)
            self.in_flight -= {change.seq for change in changes}
        self._missing_since.pop(part.namespace, None)
        self.limits.grow(part)
        self._release(changes, left, waiting)
        await self._acknowledge(changes, left, outcome)

    def _release(
        self, changes: Iterable[Change], left: frozenset[Key], waiting: Mapping[Seq, Sequence[Seq]]
    ) -> None:
        """Tombstones that waited for what has landed, though a newer put has its place by now."""
        replaced = (c.seq for c in changes if c.key not in left and self._journal.row(c.seq) is None)
        self._journal.release([tombstone for seq in replaced for tombstone in waiting.get(seq, ())])

    async def _entries(
        self, changes: Iterable[Change], outcome: Outcome
    ) -> tuple[dict[Key, Entry], list[Change]]:
        """The entries of those that are still the newest of their keys and readable, and which they are."""
        entries: dict[Key, Entry] = {}
        taken = []
        for some in _chunks(list(changes), most_bytes=READ_BYTES):
            for change in some:
                try:
                    if change.size <= INLINE_BYTES:
                        value = self._journal.value(change)
                    else:
                        value = await self._journal.read_value(change)
                except KeyError:
                    continue  # a newer change came
                except JournalError as exc:  # its file is gone
                    self._refuse(change, exc, outcome)
                    continue
                expiration = expiration_to_send(change.expiration, self._now())
                if expiration is EXPIRED:
                    continue  # the next round sees to it
                entries[change.key] = Entry(value, change.metadata, expiration)
                taken.append(change)
            await trio.lowlevel.checkpoint()
        return entries, taken

    async def _request(self, part: Batch, keys: list[Key], entries: dict[Key, Entry]) -> frozenset[Key]:
        """The keys the store wants again; without an answer in time, an error as for a body too large."""
        with trio.move_on_after(self._timeout):
            if part.kind is BatchKind.DELETE:
                return await self._store.bulk_delete(part.namespace, keys)
            if part.kind is BatchKind.PUT:
                return await self._store.bulk_put(part.namespace, entries)
            for key, entry in entries.items():
                await self._store.put(part.namespace, key, entry)
            return frozenset()
        text = f"no answer from the store within {self._timeout:g} s"
        raise BodyTooLargeError(text) if len(keys) > 1 else UnavailableError(text)

    # after a request

    def _note_written(self, changes: Iterable[Change]) -> None:
        now = trio.current_time()
        for change in changes:
            place = (change.namespace, change.key)
            self._written_at.pop(place, None)
            self._written_at[place] = now
        while self._written_at[next(iter(self._written_at))] < now - KEY_WRITE_SECONDS:
            del self._written_at[next(iter(self._written_at))]

    async def _acknowledge(self, changes: Iterable[Change], left: frozenset[Key], outcome: Outcome) -> None:
        taken = [change for change in changes if change.key not in left]
        again = [change.seq for change in changes if change.key in left]
        with trio.CancelScope(shield=True):  # the store has them: milliseconds, and nothing to send twice
            for some in _chunks(taken):
                self._journal.ack([change.seq for change in some], self._now())
                for change in some:
                    self._reports.resolved(change, None)
                await trio.lowlevel.checkpoint()
        outcome.done += len(taken)
        outcome.answered = outcome.answered or bool(taken)
        deleted = sum(change.is_tombstone for change in taken)
        self.counts.deleted += deleted
        self.counts.sent += len(taken) - deleted
        if again:
            self._journal.set_error(again, AGAIN)
            self._fail(UnavailableError(f"{len(again)} keys were not written everywhere: {AGAIN}"), outcome)

    def _refuse(self, change: Change, error: KvfsError, outcome: Outcome) -> None:
        """Set aside what can never be sent."""
        self._journal.reject(change.seq, str(error))
        outcome.done += 1
        self.counts.rejected += 1
        self._reports.resolved(change, error)
        self._tell(EventKind.REJECTED, change, f"was refused by the store: {error}")

    async def _missing(self, namespace: NamespaceId, error: NamespaceNotFoundError, outcome: Outcome) -> None:
        """The namespace is unknown: for a while that may be a rumour, then its changes are set aside."""
        now = trio.current_time()
        since = self._missing_since.setdefault(namespace, now)
        if now - since < GONE_SECONDS or not await self._is_gone(namespace):
            self._fail(UnavailableError(f"namespace {namespace} is unknown to the store: {error}"), outcome)
        else:
            self._set_aside(namespace, error, outcome)

    async def _is_gone(self, namespace: NamespaceId) -> bool:
        """Ask for the namespace itself: all that is pending for it hangs on the answer."""
        self.counts.requests += 1
        try:
            with trio.move_on_after(self._timeout):
                await self._store.get_namespace(namespace)
                self._missing_since.pop(namespace, None)
        except NamespaceNotFoundError:
            return True
        except StoreError:
            pass
        return False

    def _set_aside(self, namespace: NamespaceId, error: NamespaceNotFoundError, outcome: Outcome) -> None:
        changes = self._journal.reject_namespace(namespace, f"namespace {namespace} is gone: {error}")
        outcome.done += len(changes)
        self.counts.rejected += len(changes)
        for change in changes:
            self._reports.resolved(change, error)
        text = f"namespace {namespace} is gone; {len(changes)} changes of it are set aside"
        self._reports.event(Event(EventKind.REJECTED, text, namespace))

    def _tell(self, kind: EventKind, change: Change, text: str) -> None:
        self._reports.event(Event(kind, f"{change.key!r} {text}", change.namespace, change.key))

    def _fail(self, error: KvfsError, outcome: Outcome) -> None:
        self.counts.failures += 1
        outcome.fail(error)


def _chunks(changes: Iterable[Change], *, most_bytes: float = inf) -> Iterator[Sequence[Change]]:
    some: list[Change] = []
    size = 0
    for change in changes:
        if len(some) >= CHUNK or (some and size + change.size > most_bytes):
            yield some
            some, size = [], 0
        some.append(change)
        size += change.size
    if some:
        yield some
