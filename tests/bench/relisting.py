"""Measures if listings have a cliff: entries a second of a directory listed again, from 4,000 names to a million.

CPU time decides, of the daemon and of the program that lists. Directories of all sizes are listed in turn, because
other work on the machine then slows all alike. Each round gives a ratio of its own, and the median of them counts.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.filling import fill
from bench.measuring import cpu_seconds, median
from bench.mounts import Mount, kvfs_mount
from bench.tables import markdown, size
from support.serving import Served

NAMES: Final = (4_000, 50_000, 1_000_000)
LEAST: Final = 0.75  # of the rate at the fewest names
ENTRIES: Final = 200_000  # told in a round at least: the kernel counts CPU in hundredths of a second


@dataclass(frozen=True, slots=True)
class Pace:
    """Entries a second, by the clock and by the CPU."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Listed:
    """A directory listed again: medians of its `Pace`, and of its `cpu` by that of the smallest in the same round.

    `memory`: bytes resident in the daemon.
    """

    names: int
    wall: float
    cpu: float
    ratio: float
    memory: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/bench listing`."""
    parser.add_argument("--names", type=int, nargs="*", default=NAMES, help="names in a directory")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median counts (5)")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when there is a cliff")


def run(words: argparse.Namespace, directory: Path) -> int:
    """Measure, print a table, and say with `--strict` whether the rate falls by more than a quarter."""
    found = _measured(directory, words.names, words.rounds)
    header = ["names", "entries/s", "entries/s of CPU", "of the first", "resident memory"]
    rows = [
        [f"{one.names:,}", f"{one.wall:,.0f}", f"{one.cpu:,.0f}", f"{one.ratio:.0%}", size(one.memory)]
        for one in found
    ]
    print(markdown(header, rows), end="")
    return int(words.strict and any(one.ratio < LEAST for one in found))


def _measured(directory: Path, sizes: Sequence[int], rounds: int) -> list[Listed]:
    with ExitStack() as stack:
        mounts = [stack.enter_context(_mounted(directory / str(names), names)) for names in sizes]
        places = list(zip(sizes, mounts, strict=True))
        for names, mount in places:
            for _ in range(3):  # asked for, put together, told anew
                _scan(mount.path / "big" / "d0000", names)
        taken = [[_round(mount, names) for names, mount in places] for _ in range(rounds)]
        memory = [_resident(mount) for mount in mounts]
    found = []
    for place, names in enumerate(sizes):
        rows = [row[place] for row in taken]
        ratio = median([row[place].cpu / row[0].cpu for row in taken])
        wall, cpu = median([pace.wall for pace in rows]), median([pace.cpu for pace in rows])
        found.append(Listed(names, wall, cpu, ratio, memory[place]))
    return found


@contextmanager
def _mounted(directory: Path, names: int) -> Iterator[Mount]:
    directory.mkdir()
    store = directory / "store.sqlite"
    fill(store, "local", "big", names, per_directory=names)
    with kvfs_mount(directory, Served(""), f"local:{store}", "--cache-ttl=3600") as mount:
        yield mount


def _resident(mount: Mount) -> int:
    return int(Path(f"/proc/{mount.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _round(mount: Mount, names: int) -> Pace:
    path, times = mount.path / "big" / "d0000", -(-ENTRIES // names)
    begun, ours, theirs = time.perf_counter(), time.process_time(), cpu_seconds(mount.pid)
    for _ in range(times):
        _scan(path, names)
    entries = times * names
    cpu = time.process_time() - ours + cpu_seconds(mount.pid) - theirs
    return Pace(entries / (time.perf_counter() - begun), entries / cpu)


def _scan(path: Path, names: int) -> None:
    with os.scandir(path) as entries:
        if (found := sum(1 for _ in entries)) != names:
            raise RuntimeError(f"{path} shows {found} names of {names}")
