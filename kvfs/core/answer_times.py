"""The times that the last answers took. A service that answers in three seconds is slow, and not away.

A short bound on a wait tells a service that is away from one stuck key. Such a bound holds only as far as it is
longer than what the service takes anyway.
"""

from collections import deque
from typing import Final

REMEMBERED: Final = 16  # answers
SLACK: Final = 2.0  # times the slowest of them


class AnswerTimes:
    """The seconds that the last answers took, waits of ours left out."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, seconds: float) -> None:
        """Note one more answer, and how long it took."""
        self._last.append(seconds)

    def patience(self, least: float) -> float:
        """Return the seconds after which an answer is late: `least`, or more where the last ones took long."""
        return max(least, SLACK * max(self._last, default=0.0))
