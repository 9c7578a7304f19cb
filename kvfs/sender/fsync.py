"""What an fsync waits for: the changes of some keys as they were when it asked, and what became of them."""

from collections.abc import Collection

import trio

from kvfs.core.errors import KvfsError, RejectedError
from kvfs.core.model import Change, ChangeState, Seq
from kvfs.journal.index import Place
from kvfs.journal.journal import Journal


class FsyncWait:
    """Keys that have to be in the store, each at least as of a sequence number.

    `outstanding` has those that are not yet; `error` is set when one of them never will be as things are;
    `failure` is what the last attempt said; `settled` is set with either.
    """

    def __init__(self, journal: Journal, places: Collection[Place]) -> None:
        self.outstanding: dict[Place, Seq] = {}
        self.error: KvfsError | None = None
        self.failure: KvfsError | None = None
        self.tried = False
        self.settled = trio.Event()
        for place in places:
            change = journal.get(*place)
            if change is not None:
                self.outstanding[place] = change.seq
        self.review(journal)

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.settled.is_set()

    def review(self, journal: Journal) -> list[Change]:
        """The changes to send now; keys that need no sending any more (gone, local) are struck off."""
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
        """A change arrived, or was refused."""
        place = (change.namespace, change.key)
        wanted = self.outstanding.get(place)
        if wanted is None or change.seq < wanted:
            return
        if error is not None:
            self.fail(error)
        else:
            del self.outstanding[place]
            self._settle_if_over()

    def moved(self, change: Change, copy: Change) -> None:
        """A conflict took the change to another key: there it has to arrive."""
        if self.outstanding.pop((change.namespace, change.key), None) is not None:
            self.outstanding[copy.namespace, copy.key] = copy.seq

    def fail(self, error: KvfsError) -> None:
        """Waiting longer is of no use."""
        if self.error is None:
            self.error = error
        self.settled.set()

    def _settle_if_over(self) -> None:
        if not self.outstanding:
            self.settled.set()
