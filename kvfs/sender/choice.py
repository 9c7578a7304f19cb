"""The choice of pending changes for a round: the oldest that may go now, a body full of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

from kvfs.core.model import Change, Seq
from kvfs.journal.journal import Journal
from kvfs.sender.outcome import Outcome
from kvfs.sender.round import Round

FOREVER: Final = float("inf")

Accept = Callable[[Change], bool]


class RoundChoice:
    """Looks through the journal for the sender's loop, and says what it left out.

    `next_ready` is when (monotonic) a change left out because its key is backed off from, or because a quota is
    used up, may be sent; `passed_over`: changes were left out that were not asked for; `elsewhere`: some were
    left out because an fsync sends them at the moment.
    """

    def __init__(self, journal: Journal, round_: Round) -> None:
        self._journal = journal
        self._round = round_
        self._set_back: frozenset[Seq] = frozenset()  # changes that the last round failed to send
        self.next_ready = FOREVER
        self.passed_over = False
        self.elsewhere = False

    def choose(self, accept: Accept) -> list[Change]:
        """Return at most a round of puts and a round of deletions of those that are accepted.

        Those that just failed come last, so that a body full of what fails does not stop all the others.
        """
        limits, now = self._round.limits, trio.current_time()
        found: list[Change] = []
        size, counts = 0, [0, 0]  # bytes; puts and deletions
        self.next_ready, self.passed_over, self.elsewhere = FOREVER, False, False
        for change in self._in_turn():
            if not accept(change):
                self.passed_over = True
                continue
            if self._journal.blocker(change) is not None:
                continue
            if self._round.is_claimed(change):
                self.elsewhere = True
                continue
            ready_at = self._round.ready_at(change)
            if ready_at > now:
                self.next_ready = min(self.next_ready, ready_at)
                continue
            if counts[change.is_tombstone] >= limits.round_pairs or (
                found and size + change.size > limits.round_bytes
            ):
                break
            found.append(change)
            counts[change.is_tombstone] += 1
            size += change.size
        return found

    def _in_turn(self) -> Iterator[Change]:
        later = []
        for change in self._journal.iter_pending():
            if change.seq in self._set_back:
                later.append(change)
            else:
                yield change
        yield from later

    def learn(self, chosen: Sequence[Change], outcome: Outcome) -> None:
        """Remember the changes that failed.

        A tombstone that never left did not fail: it only came after one that did.
        """
        rows = [self._journal.row(change.seq) for change in chosen] if outcome.failure is not None else []
        self._set_back = frozenset(
            row.seq for row in rows if row is not None and (row.attempted or not row.is_tombstone)
        )
