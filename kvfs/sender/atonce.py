"""The short way of an fsync: one small put, which a store on this machine takes at once.

A database commits with an fsync of one file after another. On `local:` to choose, to pack and to judge (`round`,
`post`) costs several times what the commit of the store does. So a put that nothing stands against is noted as
attempted, written and acknowledged in one go. Whatever is out of the ordinary is left to the general way, which groups,
waits and reports: before anything was written, or after an error, *because* a PUT repeated does no harm.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import JournalError, StoreError
from kvfs.core.model import Change, ChangeState, Entry, KeyRef
from kvfs.journal.journal import Journal
from kvfs.sender.dispatch import Dispatch
from kvfs.sender.outcome import Outcome
from kvfs.store.base import Watch


class AtOnce:
    """Sends single puts that are recorded in the journal. `resolved` is told of those that arrived."""

    def __init__(
        self,
        journal: Journal,
        dispatch: Dispatch,
        now: Callable[[], float],
        resolved: Callable[[Change, None], None],
    ) -> None:
        self._journal = journal
        self._dispatch = dispatch
        self._now = now
        self._resolved = resolved
        self._round = dispatch.round
        self._poster = dispatch.round.poster

    def send(self, place: KeyRef) -> bool | Coroutine[Any, Any, bool]:
        """Return True when the store has the key as it is now; False leaves it to the general way.

        Where the store waits for a disk, return the coroutine that waits, and then says so.
        """
        vouched = self._poster.vouched
        watch, change = vouched.watch, self._journal.get(*place)
        if watch is None or change is None or not self._is_plain(change, place):
            return False
        begun, relied = vouched.begin(), None
        if self._round.asks_first(change):
            if not vouched.has(change):
                return False
            relied = begun
        if not watch.is_prompt:
            return self._sent(watch, change, begun, relied)
        try:
            watch.put_now(*place, self._entry(change), relied)
            self._arrived(change, begun)
        except (StoreError, JournalError):
            return False
        return True

    async def _sent(self, watch: Watch, change: Change, begun: int, relied: int | None) -> bool:
        """Do `send` where the store waits for a disk: nobody else may send the key meanwhile."""
        in_flight = self._poster.in_flight
        self._round.claim((change,))
        in_flight.add(change.seq)
        has_arrived = False
        try:
            entry = self._entry(change)
            await watch.put_soon(change.namespace, change.key, entry, relied)
            self._arrived(change, begun)
            has_arrived = True
        except (StoreError, JournalError):
            pass
        finally:
            in_flight.discard(change.seq)
            self._round.release((change,))
            if not has_arrived:  # its caller may have given up, and others have left it to him
                self._dispatch.tell((change,), Outcome())
        return has_arrived

    def _is_plain(self, change: Change, place: KeyRef) -> bool:
        """Return True if nothing of the general way concerns the change."""
        poster = self._poster
        return (
            change.state is ChangeState.PENDING
            and not change.is_tombstone
            and change.size <= INLINE_BYTES
            and change.expiration is None
            and self._dispatch.is_calm
            and not self._round.is_claimed(change)
            and not poster.quotas
            and poster.keys.ready_at(place) <= 0
            and not poster.culprits.is_refusing(change.namespace)
            and not self._journal.waiting_for((change.seq,))
        )

    def _entry(self, change: Change) -> Entry:
        """Return what is to be written; note before that a request is about to leave."""
        row = self._journal.row(change.seq)
        assert row is not None, "it is pending"
        value = self._journal.newest(row)
        self._journal.mark_attempted((change.seq,))
        return Entry(value, change.metadata, None)

    def _arrived(self, change: Change, begun: int) -> None:
        """Acknowledge the change, and tell who waits for it, or for time to pass."""
        self._poster.counts.requests += 1
        self._poster.vouched.note((change,), begun)
        self._poster.culprits.known(change.namespace)
        self._journal.ack((change.seq,), self._now())
        self._poster.counts.sent += 1
        self._resolved(change, None)
        self._dispatch.tell((change,), Outcome(done=1, answered=True))
