"""The waits of fsync, and how fsyncs are sent: at once, together, and past the loop's back-off."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Final

import trio

from kvfs.core.errors import DeniedError, KvfsError, RejectedError, TimedOutError
from kvfs.core.model import Change, ChangeState, KeyRef, Seq
from kvfs.journal.journal import Journal
from kvfs.sender.atonce import AtOnce
from kvfs.sender.dispatch import Dispatch
from kvfs.sender.outcome import Outcome

LEAST_WAIT: Final = 0.05  # seconds between two looks at something that has no moment of its own
GROUP_SECONDS: Final = 2.0  # callers share the sending after the one under way, unless that takes longer
GROUPS: Final = 4  # sendings of fsyncs at once


class FsyncWait:
    """Keys that have to be in the store, each at least as of a sequence number.

    `outstanding` has those that are not yet; `error` is set when one of them never will be as things are;
    `failure` is what the last attempt said; `done` is true with either.
    """

    def __init__(self, journal: Journal, places: Collection[KeyRef]) -> None:
        self.outstanding: dict[KeyRef, Seq] = {}
        self.error: KvfsError | None = None
        self.failure: KvfsError | None = None
        self.tried = False
        self.next_try = float("-inf")  # monotonic; not before, however often it is woken
        self.done = False
        self._woken = trio.Event()
        for place in places:
            change = journal.get(*place)
            if change is not None:
                self.outstanding[place] = change.seq
        self.review(journal)

    def review(self, journal: Journal) -> list[Change]:
        """Return the changes to send now; strike off keys that need no sending any more (gone, local)."""
        found = []
        for place in list(self.outstanding):
            change = journal.get(*place)
            if change is not None and change.state is ChangeState.REJECTED:
                self.fail(RejectedError(change.error or "refused by the store"))
            elif change is not None and change.state is ChangeState.PENDING:
                found.append(change)
            else:
                del self.outstanding[place]
        self._settle_if_over()
        return found

    def resolved(self, change: Change, error: KvfsError | None) -> None:
        """Note that a change arrived, or was refused."""
        place = change.place
        wanted = self.outstanding.get(place)
        if wanted is None or change.seq < wanted:
            return
        if error is not None:
            self.fail(error)
        else:
            del self.outstanding[place]
            self._settle_if_over()

    def moved(self, change: Change, copy: Change) -> None:
        """Note that a conflict took the change to another key, where it has to arrive."""
        if self.outstanding.pop(change.place, None) is not None:
            self.outstanding[copy.namespace, copy.key] = copy.seq

    def fail(self, error: KvfsError) -> None:
        """Give up, because waiting longer is of no use."""
        if self.error is None:
            self.error = error
        self.done = True
        self.wake()

    def wake(self) -> None:
        """Wake the caller, because something happened."""
        self._woken.set()

    async def pause_until(self, moment: float) -> None:
        """Pause until that moment (monotonic), or until it is woken."""
        with trio.move_on_at(moment):
            await self._woken.wait()
        if not self.done:
            self._woken = trio.Event()

    def _settle_if_over(self) -> None:
        if not self.outstanding:
            self.done = True
            self.wake()


class Fsyncs:
    """The callers that wait in an fsync, and their shared sending."""

    def __init__(self, journal: Journal, dispatch: Dispatch, now: Callable[[], float]) -> None:
        self._journal = journal
        self.at_once = AtOnce(journal, dispatch, now, self.resolved)
        self._dispatch = dispatch
        self._round = dispatch.round
        self.waiting: list[FsyncWait] = []
        dispatch.listeners.append(self._learned)

    async def send_now(self, keys: Collection[KeyRef], timeout: float) -> None:
        """Return when the store has these keys as they are now, or newer; callers of a moment share a body.

        Raises RejectedError, DeniedError, QuotaError or NamespaceNotFoundError when it will not have them as
        things are, UnavailableError or TimedOutError when `timeout` passed; the changes stay in the journal.
        """
        with self._wait(keys) as wait:
            with trio.move_on_after(timeout):
                while not wait.done:
                    await self._try(wait)
                    await self._before_next_try(wait)
            if wait.error is not None:
                raise copy(wait.error) from wait.error  # one error may be raised to many callers
            if not wait.done and wait.failure is not None:
                raise copy(wait.failure) from wait.failure
            if not wait.done:
                raise TimedOutError(f"no answer from the store within {timeout:.3g} s")

    @contextmanager
    def _wait(self, keys: Collection[KeyRef]) -> Iterator[FsyncWait]:
        wait = FsyncWait(self._journal, keys)
        self.waiting.append(wait)
        try:
            yield wait
        finally:
            self.waiting.remove(wait)

    async def _try(self, wait: FsyncWait) -> None:
        """Send what all callers wait for, unless somebody just tried or the server said when."""
        if len(self.waiting) > 1 or not self._round.is_near:
            await trio.lowlevel.checkpoint()  # callers of the same moment come in
        self._refuse_beyond_quota(wait)
        now = trio.current_time()
        backoff, urgency = self._dispatch.backoff, self._dispatch.urgency
        if now < backoff.asked_until or (wait.tried and now < urgency.retry_at):
            self._tell([wait], backoff.error)
            return
        if wait.done or now < wait.next_try or not self._may_begin(now):
            return
        waits = [other for other in self.waiting if not other.done]
        changes = self._changes(waits)
        if not changes:
            return
        for other in waits:
            other.tried, other.next_try = True, now + LEAST_WAIT
        await self._dispatch.begin(changes, urgent=True)

    def _may_begin(self, now: float) -> bool:
        """Return whether another sending may begin: callers share the next one, unless the one before takes long."""
        groups = self._dispatch.urgent_since
        return not groups or (len(groups) < GROUPS and now - groups[-1] >= GROUP_SECONDS)

    def _refuse_beyond_quota(self, wait: FsyncWait) -> None:
        errors = (self._round.quota_error(change) for change in wait.review(self._journal))
        error = next((error for error in errors if error is not None), None)
        if error is not None:
            wait.fail(error)

    def _changes(self, waits: Sequence[FsyncWait]) -> list[Change]:
        """Return the changes they need, and every put that has to precede a deletion among them."""
        found = {change.seq: change for wait in waits for change in wait.review(self._journal)}
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
        ordered = (found[seq] for seq in sorted(found))
        return [c for c in ordered if self._round.ready_at(c) <= now and not self._round.is_claimed(c)]

    async def _before_next_try(self, wait: FsyncWait) -> None:
        """Wait until another's sending settles it, or the store may be tried again and its keys be written."""
        if wait.done:
            return
        pending = wait.review(self._journal)
        for change in pending:
            put = self._journal.blocker(change)
            if put is not None and put.state is ChangeState.REJECTED:
                text = f"{put.key!r}, the new name of {change.key!r}, was refused: {put.error}"
                wait.fail(RejectedError(text))
                return
        urgency = self._dispatch.urgency
        ready_at = max((self._round.ready_at(change) for change in pending), default=0.0)
        soon = max(trio.current_time() + LEAST_WAIT, wait.next_try)
        if pending and all(map(self._round.is_claimed, pending)):
            soon = float("inf")  # the sending that has them wakes this
        elif not self._may_begin(trio.current_time()):
            soon = max(soon, self._dispatch.urgent_since[-1] + GROUP_SECONDS)
        await wait.pause_until(max(ready_at, urgency.retry_at, self._dispatch.backoff.asked_until, soon))

    def _learned(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Take in the end of a sending: callers whose keys it carried learn the result, and all look again."""
        if not self.waiting:
            return
        sent = {change.place for change in changes}
        concerned = [wait for wait in self.waiting if not sent.isdisjoint(wait.outstanding)]
        self._tell(concerned, outcome.failure or outcome.postponed)
        for wait in self.waiting:
            wait.wake()

    def _tell(self, waits: Sequence[FsyncWait], failure: KvfsError | None) -> None:
        for wait in waits:
            wait.failure = failure or wait.failure
            if isinstance(failure, DeniedError) and wait.outstanding and wait.tried:
                wait.fail(failure)

    def resolved(self, change: Change, error: KvfsError | None) -> None:
        """Note that a change arrived, or was refused."""
        for wait in self.waiting:
            wait.resolved(change, error)

    def moved(self, change: Change, beside: Change) -> None:
        """Note that a conflict took a change to another key."""
        for wait in self.waiting:
            wait.moved(change, beside)
