"""The cost of the daemon where the network has no part: kvfs beside `memfs`, task by task, interleaved.

`scripts/bench cpu` compares rates with the targets; "CPU" is the daemon's own, which a busy machine blurs less.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measuring import Cost, measured, median, wait_until_idle
from bench.mounts import Mount, kvfs_mount, memory_mount
from support.mounted import Api
from support.serving import served_by_process

SMALL = b"0123456789abcde\n" * 64  # 1 KiB
BIG = os.urandom(128 * 1024)
BIG_BLOCKS = 200  # 25 MiB, the largest value
FLOOR, BARE, KVFS = "memfs", "memfs bare", "kvfs"


@dataclass(frozen=True)
class Task:
    """`work` on a directory with `n` files returns how many operations it did; `before` is not measured."""

    name: str
    work: Callable[[Path, int], int]
    target: float
    """Of the floor's rate."""
    before: Callable[[Path, int], object] | None = None
    unit: str = "/s"


def _file(path: Path, number: int) -> str:
    return f"{path}/f{number:05}"


def _create(path: Path, n: int) -> int:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    for number in range(n):
        fd = os.open(_file(path, number), flags, 0o644)
        os.write(fd, SMALL)
        os.close(fd)
    return n


def _read(path: Path, n: int) -> int:
    for number in range(n):
        fd = os.open(_file(path, number), os.O_RDONLY)
        if len(os.read(fd, 4096)) != len(SMALL):
            raise RuntimeError(f"{_file(path, number)} is not what was written")
        os.close(fd)
    return n


def _stat_once(path: Path, n: int) -> None:
    for number in range(n):
        os.stat(_file(path, number))


def _stat(path: Path, n: int) -> int:
    for _ in range(20):
        for number in range(n):
            os.stat(_file(path, number))
    return 20 * n


def _list(path: Path, n: int) -> int:
    for _ in range(20):
        if sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path)) < n * len(SMALL):
            raise RuntimeError(f"{path} shows wrong sizes")
    return 20 * n


def _unlink(path: Path, n: int) -> int:
    for number in range(n):
        os.unlink(_file(path, number))
    return n


def _write_big(path: Path, _: int) -> int:
    fd = os.open(f"{path}.big", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    for _ in range(BIG_BLOCKS):
        os.write(fd, BIG)
    os.close(fd)
    return BIG_BLOCKS // 8


def _read_big(path: Path, _: int) -> int:
    fd = os.open(f"{path}.big", os.O_RDONLY)
    buffer = bytearray(len(BIG))
    got = 0
    while size := os.readv(fd, [buffer]):
        got += size
    os.close(fd)
    if got != BIG_BLOCKS * len(BIG):
        raise RuntimeError(f"{path}.big is {got} bytes")
    return BIG_BLOCKS // 8


def _forget_pages(path: Path, _: int) -> None:
    """Have the kernel drop its pages; the daemon keeps what it has."""
    fd = os.open(f"{path}.big", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def _settle(path: Path, _: int = 0) -> None:
    """Wait until all changes are sent, so that their sending counts for no later task."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _settle_big(path: Path, _: int) -> None:
    fd = os.open(f"{path}.big", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def _settle_and_forget(path: Path, n: int) -> None:
    _settle_big(path, n)
    _forget_pages(path, n)


def _settle_and_read(path: Path, n: int) -> None:
    _settle(path)
    _read(path, n)


TASKS = (
    Task("create + write 1 KiB + close", _create, 0.60),
    Task("open + read 1 KiB + close, warm", _read, 0.80, _settle_and_read),
    Task("stat, warm", _stat, 0.95, _stat_once),
    Task("readdir + lstat", _list, 0.80),
    Task("unlink", _unlink, 0.60),
    Task("write 25 MiB", _write_big, 0.80, lambda path, n: _settle(path), unit=" MiB/s"),
    Task("read 25 MiB, from the daemon", _read_big, 0.80, _settle_and_forget, unit=" MiB/s"),
)


@dataclass(frozen=True)
class Sample:
    """One task on one mount in one round."""

    operations: int
    cost: Cost

    @property
    def rate(self) -> float:
        return self.operations / self.cost.wall

    @property
    def micros(self) -> float:
        """Return the CPU of the daemon for an operation, in microseconds."""
        return self.cost.cpu / self.operations * 1e6


Samples = dict[str, dict[str, list[Sample]]]  # task → subject → rounds


def run(
    directory: Path, *, n: int = 1500, seconds: float = 45.0, rounds: int = 12, only: str = ""
) -> Samples:
    """Run rounds of all tasks on all three until the time is used up, at least two."""
    found: Samples = {task.name: {} for task in TASKS if only in task.name}
    with _mounted(directory) as (mounts, server):
        begun = time.monotonic()
        for number in range(rounds):
            if number >= 2 and (time.monotonic() - begun) * (number + 1) / number > seconds:
                break
            _round(mounts, server, number, n, found)
    return found


@contextmanager
def _mounted(directory: Path) -> Iterator[tuple[dict[str, Mount], int]]:
    """Yield the mounts, and the process of the server behind kvfs."""
    with ExitStack() as stack:
        enter = stack.enter_context
        (directory / "server").mkdir(parents=True)
        served = enter(served_by_process(directory / "server"))
        with Api(served) as api:
            api.result("POST", "", json={"title": "bench"})
        mounts = {
            FLOOR: enter(memory_mount(directory / "memfs")),
            KVFS: enter(kvfs_mount(directory / "kvfs", served, f"cloudflare:{served.account}/bench")),
            BARE: enter(memory_mount(directory / "bare", bare=True)),
        }
        yield mounts, served.pid


def _round(mounts: dict[str, Mount], server: int, number: int, n: int, found: Samples) -> None:
    names = list(mounts)
    names = names[number % 3 :] + names[: number % 3]  # nobody is always first
    paths = {name: mounts[name].path / f"round{number}" for name in names}
    for path in paths.values():
        path.mkdir()
    for task in TASKS:
        for name in names:
            if task.before is not None:
                task.before(paths[name], n)
                wait_until_idle(server)
            sample = _sample(task, paths[name], n, mounts[name])
            if task.name in found:
                found[task.name].setdefault(name, []).append(sample)


def _sample(task: Task, path: Path, n: int, mount: Mount) -> Sample:
    done: list[int] = []
    cost = measured(lambda: done.append(task.work(path, n)), [mount.pid])
    return Sample(done[0], cost)


@dataclass(frozen=True)
class Row:
    """One task: medians, and kvfs' share of the floor, round by round."""

    task: str
    unit: str
    target: float
    rates: dict[str, float]
    micros: dict[str, float]
    share: float
    """kvfs' rate ÷ memfs' in the same round, the median."""
    best: float
    cpu: float
    """memfs' CPU ÷ kvfs', likewise: 1 is as frugal."""
    rounds: int

    @property
    def passed(self) -> bool:
        return self.share >= self.target


def rows(found: Samples) -> list[Row]:
    """Return the rows of the table."""
    return [_row(task, found[task.name]) for task in TASKS if found.get(task.name)]


def _row(task: Task, found: dict[str, list[Sample]]) -> Row:
    pairs = list(zip(found[KVFS], found[FLOOR], strict=True))
    shares = [ours.rate / floor.rate for ours, floor in pairs]
    spent = [(floor.cost.cpu or 1e-9) / (ours.cost.cpu or 1e-9) for ours, floor in pairs]
    return Row(
        task.name,
        task.unit,
        task.target,
        {name: median([one.rate for one in samples]) for name, samples in found.items()},
        {name: median([one.micros for one in samples]) for name, samples in found.items()},
        median(shares),
        max(shares),
        median(spent),
        len(pairs),
    )


def table(found: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| task | kvfs | memfs | memfs bare | kvfs ÷ memfs | target | | CPU µs kvfs | memfs | bare | by CPU |",
        "|---|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    for row in found:
        rates = " | ".join(f"{row.rates[name]:,.0f}{row.unit}" for name in (KVFS, FLOOR, BARE))
        micros = " | ".join(f"{row.micros[name]:,.1f}" for name in (KVFS, FLOOR, BARE))
        by_cpu = f"{row.cpu:.0%}" if row.micros[KVFS] > 0.1 else "—"  # the kernel answered all by itself
        verdict = "met" if row.passed else "missed"
        lines.append(
            f"| {row.task} | {rates} | {row.share:.0%} | {row.target:.0%} | {verdict} | {micros} | {by_cpu} |"
        )
    return "\n".join(lines) + "\n"
