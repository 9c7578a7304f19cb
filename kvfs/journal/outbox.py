"""The side of the journal that the sender works with: what is pending, and what became of it.

Changes are named by their sequence numbers. One that is not pending any more (a newer change of the key took
its place) is passed over silently: so progress on the wire and changes of the file system never collide.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from kvfs.core.model import Change, ChangeState, Key, NamespaceId, Seq
from kvfs.journal.index import Place
from kvfs.journal.rules import Put, Row, acknowledged, attempted
from kvfs.journal.writer import Recording


class Outbox(Recording):
    """Pending, acknowledged, settling, rejected."""

    def pending(self) -> list[Change]:
        """What the store has to hear, by seq, without values."""
        return [row.change for row in self._ledger.ordered_pending()]

    def iter_pending(self) -> Iterator[Change]:
        """The same, for who may stop early and alters nothing meanwhile."""
        return (row.change for row in self._ledger.ordered_pending())

    @property
    def pending_count(self) -> int:
        """Changes to be sent."""
        return len(self._ledger.pending)

    @property
    def pending_bytes(self) -> int:
        """Bytes of their values."""
        return self._ledger.pending_bytes

    @property
    def oldest_pending_at(self) -> float | None:
        """Since when (epoch seconds) some key differs from what was last sent of it; None when none does."""
        return min((row.since for row in self._ledger.pending.values()), default=None)

    def row(self, seq: Seq) -> Row | None:
        """The pending change of that number with what the sender needs beside it."""
        return self._ledger.pending.get(seq)

    def _rows(self, seqs: Iterable[Seq]) -> list[Row]:
        """Of those that are pending still."""
        pending = self._ledger.pending
        return [pending[seq] for seq in dict.fromkeys(seqs) if seq in pending]

    def blocker(self, change: Change) -> Change | None:
        """The put, pending or rejected, that has to land before this tombstone of a rename is sent."""
        row = self._ledger.pending.get(change.seq)
        if row is None or row.waits_for is None:
            return None
        put = self._ledger.pending.get(row.waits_for) or self._ledger.rejected.get(row.waits_for)
        return put.change if put is not None else None

    def waiting_for(self, puts: Iterable[Seq]) -> Mapping[Seq, Sequence[Seq]]:
        """The tombstones of renames that are not sent before one of these puts has landed, by that put."""
        found: dict[Seq, list[Seq]] = {}
        for put in self._ledger.waiting.keys() & set(puts):
            rows = [self._ledger.get(*place) for place in self._ledger.waiting[put]]
            found[put] = [row.change.seq for row in rows if row is not None]
        return found

    def release(self, tombstones: Iterable[Seq]) -> None:
        """What these waited for has landed, even if a newer put has its place by now and is still to come.

        Else a name that is written all the time would keep the name it had before for ever.
        """
        rows = self._rows(tombstones)
        if rows:
            with self._ledger.transaction():
                for row in rows:
                    self._ledger.put(replace(row, waits_for=None), row)

    @property
    def last_seq(self) -> Seq:
        """The number of the change recorded last."""
        return self._ledger.last_seq

    @property
    def settling_count(self) -> int:
        """Acknowledged changes that still answer reads."""
        return len(self._ledger.settling)

    def mark_attempted(self, seqs: Iterable[Seq]) -> None:
        """A request that may carry these is about to leave. Before it does: a crash must not forget it."""
        rows = [row for row in self._rows(seqs) if not row.change.attempted]
        with self._ledger.transaction():
            for row in rows:
                self._ledger.update(row, attempted(row.change))

    def ack(self, seqs: Iterable[Seq], at: float) -> None:
        """The store took these. A newer change of the same key is another seq, and stays pending."""
        rows = self._rows(seqs)
        with self._ledger.transaction():
            for row in rows:
                self._ledger.update(row, acknowledged(row.change, at))

    def reject(self, seq: Seq, reason: str) -> None:
        """The store will never take it: set aside, readable, until the user decides."""
        row = self._ledger.pending.get(seq)
        if row is not None:
            with self._ledger.transaction():
                self._update(row, state=ChangeState.REJECTED, error=reason)

    def rejected(self) -> list[Change]:
        """What the store refused, by seq; each with its `error`."""
        return sorted((row.change for row in self._ledger.rejected.values()), key=lambda change: change.seq)

    def reject_namespace(self, namespace: NamespaceId, reason: str) -> list[Change]:
        """The namespace is gone: what is pending for it is set aside; returns it."""
        rows = [row for row in self._ledger.pending.values() if row.change.namespace == namespace]
        with self._ledger.transaction():
            for row in rows:
                self._update(row, state=ChangeState.REJECTED, error=reason)
        return [row.change for row in rows]

    def set_error(self, seqs: Iterable[Seq], text: str | None) -> None:
        """What the last attempt said of pending changes."""
        rows = self._rows(seqs)
        with self._ledger.transaction():
            for row in rows:
                self._update(row, error=text)

    def retry(self, namespace: NamespaceId, key: Key) -> Seq | None:
        """A rejected change is to be sent again; None when there is none."""
        row = self._ledger.get(namespace, key)
        if row is None or row.change.state is not ChangeState.REJECTED:
            return None
        seq = self._ledger.next_seq()
        change = replace(row.change, seq=seq, state=ChangeState.PENDING, error=None)
        with self._ledger.transaction():
            self._ledger.put(replace(row, change=change, since=self._now()), row)
            self._touched = True
        return seq

    def discard(self, namespace: NamespaceId, key: Key) -> bool:
        """Give up the change of a key, whatever its state: the store's own answer counts again.

        Where it was the new name of a rename, the old name is no longer deleted either. False without one.
        """
        row = self._ledger.get(namespace, key)
        if row is None:
            return False
        with self._ledger.transaction():
            for place in list(self._ledger.waiting.get(row.change.seq, ())):
                self._drop(place)
            self._drop((namespace, key))
        return True

    def _drop(self, place: Place) -> None:
        row = self._ledger.get(*place)
        if row is not None:
            self._ledger.remove(row)
            self.attributes.drop_file_attrs(*place)

    def expire(self, change: Change) -> Seq | None:
        """The expiration of a pending put passed before it was sent: the key is to be absent instead.

        Returns the tombstone's seq, None when the store never had the key or a newer change came in between.
        """
        if change.seq not in self._ledger.pending:
            return None
        return self.record_delete(change.namespace, change.key, base=change.base, guarded=True)

    def set_beside(self, change: Change, key: Key) -> Seq | None:
        """Move a pending put to another key and leave the store's value of its own alone: a conflict's copy.

        Returns the copy's seq, None when a newer change came in between.
        """
        row = self._ledger.pending.get(change.seq)
        if row is None or row.body is None:
            return None
        with self._ledger.transaction():
            copy = self._put(
                Put(change.namespace, key, change.size, row.body, row.digest, change.metadata,
                    change.expiration, b"")
            )  # fmt: skip
            self._ledger.repoint(change.seq, copy.change.seq)
            attrs = self.attributes.file_attrs(change.namespace, change.key)
            self._drop((change.namespace, change.key))
            if attrs is not None:
                self.attributes.set_file_attrs(change.namespace, key, attrs)
        return copy.change.seq

    def spare(self, change: Change) -> bool:
        """Give up a pending deletion, because the store has another value than it was meant for; false without one."""
        row = self._ledger.pending.get(change.seq)
        if row is None or not row.change.is_tombstone:
            return False
        with self._ledger.transaction():
            self._ledger.remove(row)
        return True

    def settled(self, now: float, window: float, limit: int | None = None) -> list[Change]:
        """Acknowledged changes that have answered reads for `window` seconds, `limit` of them at most."""
        return list(islice(self._settled(now, window), limit))

    def _settled(self, now: float, window: float) -> Iterator[Change]:
        for row in self._ledger.settling.values():
            if row.change.acked_at is None or row.change.acked_at <= now - window:
                yield row.change

    def settle(self, now: float, window: float, limit: int | None = None) -> list[Change]:
        """Drop the `settled` ones and return them; from here on the store answers for their keys."""
        found = self.settled(now, window, limit)
        with self._ledger.transaction():
            for change in found:
                self._ledger.remove(self._ledger.settling[change.seq])
            self._restamp(now)
        return found

    def _restamp(self, now: float) -> None:
        """A clock that was set back must not let a change hide the store's answers for hours."""
        for row in [row for row in self._ledger.settling.values() if (row.change.acked_at or 0) > now + 1]:
            self._update(row, acked_at=now)

    @property
    def oldest_acked_at(self) -> float | None:
        """When the change that settles next was acknowledged (epoch seconds); None when none settles."""
        return min((row.change.acked_at or 0.0 for row in self._ledger.settling.values()), default=None)

    def _update(self, row: Row, **fields: object) -> None:
        """What became of a change, inside a transaction."""
        self._ledger.update(row, replace(row.change, **fields))
