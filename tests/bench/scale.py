"""Measures how each cost grows with the keys of a namespace, from a thousand to a million, against `kvfs serve`.

Every row is measured on mounts that know nothing yet. Beside it: values read through a bounded cache, writes that pile
up unsent, and HTTP/2 and gzip against the alternatives.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

from bench import transport
from bench.filling import PER_DIRECTORY, fill
from bench.machine import machine, machine_lines
from bench.measuring import cpu_seconds, forget_peak, median, peak_memory
from bench.mounts import Mount, kvfs_mount
from bench.plots import Curves, lines
from bench.results import write
from bench.tables import markdown, seconds, size
from support.mounted import Api
from support.serving import ACCOUNT, Served, served_by_process

KEYS: Final = (1_000, 10_000, 100_000, 1_000_000)
QUICK: Final = (1_000, 10_000)
PATIENT: Final = ("--rate-requests=1000000", "--cache-ttl=3600")
"""A million keys are a thousand lists: what is measured is kvfs, not the rate limit, which docs/scale.md is on."""
LARGEST: Final = 25 * 1024 * 1024
CACHE: Final = "256M"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Growth:
    """Costs with so many keys: seconds, bytes of resident memory, list requests."""

    keys: int
    mount: float
    mount_memory: int
    mount_requests: int
    stat: float
    stat_requests: int
    open: float
    first: float
    first_lists: int
    find: float
    find_cpu: float
    find_lists: int
    find_memory: int
    find_peak: int
    listdir: float
    restat: float


@dataclass(frozen=True, slots=True)
class Through:
    """Values read through the cache, or written and not sent yet: how many, bytes in all, seconds, peak memory."""

    what: str
    count: int
    bytes: int
    wall: float
    peak: int
    requests: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/bench scale`."""
    parser.add_argument("--keys", type=int, nargs="*", help="numbers of keys (1000 10000 100000 1000000)")
    parser.add_argument("--read-gigabytes", type=float, default=1.0, help="read through the cache (1)")
    parser.add_argument(
        "--pending", type=int, default=100_000, help="writes journaled before any is sent (100000)"
    )


def run(words: argparse.Namespace, directory: Path, out: Path) -> int:
    """Measure and write scale.json, scale.md and the plots."""
    quick, busy = bool(words.quick), os.getloadavg()[2]
    growth = [_growth(_fresh(directory, f"keys{n}"), n) for n in words.keys or (QUICK if quick else KEYS)]
    count = max(4, int(words.read_gigabytes * 2**30 / LARGEST) if not quick else 4)
    through = [_read_through(_fresh(directory, "through"), count)]
    pending = words.pending if not quick else 2000
    through += [_pending(_fresh(directory, f"pending{each}"), pending, each) for each in (100, 10_000)]
    with _served(_fresh(directory, "transport")) as served:
        rows = transport.measure(served)
    packed = transport.compression()
    document = {
        "machine": machine(),
        "load": round(busy, 1),
        "growth": [asdict(one) for one in growth],
        "through": [asdict(one) for one in through],
        "transport": [asdict(one) for one in rows],
        "compression": [asdict(one) for one in packed],
    }
    write(out, "scale", document, _page(busy, growth, through, rows, packed))
    _draw(out, growth)
    return 0


def _fresh(directory: Path, name: str) -> Path:
    path = directory / name
    path.mkdir()
    return path


@contextmanager
def _served(directory: Path) -> Iterator[Served]:
    with served_by_process(directory, faults="seed=1") as served:
        yield served


# one number of keys


def _growth(directory: Path, keys: int) -> Growth:
    fill(directory / "store.sqlite", ACCOUNT, "big", keys)
    with _served(directory) as served, Api(served) as api:
        with _mounted(directory / "one", served) as mount:
            stat, stat_requests = _counted(api, lambda: os.stat(_key(mount, keys // 2)))
            opened, _ = _counted(api, lambda: _key(mount, keys // 2 + 1).read_bytes())
        begun = time.perf_counter()
        before = api.requests()
        with _mounted(directory / "all", served) as mount:
            ready, memory = time.perf_counter() - begun, _resident(mount.pid)
            asked = sum(api.requests().values()) - sum(before.values())
            first, first_lists = _counted(api, lambda: _first_entry(mount.path / "big"))
            forget_peak(mount.pid)
            cpu = cpu_seconds(mount.pid)
            find, find_lists = _counted(api, lambda: _find(mount.path / "big", keys))
            cpu = cpu_seconds(mount.pid) - cpu
            resident, peak = _resident(mount.pid), peak_memory(mount.pid)
            directories = [_key(mount, n * keys // 5).parent for n in range(5)]
            listdir = median([_timed(lambda path=path: len(os.listdir(path)))[0] for path in directories])
            names = [_key(mount, 7 + n * keys // 50) for n in range(50)]
            restat = median([_timed(lambda path=path: os.stat(path.parent))[0] for path in names])
    return Growth(
        keys, ready, memory, asked, stat, stat_requests, opened, first, first_lists + 0, find, cpu,
        find_lists + first_lists, resident, peak, listdir, restat,
    )  # fmt: skip


def _mounted(directory: Path, served: Served, *options: str):
    return kvfs_mount(directory, served, "cloudflare:", *PATIENT, *options)


def _key(mount: Mount, number: int) -> Path:
    return mount.path / f"big/d{number // PER_DIRECTORY:04}/f{number % PER_DIRECTORY:03}.txt"


def _first_entry(path: Path) -> str:
    with os.scandir(path) as entries:
        return next(entries).name


def _find(path: Path, keys: int) -> None:
    found = subprocess.run(["find", "."], cwd=path, stdout=subprocess.PIPE, check=True).stdout.count(b"\n")
    assert found == 1 + -(-keys // PER_DIRECTORY) + keys, found


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def _counted(api: Api, work: Callable[[], object]) -> tuple[float, int]:
    """Return the seconds, and the requests for keys and values at the server."""
    before = api.requests()
    took, _ = _timed(work)
    after = api.requests()
    asked = {name: after[name] - before.get(name, 0) for name in after if name != "list_namespaces"}
    return took, sum(asked.values())


# much data


def _read_through(directory: Path, count: int) -> Through:
    """Read values of the largest size, one after the other; the cache holds ten of them."""
    fill(directory / "store.sqlite", ACCOUNT, "big", count, value=b"\xff" * LARGEST)
    with (
        _served(directory) as served,
        Api(served) as api,
        _mounted(directory / "machine", served, f"--cache-size={CACHE}") as mount,
    ):
        before = sum(api.requests().values())

        def work() -> None:
            for number in range(count):
                with _key(mount, number).open("rb") as file:
                    while file.read(1 << 20):
                        pass

        wall, _ = _timed(work)
        asked = sum(api.requests().values()) - before
        what = f"read through a cache of {CACHE}iB, 25 MiB each"
        return Through(what, count, count * LARGEST, wall, peak_memory(mount.pid), asked)


def _pending(directory: Path, count: int, each: int) -> Through:
    """Write so many files of `each` bytes while nothing is sent, and then send them."""
    with (
        _served(directory) as served,
        Api(served) as api,
        _mounted(directory / "machine", served, "--write-back=86400", "--cache-size=32M") as mount,
    ):
        (mount.path / "ns").mkdir()
        before = sum(api.requests().values())

        def work() -> None:
            for number in range(count):
                path = mount.path / "ns" / f"d{number // PER_DIRECTORY}"
                if number % PER_DIRECTORY == 0:
                    path.mkdir()
                (path / f"f{number}").write_bytes(b"%08d" % number * (each // 8))

        wall, _ = _timed(work)
        subprocess.run(["sync", "-f", mount.path], check=True)
        _send(directory / "machine", served, mount)
        asked = sum(api.requests().values()) - before
        assert len(api.keys(api.namespace("ns"))) == count
        what = f"written, {each:,} bytes each, and sent"
        return Through(what, count, count * each, wall, peak_memory(mount.pid), asked)


def _send(directory: Path, served: Served, mount: Mount) -> None:
    from support.mounted import KVFS, environment

    subprocess.run([*KVFS, "sync", str(mount.path)], env=environment(directory, served), check=True, cwd="/")


# results


def _page(
    busy: float,
    growth: list[Growth],
    through: list[Through],
    rows: list[transport.Row],
    packed: list[transport.Compressed],
) -> str:
    header = ["", *(f"{one.keys:,} keys" for one in growth)]
    shown: list[tuple[str, Callable[[Growth], str]]] = [
        ("mount, until ready", lambda one: seconds(one.mount)),
        ("… requests", lambda one: str(one.mount_requests)),
        ("… resident memory", lambda one: size(one.mount_memory)),
        (
            "`stat` of one key, knowing nothing",
            lambda one: f"{seconds(one.stat)}, {one.stat_requests} requests",
        ),
        ("read of the next key", lambda one: seconds(one.open)),
        ("`ls`, until the first entry", lambda one: f"{seconds(one.first)}, {one.first_lists} lists"),
        ("`find` over everything", lambda one: seconds(one.find)),
        ("… CPU of kvfs", lambda one: seconds(one.find_cpu)),
        ("… lists", lambda one: str(one.find_lists)),
        ("… resident memory afterwards", lambda one: size(one.find_memory)),
        ("… at its peak", lambda one: size(one.find_peak)),
        ("then: list a directory of 1,000", lambda one: seconds(one.listdir)),
    ]
    table = markdown(header, [[name, *(text(one) for one in growth)] for name, text in shown])
    data = markdown(
        ["", "values", "bytes", "time", "requests", "peak memory"],
        [
            [
                one.what,
                f"{one.count:,}",
                size(one.bytes),
                seconds(one.wall),
                str(one.requests),
                size(one.peak),
            ]
            for one in through
        ],
    )
    transports = markdown(
        ["50 ms away, 8 at a time", "over", "time", "CPU of the client"],
        [[row.work, row.transport, seconds(row.wall), seconds(row.cpu)] for row in rows],
    )
    gzip = markdown(
        ["answer", "bytes", "with gzip", "to inflate", "worth it below"],
        [
            [one.answer, f"{one.plain:,}", f"{one.packed:,}", f"{one.inflate * 1000:.2f} ms",
             f"{one.worthwhile_below * 8 / 1e6:,.0f} Mbit/s"]
            for one in packed
        ],
    )  # fmt: skip
    return (
        "# How costs grow with the keys\n\nMade by `scripts/bench scale`.\n\n"
        + machine_lines(machine())
        + f"- load before: {busy:.1f} (above half of the cores, times are longer than they need be)\n"
        + f"\n{table}\n![Seconds by keys](scale-time.svg)\n![Memory by keys](scale-memory.svg)\n"
        + f"\n## Much data\n\n{data}\n## HTTP/2 or a pool\n\n{transports}\n## gzip\n\n{gzip}"
    )


def redraw(out: Path) -> None:
    """Draw the plots again, from `scale.json`."""
    found = json.loads((out / "scale.json").read_text())
    _draw(out, [Growth(**one) for one in found["growth"]])


def _draw(out: Path, growth: list[Growth]) -> None:
    def curve(value: Callable[[Growth], float]) -> list[tuple[float, float]]:
        return [(one.keys, value(one)) for one in growth]

    lines(
        out / "scale-time.svg",
        "Seconds by keys",
        {
            "find over everything": curve(lambda one: one.find),
            "list a directory of 1,000": curve(lambda one: one.listdir),
            "mount": curve(lambda one: one.mount),
            "stat of one key": curve(lambda one: one.stat),
            "first entry of ls": curve(lambda one: one.first),
        },
        Curves("keys", "seconds", seconds),
    )
    lines(
        out / "scale-memory.svg",
        "Resident memory by keys",
        {
            "mounted": curve(lambda one: one.mount_memory / 2**20),
            "after find": curve(lambda one: one.find_memory / 2**20),
            "peak of find": curve(lambda one: one.find_peak / 2**20),
        },
        Curves("keys", "MiB", lambda value: f"{value:.0f} MiB", logarithmic=False),
    )
