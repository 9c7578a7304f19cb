"""Which of the pending changes a round is for: the oldest that may go now, a body full of them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio

from kvfs.core.model import Change, Seq
from kvfs.journal.journal import Journal
from kvfs.sender.outcome import Outcome
from kvfs.sender.round import Round

FOREVER: Final = float("inf")

Accept = Callable[[Change], bool]


class Choice:
    """Looks through the journal for the sender's loop, and says what it left out.

    `next_ready` is when (monotonic) a key left out because it was just written may be written again;
    `passed_over`: whether changes were left out that were not asked for.
    """

    def __init__(self, journal: Journal, round_: Round) -> None:
        self._journal = journal
        self._round = round_
        self._set_back: frozenset[Seq] = frozenset()  # what the last round could not send, if it failed
        self.next_ready = FOREVER
        self.passed_over = False

    def choose(self, accept: Accept) -> list[Change]:
        """At most a body of those that are accepted.

        Those that just failed come last, so that a body full of what fails does not stop all the others.
        """
        limits, now = self._round.limits, trio.current_time()
        found: list[Change] = []
        size = 0
        self.next_ready, self.passed_over = FOREVER, False
        for change in self._in_turn():
            if not accept(change):
                self.passed_over = True
                continue
            if self._journal.blocker(change) is not None:
                continue
            ready_at = self._round.ready_at(change)
            if ready_at > now:
                self.next_ready = min(self.next_ready, ready_at)
                continue
            if found and (len(found) >= limits.pairs or size + change.size > limits.body_bytes):
                break
            found.append(change)
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
        """Remember what failed. A tombstone that never left did not: it only came after what did."""
        rows = [self._journal.row(change.seq) for change in chosen] if outcome.failure is not None else []
        self._set_back = frozenset(
            row.change.seq
            for row in rows
            if row is not None and (row.change.attempted or not row.change.is_tombstone)
        )
