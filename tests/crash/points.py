"""The points of the journal's work at which daemons have died, and the choice of the next one.

A daemon notes the points it comes to (`shim.py`): which operation, which statement, before or after it. Half of the
deaths are at a moment counted among all, the others at a point where none has died yet.
"""

import random
from collections import Counter
from pathlib import Path

from crash.shim import Death

MOMENTS, STRIDE = 450, 137  # every moment comes, early and late ones in turn
PATIENCE = 20  # so often a point is aimed at that is not come to
REPEATS = 6  # a point is passed so often at most before it is the one


class Points:
    """The points that all daemons of a run saw, and those at which they died."""

    def __init__(self, notes: Path, rng: random.Random) -> None:
        self.notes = notes
        self._random = rng
        self._offset = 0
        self._moment = 0
        self._aimed: Counter[str] = Counter()
        self.seen: dict[str, None] = {}
        self.died: Counter[str] = Counter()

    def read(self) -> bool:
        """Take in the notes of the last daemon; return True if it died at a point."""
        if not self.notes.exists():
            return False
        before = self.died.total()
        with self.notes.open() as file:
            file.seek(self._offset)
            for line in file:
                word, point = line.rstrip("\n").split(" ", 1)
                if word == "site":
                    continue
                self.seen[point] = None
                self.died[point] += word == "died"
            self._offset = file.tell()
        return self.died.total() > before

    def choose(self) -> Death:
        """Return when the next daemon is to die."""
        left = [point for point in self.seen if not self.died[point] and self._aimed[point] < PATIENCE]
        if not self.seen or self._random.random() < (0.3 if left else 0.7):
            self._moment = (self._moment + STRIDE) % MOMENTS
            return Death(self._moment + 1)
        point = min(left or self.seen, key=lambda point: (self._aimed[point], self._random.random()))
        missed = self._aimed[point] > self.died[point]
        self._aimed[point] += 1
        return Death(1 if missed else 1 + int(self._random.random() ** 2 * REPEATS), point)

    def __str__(self) -> str:
        hit = sum(self.died[point] > 0 for point in self.seen)
        return f"{hit} of {len(self.seen)} points of the journal hit"
