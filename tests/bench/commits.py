"""Measures a commit of SQLite in a mount: beside a file system in memory, on `local:`, and through the API.

A commit forces the disk out three times, which memory never does. So `local:` is measured twice: in memory, where a
sync costs nothing on either side, beside memfs; and on the disk, beside the syncs. Through the API it is held against
the round trips of its requests.
"""

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.measuring import cpu_seconds, median
from bench.mounts import Mount, kvfs_mount, memory_mount
from bench.relay import relaying
from bench.remote import relayed
from bench.tables import markdown
from support.serving import Served, served_by_process
from support.syncs import Syncs

ROUND_TRIP: Final = 0.02  # seconds
MOST: Final = 3.0  # times memfs in memory, times the round trips through the API
_MEMORY: Final = Path("/dev/shm")
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Commits:
    """A commit's time in seconds (the best round's median), the daemon's CPU, syncs and requests; None: not counted."""

    where: str
    wall: float
    cpu: float
    syncs: float | None = None
    requests: float | None = None
    of: float | None = None  # times what it is held against


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/bench commits`."""
    parser.add_argument("--commits", type=int, default=100, help="commits in a round (100)")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument("--strict", action="store_true", help=f"exit status 1 above {MOST:g} times")


def run(words: argparse.Namespace, directory: Path) -> int:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="kvfs-bench-", dir=_MEMORY) as memory:
        found = [*_in_memory(Path(memory), words.commits), *_on_disk(directory, words.commits)]
    found += _through_the_api(directory, words.commits)
    print(json.dumps([asdict(one) for one in found], indent=1) if words.json else table(found), end="")
    return int(words.strict and any(one.of is not None and one.of > MOST for one in found))


def table(found: list[Commits]) -> str:
    """Return the table as Markdown."""
    header = ["where", "commits/s", "ms", "CPU ms", "syncs", "requests", "times"]
    rows = [
        [
            one.where,
            f"{1 / one.wall:,.0f}",
            f"{one.wall * 1000:.2f}",
            f"{one.cpu * 1000:.2f}",
            _count(one.syncs),
            _count(one.requests),
            "" if one.of is None else f"{one.of:.1f}",
        ]
        for one in found
    ]
    return markdown(header, rows)


def _count(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"


def _in_memory(directory: Path, commits: int) -> Iterator[Commits]:
    """Measure both at once, round by round, so that a busy neighbour slows both."""
    with ExitStack() as stack:
        enter = stack.enter_context
        floor = enter(memory_mount(directory / "memfs"))
        ours = enter(kvfs_mount(directory / "kvfs", Served(""), f"local:{directory / 'store.sqlite'}"))
        (ours.path / "ns").mkdir()
        places = [(floor, floor.path / "db"), (ours, ours.path / "ns/db")]
        (floor_wall, floor_cpu), (wall, cpu) = _times(places, commits)
    yield Commits("memfs", floor_wall, floor_cpu)
    yield Commits("local:, all in memory", wall, cpu, of=wall / floor_wall)


def _on_disk(directory: Path, commits: int) -> Iterator[Commits]:
    syncs = Syncs(directory)
    source = f"local:{directory / 'store.sqlite'}"
    with kvfs_mount(directory / "disk", Served(""), source, environment=syncs.environment) as mount:
        (mount.path / "ns").mkdir()
        with _database(mount.path / "ns/db") as base:
            before = syncs.count
            _round(base, commits)
            counted = (syncs.count - before) / commits
        ((wall, cpu),) = _times([(mount, mount.path / "ns/timed")], commits)
    yield Commits("local:, on the disk", wall, cpu, syncs=counted)


def _through_the_api(directory: Path, commits: int) -> Iterator[Commits]:
    """Measure with `ROUND_TRIP` for each request."""
    with ExitStack() as stack:
        enter = stack.enter_context
        served = enter(served_by_process(directory))
        relay = enter(relaying(ROUND_TRIP))
        relay.aim(served.port)
        mount = enter(
            kvfs_mount(directory / "api", relayed(served, relay), "cloudflare:", "--rate-requests=1000000")
        )
        (mount.path / "ns").mkdir()
        with _database(mount.path / "ns/db") as base:
            before = sum(relay.counts().values())
            _round(base, commits)
            counted = (sum(relay.counts().values()) - before) / commits
        ((wall, cpu),) = _times([(mount, mount.path / "ns/timed")], max(2, commits // _ROUNDS))
    yield Commits("the API, 20 ms away", wall, cpu, requests=counted, of=wall / (counted * ROUND_TRIP))


def _times(places: list[tuple[Mount, Path]], commits: int) -> list[tuple[float, float]]:
    """Return for each mount the wall time of a commit in the best round, and the CPU of its daemon."""
    with ExitStack() as stack:
        bases = [stack.enter_context(_database(path)) for _, path in places]
        walls: list[list[float]] = [[] for _ in places]
        cpus = [0.0 for _ in places]
        for _ in range(_ROUNDS):
            for index, (mount, _path) in enumerate(places):
                before = cpu_seconds(mount.pid)
                walls[index].append(_round(bases[index], commits))
                cpus[index] += cpu_seconds(mount.pid) - before
    return [(min(wall), cpu / commits / _ROUNDS) for wall, cpu in zip(walls, cpus, strict=True)]


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    """Make a database with a table, in SQLite's usual mode: a journal that each commit makes and deletes."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as base:
        base.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
        yield base


def _round(base: sqlite3.Connection, commits: int) -> float:
    """Return the median time of so many commits."""
    times = []
    for number in range(commits):
        began = time.perf_counter()
        base.execute("INSERT INTO t (text) VALUES (?)", (f"row {number}",))
        times.append(time.perf_counter() - began)
    base.execute("DELETE FROM t")
    return median(times)
