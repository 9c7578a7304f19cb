"""Totals of the changes: how many wait, how much, since when and why."""

from collections.abc import Iterator, Mapping
from itertools import islice

from kvfs.changes.index import Index
from kvfs.core.model import Change, ChangeState, NamespaceId, Seq


class Totals:
    """Counts, bytes, the oldest time and the errors, without a look at every change. Times are epoch seconds."""

    def __init__(self, index: Index) -> None:
        self._index = index

    @property
    def pending_count(self) -> int:
        """Return the number of changes to be sent."""
        return len(self._index.pending)

    @property
    def pending_bytes(self) -> int:
        """Return the bytes of their values."""
        return self._index.pending_bytes

    @property
    def rejected_count(self) -> int:
        """Return the number of changes that the store refused."""
        return len(self._index.rejected)

    @property
    def pending_by_namespace(self) -> Mapping[NamespaceId, tuple[int, int]]:
        """Return how many changes are to be sent, and bytes of their values, by namespace."""
        return {namespace: (count, size) for namespace, (count, size) in self._index.tally.spaces.items()}

    @property
    def oldest_pending_at(self) -> float | None:
        """Return since when some key differs from what was last sent of it; None when none does."""
        return self._index.tally.oldest(self._index.pending)

    @property
    def settling_count(self) -> int:
        """Return the number of acknowledged changes that still answer reads."""
        return len(self._index.settling)

    @property
    def local_count(self) -> int:
        """Return the number of changes that stay on this machine."""
        return len(self._index.by_state[ChangeState.LOCAL])

    @property
    def oldest_acked_at(self) -> float | None:
        """Return the time at which the change that settles next was acknowledged; None when none settles."""
        return min((row.acked_at or 0.0 for row in self._index.settling.values()), default=None)

    @property
    def last_seq(self) -> Seq:
        """Return the number of the change recorded last."""
        return self._index.last_seq

    def not_sent(self, most: int) -> list[Change]:
        """Return what is not at the store, `most` at most: what it refused, then what waits, each by seq."""
        rows = (*islice(self._index.rejected.values(), most), *islice(self._index.pending.values(), most))
        return list(rows[:most])

    def errors(self, most: int) -> Iterator[tuple[str, int, list[Change]]]:
        """Yield each error of what is not at the store, how many changes have it, and `most` of them at most."""
        return self._by_text(self._index.tally.errors, most)

    def failures(self, most: int) -> Iterator[tuple[str, int, list[Change]]]:
        """Yield the same of why the last try failed of what waits without an error."""
        return self._by_text(self._index.tally.failures, most)

    def _by_text(
        self, found: Mapping[str, Mapping[Seq, None]], most: int
    ) -> Iterator[tuple[str, int, list[Change]]]:
        index = self._index
        for text, numbers in found.items():
            some = (index.pending.get(seq) or index.rejected[seq] for seq in islice(numbers, most))
            yield text, len(numbers), list(some)
