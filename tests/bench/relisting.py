"""Whether listings have a cliff: entries a second of a directory that is listed again, from 4,000 names to a million.

The time of the CPU, of the daemon and of whoever lists, decides: neighbours of a busy machine blur it less.
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.filling import fill
from bench.measuring import cpu_seconds, median
from bench.mounts import kvfs_mount
from bench.tables import markdown, size
from support.serving import Served

NAMES: Final = (4_000, 50_000, 1_000_000)
LEAST: Final = 0.75  # of the rate at the fewest names
ENTRIES: Final = 200_000  # told in a round at least: the kernel counts CPU in hundredths of a second


@dataclass(frozen=True, slots=True)
class Listed:
    """A directory listed again: names, entries a second by the clock and by the CPU, bytes of resident memory."""

    names: int
    wall: float
    cpu: float
    memory: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/bench listing`."""
    parser.add_argument("--names", type=int, nargs="*", default=NAMES, help="names in a directory")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of which the median counts (5)")
    parser.add_argument("--strict", action="store_true", help="exit status 1 when there is a cliff")


def run(words: argparse.Namespace, directory: Path) -> int:
    """Measure, print a table, and say with `--strict` whether the rate falls by more than a quarter."""
    found = [_listed(directory / str(names), names, words.rounds) for names in words.names]
    header = ["names", "entries/s", "entries/s of CPU", "of the first", "resident memory"]
    rows = [
        [f"{one.names:,}", f"{one.wall:,.0f}", f"{one.cpu:,.0f}", f"{one.cpu / found[0].cpu:.0%}", size(one.memory)]
        for one in found
    ]  # fmt: skip
    print(markdown(header, rows), end="")
    return int(words.strict and any(one.cpu < LEAST * found[0].cpu for one in found))


def _listed(directory: Path, names: int, rounds: int) -> Listed:
    directory.mkdir()
    store = directory / "store.sqlite"
    fill(store, "local", "big", names, per_directory=names)
    with kvfs_mount(directory, Served(""), f"local:{store}", "--cache-ttl=3600") as mount:
        path = mount.path / "big" / "d0000"
        for _ in range(3):  # asked for, put together, told anew
            _scan(path, names)
        times = [_round(path, names, mount.pid) for _ in range(rounds)]
        memory = int(Path(f"/proc/{mount.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return Listed(names, median([wall for wall, _ in times]), median([cpu for _, cpu in times]), memory)


def _round(path: Path, names: int, pid: int) -> tuple[float, float]:
    times = -(-ENTRIES // names)
    begun, ours, theirs = time.perf_counter(), time.process_time(), cpu_seconds(pid)
    for _ in range(times):
        _scan(path, names)
    entries = times * names
    cpu = time.process_time() - ours + cpu_seconds(pid) - theirs
    return entries / (time.perf_counter() - begun), entries / cpu


def _scan(path: Path, names: int) -> None:
    with os.scandir(path) as entries:
        if (found := sum(1 for _ in entries)) != names:
            raise RuntimeError(f"{path} shows {found} names of {names}")
