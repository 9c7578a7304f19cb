"""The findings of a check: an assumption of kvfs, what was seen, and whether they agree."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from kvfs.verify.wire import Lab


@dataclass(frozen=True, slots=True)
class Observation:
    """The outcome of a check. `holds` None: nothing depends on it, it is only noted."""

    text: str
    holds: bool | None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `known` says how kvfs copes with a difference that it knows of."""

    name: str
    expected: str
    seen: str
    holds: bool | None
    seconds: float | None = None
    known: str = ""

    @property
    def differs(self) -> bool:
        """True if kvfs relies on what does not hold."""
        return self.holds is False and not self.known


Run = Callable[[Lab], Awaitable[Observation]]


@dataclass(frozen=True, slots=True)
class Check:
    """An assumption by name, in words, and how it is tried."""

    name: str
    expected: str
    run: Run


CHECKS: Final[list[Check]] = []


def check(name: str, expected: str) -> Callable[[Run], Run]:
    """Register a check; they are reported in the order in which they are written."""

    def register(run: Run) -> Run:
        CHECKS.append(Check(name, expected, run))
        return run

    return register
