"""The outbox, the sender's side of the journal: pending changes, and their progress.

Invariants:
- Changes are named by their sequence numbers. One that is not pending any more is passed over silently, *because* a
  newer change of the key took its place: so an answer never acknowledges a content that was not sent.
- A request is recorded before it leaves (`mark_attempted`), *because* after a crash a put that may have arrived needs a
  tombstone when its file is deleted.
- A tombstone of a rename is blocked until its put has landed (`blocker`); a rejected put has not landed.
- An acknowledged change answers reads until it settles, *because* the store may answer an older value for a while.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

from msgspec.structs import replace

from kvfs.changes.records import Acknowledged, Attempted, Failed, SettledOp
from kvfs.changes.rules import Row
from kvfs.core.errors import JournalFullError
from kvfs.core.model import Change, ChangeState, Failure, NamespaceId, Seq
from kvfs.journal.transaction import Transactions

FAILURE_CHARS: Final = 500  # of a reason
FAILURE_SECONDS: Final = 60.0  # after which the same reason is noted again, for its time


class Outbox:
    """Pending, acknowledged, settling, rejected."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._index = transactions.index

    # pending changes

    def row(self, seq: Seq) -> Row | None:
        """Return the pending change of that number with all that the sender needs beside it."""
        return self._index.pending.get(seq)

    def _rows(self, seqs: Iterable[Seq]) -> list[Row]:
        """Return the rows of the numbers that are still pending."""
        pending = self._index.pending
        return [pending[seq] for seq in dict.fromkeys(seqs) if seq in pending]

    def blocker(self, change: Change) -> Change | None:
        """Return the put, pending or rejected, that has to land before this tombstone of a rename is sent."""
        row = self._index.pending.get(change.seq)
        if row is None or row.waits_for is None:
            return None
        return self._index.pending.get(row.waits_for) or self._index.rejected.get(row.waits_for)

    def waiting_for(self, puts: Iterable[Seq]) -> Mapping[Seq, Sequence[Seq]]:
        """Return the tombstones of renames that are not sent before one of these puts has landed, by that put."""
        found: dict[Seq, list[Seq]] = {}
        for put in self._index.waiting.keys() & set(puts):
            rows = [self._index.get(*place) for place in self._index.waiting[put]]
            found[put] = [row.seq for row in rows if row is not None]
        return found

    # progress on the wire

    def mark_attempted(self, seqs: Iterable[Seq]) -> None:
        """Note that a request with these is about to leave.

        Must be called before, because a crash must not forget it.
        """
        with self._transactions.of_sending():
            if found := [row.seq for row in self._rows(seqs) if not row.attempted]:
                self._transactions.say(Attempted(found))

    def ack(self, seqs: Iterable[Seq], at: float) -> None:
        """Acknowledge these, which the store took. A newer change of a key has another seq, and stays pending."""
        with self._transactions.of_sending():
            if found := [row.seq for row in self._rows(seqs)]:
                self._transactions.say(Acknowledged(found, at))

    def release(self, tombstones: Iterable[Seq]) -> None:
        """Free tombstones whose put has landed, even if a newer put of that key is still to come.

        Otherwise a name that is written all the time would keep the old name of its rename for ever.
        """
        with self._transactions.of_sending():
            for row in self._rows(tombstones):
                self._transactions.put(replace(row, waits_for=None), row)

    def set_error(self, seqs: Iterable[Seq], text: str | None) -> None:
        """Record the error of the last attempt of pending changes."""
        with suppress(JournalFullError), self._transactions:
            for row in self._rows(seqs):
                if row.error != text:
                    self._update(row, error=text)

    def note_failure(self, seqs: Iterable[Seq], text: str, at: float) -> None:
        """Remember why these could not be sent, so that the next mount can tell as well.

        The log has it once a minute at most while the reason is the same, so that an outage does not fill the disk.
        """
        failure = Failure(text[:FAILURE_CHARS], at)
        with suppress(JournalFullError), self._transactions:
            if found := [row.seq for row in self._rows(seqs) if _is_news(failure, row.failed)]:
                self._transactions.say(Failed(found, failure))

    def _update(self, row: Row, **fields: object) -> None:
        """Replace fields of a change, inside a transaction."""
        self._transactions.put(replace(row, **fields), row)

    # refused changes

    def reject(self, seq: Seq, reason: str) -> None:
        """Set a change aside that the store will never take; it stays readable until the user decides."""
        with self._transactions.of_sending():
            for row in self._rows([seq]):
                self._update(row, state=ChangeState.REJECTED, error=reason)

    def reject_namespace(self, namespace: NamespaceId, reason: str) -> list[Change]:
        """Set aside what is pending for a namespace that is gone; return it."""
        rows = [row for row in self._index.pending.values() if row.namespace == namespace]
        with self._transactions.of_sending():
            for row in rows:
                self._update(row, state=ChangeState.REJECTED, error=reason)
        return list(rows)

    # settled changes

    def settled(self, now: float, window: float, limit: int | None = None) -> list[Change]:
        """Return acknowledged changes that have answered reads for `window` seconds, `limit` of them at most."""
        settling, before = self._index.settling.values(), now - window
        found = (row for row in settling if row.acked_at is None or row.acked_at <= before)
        return list(islice(found, limit))

    def settle(self, now: float, window: float, limit: int | None = None) -> list[Change]:
        """Drop the `settled` ones and return them; from here on the store answers for their keys.

        Their attributes are first written to the side table, in one transaction.
        """
        found = self.settled(now, window, limit)
        rows = [self._index.settling[change.seq] for change in found]
        if rows:
            kept = (((row.namespace, row.key), row.attrs) for row in rows)
            self._transactions.kept.try_to_save(kept)
            with self._transactions.of_sending():
                self._transactions.say(SettledOp([change.seq for change in found]))
        self._restamp(now)
        return found

    def _restamp(self, now: float) -> None:
        """Set acknowledgements from the future to now, or a change would hide the store's answers for hours."""
        if rows := [row for row in self._index.settling.values() if (row.acked_at or 0) > now + 1]:
            with self._transactions.of_sending():
                for row in rows:
                    self._update(row, acked_at=now)


def _is_news(failure: Failure, before: Failure | None) -> bool:
    """Return whether a failed try tells something else than the one before. The clock may have been set back."""
    if before is None or before.text != failure.text:
        return True
    return abs(failure.at - before.at) >= FAILURE_SECONDS
