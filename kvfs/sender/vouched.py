"""Keys that need no comparing with the store, because nobody else has written to it since we did.

Only a store that knows who writes to it (`Watched`: the embedded one) can vouch for a key. Then the comparison and
the write become one: the write is done only if nobody has come between. It spares each commit of a program that
rewrites one file, a database say, a read of the file.
"""

from collections.abc import Iterable
from typing import Final

from kvfs.core.latest import Latest
from kvfs.core.model import Change, KeyRef, Seq
from kvfs.core.packing import Batch
from kvfs.store.base import Store, Watched

REMEMBERED: Final = 10_000  # keys, the latest


class Vouched:
    """The keys that we wrote or compared last of all, each with what the store said of others by then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.watch = store.watch if isinstance(store, Watched) else None
        self._seen = Latest[KeyRef, int](REMEMBERED)
        self._relied = Latest[Seq, int](REMEMBERED)  # the count of others that a change was decided on

    @property
    def is_watched(self) -> bool:
        """Return True if the store is on this machine and knows who writes to it."""
        return self.watch is not None

    def begin(self) -> int:
        """Return a mark before a write or a comparison begins, for `note` after it."""
        return self.watch.others if self.watch is not None else 0

    def note(self, changes: Iterable[Change], begun: int) -> None:
        """Note that these keys were written by us, or hold a value that we know."""
        if self.watch is None:
            return
        for change in changes:
            self._seen.keep(change.place, begun)

    def has(self, change: Change) -> bool:
        """Return True if nobody else is known to have written to the store since; the write has to make sure of it."""
        if self.watch is None:
            return False
        return self._seen.get(change.place) == self.watch.others

    def rely(self, changes: Iterable[Change], bound: Iterable[Change], begun: int) -> None:
        """Let those of `changes` that are in `bound` be written only if nobody else has written since `begun`."""
        if self.watch is None:
            return
        for change in changes:
            self._relied.pop(change.seq, None)
        for change in bound:
            self._relied.keep(change.seq, begun)

    def store_for(self, part: Batch) -> Store:
        """Return the store to write a body to: one that refuses if what any of its changes relies on holds no more.

        Not the present count of others decides, *because* another write of ours may have found them since.
        """
        relied = [self._relied[change.seq] for change in part.changes if change.seq in self._relied]
        return self.watch.unless_others(min(relied)) if self.watch is not None and relied else self._store
