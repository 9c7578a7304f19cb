"""Rounds: everything under test takes its turn at every phase, again and again."""

import math
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from subprocess import TimeoutExpired

from bench.material import Material
from bench.measuring import Run, measured
from bench.workloads import BEFORE, MOUNT, PHASES, Phase, Place, Subject, WrongError

SLOW = 12.0  # seconds: what took so long is not repeated; network waits, which hardly vary
Turn = tuple[int, Phase]
"""A subject, by its index, at a phase."""
Tell = Callable[[str], None]
Found = dict[tuple[str, float | None, str], list[Run]]
"""By subject, its delay and workload."""


@dataclass
class Suite:
    """The subjects and the material of a run, and the results so far."""

    material: Material
    subjects: Sequence[Subject]
    directory: Path
    tell: Tell = lambda _: None
    phases: Sequence[Phase] = PHASES
    slow: float = SLOW
    found: Found = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What did not do what it should, and why: it has no numbers."""
    _took: dict[Turn, float] = field(default_factory=dict)
    """Seconds at the slowest."""

    def run(self, rounds: int, deadline: float) -> int:
        """Run so many rounds: first everything, then what is quick; end soon after `deadline` (monotonic)."""
        self._round(0, {(index, phase) for phase in self.phases for index in range(len(self.subjects))})
        for number in range(1, rounds):
            turns = self._affordable((deadline - time.monotonic()) / (rounds - number))
            if not turns:
                return number
            self._round(number, turns)
        return rounds

    def _affordable(self, seconds: float) -> set[Turn]:
        """Return the quickest subjects: as many as have their turn in so many seconds together."""
        found: set[Turn] = set()
        for turn, took in sorted(self._took.items(), key=lambda item: item[1]):
            seconds -= took
            if took > self.slow or seconds < 0:
                break
            found.add(turn)
        return found

    def _round(self, number: int, turns: Set[Turn]) -> None:
        """Let everybody do one phase, then the next, so that results to be compared are measured within moments."""
        first = number % len(self.subjects)
        for phase in self.phases:
            for index in (*range(first, len(self.subjects)), *range(first)):
                wanted = [name for name in phase.workloads if name in self.subjects[index].work]
                if wanted and (turn := (index, phase)) in turns:
                    took = self._phase(number, index, phase, wanted)
                    self._took[turn] = max(took, self._took.get(turn, 0.0))

    def _phase(self, number: int, index: int, phase: Phase, wanted: Sequence[str]) -> float:
        """Return the seconds that a phase took; infinity if it went wrong, so that it is not tried again."""
        begun, subject = time.monotonic(), self.subjects[index]
        directory = self.directory / f"{number}-{index}"
        directory.mkdir()
        try:
            with subject.place(directory, phase) as place:
                if place.mounting is not None:
                    self._add(subject, MOUNT, place.mounting)
                for name in wanted:
                    self._add(subject, name, self._workload(subject, place, name))
        except (WrongError, RuntimeError, TimeoutExpired) as exc:
            self.problems.append(f"{_called(subject)}, {' and '.join(wanted)}: {exc}")
            self.tell(self.problems[-1])
            begun = -math.inf
        rmtree(directory)
        return time.monotonic() - begun

    def _workload(self, subject: Subject, place: Place, name: str) -> Run:
        if name in BEFORE and place.mounting is not None:
            BEFORE[name](place, self.material)
        before = place.counts()
        cost = measured(lambda: subject.work[name](place, self.material), place.pids, place.servers)
        requests = place.counts() - before
        place.verify()
        return Run(cost, requests, cost.wall - place.working if place.working is not None else 0.0)

    def _add(self, subject: Subject, name: str, run: Run) -> None:
        self.found.setdefault((subject.name, subject.delay, name), []).append(run)
        self.tell(f"{_called(subject)}: {name}: {run.cost.wall:.3f} s, {run.requests.total()} requests")


def _called(subject: Subject) -> str:
    return subject.name if subject.delay is None else f"{subject.name} at {subject.delay * 1000:.0f} ms"
