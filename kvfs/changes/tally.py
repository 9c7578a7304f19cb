"""Counts of what is not at the store yet, kept while changes come and go.

Whoever asks how much waits, since when and why, asks often, and must not look at all changes for it.

Invariants (a check of the tests recomputes them from all changes):
- `spaces` has the count and the bytes of the pending changes of each namespace that has any.
- `errors` has the numbers of the pending and rejected changes that have an error, by its text, and no empty text.
- `failures` has those of the pending ones without an error whose last try failed, by the text of that.
- `_early` has the pending changes that came after one that has waited less long: a change of a key that waited before
  it. All others came in the order of their times, so that the oldest of them is the first one that is pending.
"""

from sortedcontainers import SortedSet

from kvfs.changes.rules import Row
from kvfs.core.model import ChangeState, NamespaceId, Seq
from kvfs.core.numbered import Numbered

_NEVER = float("-inf")


class ChangeTally:
    """Kept by the index, which tells of every row that comes to be pending or rejected, and that leaves."""

    def __init__(self) -> None:
        self.spaces: dict[NamespaceId, list[int]] = {}
        self.errors: dict[str, dict[Seq, None]] = {}
        self.failures: dict[str, dict[Seq, None]] = {}
        self._early: SortedSet[tuple[float, Seq]] = SortedSet()
        self._latest = _NEVER  # the latest `since` of those that came since nothing was pending

    def enter(self, row: Row) -> None:
        """Count the row, which is pending from now on."""
        space = self.spaces.get(row.namespace)
        if space is None:
            self.spaces[row.namespace] = [1, row.size]
        else:
            space[0] += 1
            space[1] += row.size
        if row.since >= self._latest:
            self._latest = row.since
        else:
            self._early.add((row.since, row.seq))

    def leave(self, row: Row) -> None:
        """Count the row no more, because it is not pending."""
        space = self.spaces[row.namespace]
        space[0] -= 1
        space[1] -= row.size
        if self._early:
            self._early.discard((row.since, row.seq))
        if not space[0]:
            del self.spaces[row.namespace]
            if not self.spaces:
                self._latest = _NEVER

    def fail(self, row: Row) -> None:
        """Count the row, if it is pending or rejected, by its error, or by its last try if that failed."""
        by_text, text = self._failed(row)
        if text:
            by_text.setdefault(text, {})[row.seq] = None

    def mend(self, row: Row) -> None:
        """Count the row no more as `fail` did, because it leaves, or says something else from now on."""
        by_text, text = self._failed(row)
        if text:
            numbers = by_text[text]
            del numbers[row.seq]
            if not numbers:
                del by_text[text]

    def _failed(self, row: Row) -> tuple[dict[str, dict[Seq, None]], str]:
        if row.error or row.failed is None or row.state is not ChangeState.PENDING:
            return self.errors, row.error or ""
        return self.failures, row.failed.text

    def oldest(self, pending: Numbered[Row]) -> float | None:
        """Return the least `since` of what is pending, epoch seconds; None when nothing is."""
        first = next(pending.values(), None)
        if first is None:
            return None
        return min(first.since, self._early[0][0]) if self._early else first.since
