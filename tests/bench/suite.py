"""Rounds: everything under test takes its turn at every phase, again and again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from subprocess import TimeoutExpired

from bench.material import Material
from bench.measuring import Run, measured
from bench.workloads import BEFORE, MOUNT, PHASES, Phase, Place, Subject, WrongError

SLOW = 12.0  # seconds: what took so long is not repeated; network waits, which hardly vary

Tell = Callable[[str], None]
Found = dict[tuple[str, float | None, str], list[Run]]
"""By subject, its delay and workload."""


@dataclass
class Suite:
    """Who is measured with what, and what was found so far."""

    material: Material
    subjects: Sequence[Subject]
    directory: Path
    tell: Tell = lambda _: None
    phases: Sequence[Phase] = PHASES
    found: Found = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What did not do what it should, and why: it has no numbers."""
    _over: set[tuple[int, Phase]] = field(default_factory=set)

    def run(self, rounds: int, deadline: float) -> int:
        """At most so many rounds, at least one, and none that would end after `deadline` (monotonic)."""
        expected = 0.0
        for number in range(rounds):
            begun = time.monotonic()
            if number and begun + expected > deadline:
                return number
            skipped = self._round(number)
            expected = time.monotonic() - begun - skipped
        return rounds

    def _round(self, number: int) -> float:
        """Everybody at one phase, then the next: what is compared was measured within moments.

        Returns the seconds that the next round will not need.
        """
        skipped = 0.0
        for phase in self.phases:
            turn = number % len(self.subjects)
            order = [*range(turn, len(self.subjects)), *range(turn)]
            for index in order:
                wanted = [name for name in phase.workloads if name in self.subjects[index].work]
                if wanted and (index, phase) not in self._over:
                    took = self._phase(number, index, phase, wanted)
                    if took > SLOW:
                        self._over.add((index, phase))
                        skipped += took
        return skipped

    def _phase(self, number: int, index: int, phase: Phase, wanted: Sequence[str]) -> float:
        begun, subject = time.monotonic(), self.subjects[index]
        directory = self.directory / f"{number}-{index}"
        directory.mkdir()
        try:
            with subject.place(directory, phase.content) as place:
                if place.mounting is not None:
                    self._add(subject, MOUNT, place.mounting)
                for name in wanted:
                    self._add(subject, name, self._workload(subject, place, name))
        except (WrongError, RuntimeError, TimeoutExpired) as exc:
            self._over.add((index, phase))
            self.problems.append(f"{_called(subject)}, {' and '.join(wanted)}: {exc}")
            self.tell(self.problems[-1])
        rmtree(directory)
        return time.monotonic() - begun

    def _workload(self, subject: Subject, place: Place, name: str) -> Run:
        if name in BEFORE and place.mounting is not None:
            BEFORE[name](place, self.material)
        before = place.counts()
        cost = measured(lambda: subject.work[name](place, self.material), place.pids, place.servers)
        requests = place.counts() - before
        place.verify()
        return Run(cost, requests)

    def _add(self, subject: Subject, name: str, run: Run) -> None:
        self.found.setdefault((subject.name, subject.delay, name), []).append(run)
        self.tell(f"{_called(subject)}: {name}: {run.cost.wall:.3f} s, {run.requests.total()} requests")


def _called(subject: Subject) -> str:
    return subject.name if subject.delay is None else f"{subject.name} at {subject.delay * 1000:.0f} ms"
