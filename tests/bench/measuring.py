"""Measures the cost of work: wall time here, CPU and peak memory of the processes that did it, from /proc."""

import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_IDLE = 0.1  # seconds
_BUSY = 60.0  # seconds: nothing takes so long afterwards
_PROCESS_CPU = 2  # CPUCLOCK_SCHED, linux/posix-timers.h: a process' clock is (~pid << 3) | 2


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process so far, of all its threads, to the nanosecond; 0 when it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | _PROCESS_CPU)
    except OSError:
        return 0.0


def wait_until_idle(pid: int) -> None:
    """Return when a process has used no CPU for a tenth of a second: what it does after its answers is done."""
    used, since = cpu_seconds(pid), time.monotonic()
    end = since + _BUSY
    while time.monotonic() - since < _IDLE:
        if time.monotonic() > end:
            raise RuntimeError(f"process {pid} is never idle")
        time.sleep(_IDLE / 10)
        if (now := cpu_seconds(pid)) != used:
            used, since = now, time.monotonic()


def peak_memory(pid: int) -> int:
    """Return the bytes that were resident at most since the start or `forget_peak`; 0 when the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def forget_peak(pid: int) -> None:
    """Begin the peak anew (proc(5), clear_refs)."""
    with suppress(
        OSError
    ):  # a kernel without it, or a process that is gone: the peak is that of its whole life
        Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, but for `peak`: bytes."""

    wall: float
    cpu: float
    """Of the processes named when it was measured: the daemon."""
    client: float = 0.0
    """CPU of the commands that were run for it: cp, grep and the like."""
    server: float = 0.0
    peak: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One workload, once; `requests` by kind."""

    cost: Cost
    requests: "Counter[str]"
    start: float = 0.0
    """Of the wall time: starting the program and importing what it needs, where that is much."""


def measured(work: Callable[[], object], pids: Iterable[int] = (), servers: Iterable[int] = ()) -> Cost:
    """Do the work and return its cost; `pids` are the processes that serve it, `servers` those behind them."""
    pids, servers = [pid for pid in pids if pid], list(servers)
    for pid in pids:
        forget_peak(pid)
    before, behind, mine = _cpu(pids), _cpu(servers), _command_cpu()
    begun = time.perf_counter()
    work()
    wall = time.perf_counter() - begun
    cpu, client, server = _cpu(pids) - before, _command_cpu() - mine, _cpu(servers) - behind
    return Cost(wall, cpu, client, server, sum(map(peak_memory, pids)))


def _cpu(pids: Iterable[int]) -> float:
    return sum(map(cpu_seconds, pids))


def _command_cpu() -> float:
    """Return the CPU of the commands that this process has waited for. The work of the harness itself is left out."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def median(values: Sequence[float]) -> float:
    """Return the middle one; 0 of none."""
    return statistics.median(values) if values else 0.0
