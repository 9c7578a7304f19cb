"""Kill a daemon at every point of the journal, once each: `scripts/crash --every-point`.

First each play (`scenarios.py`) runs undisturbed, and the daemon notes the points it comes to; then each point
gets a run of a play that comes to it and dies there, the shortest play first. After each death the next daemon
must start, show what was promised, send it, and the server must have exactly that.
"""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from crash.forge import forging
from crash.lane import Violation
from crash.scenarios import PLAYS, Play
from crash.shim import Death
from crash.sites import UNREACHABLE, judge
from crash.stage import Died, Stage
from support.mounted import Api
from support.serving import served_by_process

NEVER = Death(0)
TRIES = 6  # of a point, over the plays that came to it


@dataclass
class Coverage:
    """The points that daemons came to and those that they died at, shared by the lanes."""

    plays: dict[str, dict[Play, float]] = field(default_factory=dict)
    died: Counter[str] = field(default_factory=Counter)
    tried: Counter[str] = field(default_factory=Counter)
    sites: set[str] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)
    runs: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, notes: Path, play: Play, seconds: float) -> None:
        """Take in what the daemons of a run noted."""
        if not notes.exists():
            return
        with self.lock:
            for line in notes.read_text().splitlines():
                word, what = line.split(" ", 1)
                if word == "site":
                    self.sites.add(what)
                else:
                    self.plays.setdefault(what, {}).setdefault(play, seconds)
                    self.died[what] += word == "died"

    def next(self) -> tuple[str, Play] | None:
        """Return a point at which none died yet, and a play that comes to it; None when nothing is left to try."""
        with self.lock:
            left = [p for p in self.plays if self._is_open(p) and p not in self.under_way]
            if not left:
                return None
            point = min(left, key=lambda p: (self.tried[p], min(self.plays[p].values())))
            plays = sorted(self.plays[point], key=self.plays[point].__getitem__)
            play = plays[self.tried[point] % len(plays)]
            self.tried[point] += 1
            self.under_way.add(point)
            self.runs += 1
            return point, play

    def _is_open(self, point: str) -> bool:
        return not self.died[point] and self.tried[point] < TRIES

    def missed(self) -> list[str]:
        """Return the points that daemons came to, and at which none died."""
        return sorted(point for point in self.plays if not self.died[point])

    def __str__(self) -> str:
        hit = len(self.plays) - len(self.missed())
        excuses = "\n".join(f"  {where}: {why}" for where, why in sorted(UNREACHABLE.items()))
        return (
            f"{hit} of {len(self.plays)} points of the journal hit in {self.runs} runs of {len(PLAYS)} plays, "
            f"{len(self.sites)} places in the source come to; unreachable:\n{excuses}"
        )


class Lane:
    """A server and a forge, and runs of plays on them, one after the other."""

    def __init__(self, directory: Path, coverage: Coverage, stack: ExitStack) -> None:
        directory.mkdir()
        self._directory = directory
        self._coverage = coverage
        self._served = stack.enter_context(served_by_process(directory, faults="seed=1"))
        self._api = stack.enter_context(Api(self._served))
        self._forge = stack.enter_context(forging())
        self._numbers = count()

    def play(self, play: Play, death: Death) -> None:
        """Do one run. Raise `Violation` when a promise is broken; its directory then stays as it is."""
        begun = time.monotonic()
        directory = self._directory / f"run{next(self._numbers)}"
        stage = Stage(directory, self._forge, self._served, self._api)
        try:
            self._perform(play, stage, death)
            self._coverage.note(stage.notes, play, time.monotonic() - begun)
            self._check(play, stage)
        except Violation as exc:
            raise Violation(f"{play.name}, {death.point}: {exc} ({directory})") from exc
        finally:
            stage.end()
            stage.unmount()
            stage.drop_all()
        shutil.rmtree(directory)

    def _perform(self, play: Play, stage: Stage, death: Death) -> None:
        try:
            if play.prior is not None:
                if not stage.start("--write-back=600", "--settle=60", death=NEVER):
                    raise Violation(f"the mount does not start: {stage.daemon.said}")
                play.prior(stage)
                stage.end()
                stage.notes.unlink()  # only points that the play itself comes to can be aimed at
                if play.tamper is not None:
                    play.tamper(stage)
            options = (f"--write-back={play.write_back}", f"--settle={play.settle}", *play.options)
            if stage.start(*options, death=death, tune=play.tune):
                play.act(stage)
                stage.end(signal.SIGTERM)
            elif death is NEVER:
                raise Violation(f"the mount does not start: {stage.daemon.said}")
        except Died:
            if death is NEVER:
                raise Violation("the daemon died by itself") from None
        stage.end()

    @staticmethod
    def _check(play: Play, stage: Stage) -> None:
        """Start the next daemon, and check that it shows everything promised."""
        stage.faults()
        if not stage.start("--write-back=600", "--settle=1", death=NEVER):
            raise Violation(f"the next mount does not start: {stage.daemon.said}")
        try:
            stage.ask("status")
            if not play.loose:
                stage.check()
        except Died as exc:
            raise Violation(f"the next daemon died: {exc.__cause__}") from exc


def hit_every_point(directory: Path, lanes: int = 2, say: Callable[[str], None] = print) -> list[str]:
    """Die at every point; return the promises that were broken, and the points that were missed and have no excuse."""
    coverage = Coverage()
    plays, failures, broken = list(PLAYS), [], []

    def run(lane: Lane, play: Play, death: Death) -> None:
        try:
            lane.play(play, death)
        except Violation as exc:
            broken.append(f"BROKEN: {exc}")

    def work(lane: Lane) -> None:
        try:
            while plays and not failures:
                run(lane, plays.pop(0), NEVER)
            barrier.wait()
            while not failures and (chosen := coverage.next()) is not None:
                run(lane, chosen[1], Death(1, chosen[0]))
                coverage.under_way.discard(chosen[0])
        except BaseException as exc:
            failures.append(exc)
            barrier.abort()

    barrier = threading.Barrier(lanes)
    with ExitStack() as stack:
        threads = [
            threading.Thread(target=work, args=(Lane(directory / f"lane{number}", coverage, stack),))
            for number in range(lanes)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    say(str(coverage))
    missed = [f"no daemon died {point}" for point in coverage.missed()] + judge(
        coverage.sites, coverage.plays
    )
    return broken + [f"MISSED: {line}" for line in missed]
