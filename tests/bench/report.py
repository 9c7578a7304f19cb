"""What was found, as rows, tables, verdicts and plots. Where kvfs is behind, it is said."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import plots, tables
from bench.measuring import median
from bench.suite import Found
from bench.workloads import (
    BIG_READ,
    BIG_WRITE,
    CREATE,
    DELETE,
    LIST,
    MEANING,
    MOUNT,
    READ,
    RENAME,
    SAVE,
    STAT,
    TAR,
)

KVFS, FLOOR, DISK = "kvfs", "memfs", "ext4"
RCLONE = ("rclone writes", "rclone full")
MANY_FILES = (CREATE, READ, TAR, DELETE)
"""Where a request for each file is what others pay."""
WITHOUT_DELAY = (CREATE, READ, STAT, LIST, RENAME)
HEADLINE = (CREATE, LIST, STAT, READ, TAR, SAVE, RENAME, DELETE, BIG_WRITE, BIG_READ)
TIMES_RCLONE = 10.0


@dataclass(frozen=True)
class Row:
    """Medians of one workload of one subject; seconds and bytes. `delay`: seconds, None without a network."""

    subject: str
    delay: float | None
    workload: str
    runs: int
    wall: float
    fastest: float
    slowest: float
    cpu: float
    client: float
    server: float
    peak: int
    requests: int
    kinds: Mapping[str, int]


def rows(found: Found) -> list[Row]:
    """One for each subject, delay and workload."""
    return [_row(*key, runs) for key, runs in found.items()]


def _row(subject: str, delay: float | None, workload: str, runs: Sequence[Any]) -> Row:
    costs = [run.cost for run in runs]
    walls = sorted(cost.wall for cost in costs)
    typical = sorted(runs, key=lambda run: run.requests.total())[len(runs) // 2]
    return Row(
        subject, delay, workload, len(runs), median(walls), walls[0], walls[-1],
        median([cost.cpu for cost in costs]), median([cost.client for cost in costs]),
        median([cost.server for cost in costs]), max(cost.peak for cost in costs),
        typical.requests.total(), dict(typical.requests),
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A promise, held against the rows."""

    workload: str
    what: str
    kept: bool
    detail: str


class Report:
    """Rows, found by subject, delay and workload."""

    def __init__(self, found: Iterable[Row], delays: Sequence[float]) -> None:
        self.rows = list(found)
        self.delays = sorted(delays)
        self._by = {(row.subject, row.delay, row.workload): row for row in self.rows}
        self.subjects = list(dict.fromkeys(row.subject for row in self.rows))
        self.subjects.sort(key=lambda name: (name != KVFS, name in (FLOOR, DISK)))

    def get(self, subject: str, delay: float, workload: str) -> Row | None:
        """What has no network is the same at every delay."""
        return self._by.get((subject, delay, workload)) or self._by.get((subject, None, workload))

    @property
    def workloads(self) -> list[str]:
        """Those measured, in the order of the tables."""
        return [name for name in MEANING if any(row.workload == name for row in self.rows)]

    @property
    def peers(self) -> list[str]:
        """What a user would take instead."""
        return [name for name in self.subjects if name not in (KVFS, FLOOR, DISK)]

    # tables

    def table(self, delay: float, show: Callable[[Row], str], subjects: Sequence[str] | None = None) -> str:
        """Workloads by subjects; — where somebody cannot do it."""
        subjects = self.subjects if subjects is None else subjects
        lines = []
        for workload in self.workloads:
            found = [self.get(subject, delay, workload) for subject in subjects]
            lines.append([workload, *(show(row) if row is not None else "—" for row in found)])
        return tables.markdown(["", *(f"**{name}**" if name == KVFS else name for name in subjects)], lines)

    def headline(self, delay: float) -> str:
        """For the README: kvfs, the better rclone, the SDK by its bulk calls; time and requests."""
        lines = []
        for workload in HEADLINE:
            ours = self.get(KVFS, delay, workload)
            if ours is None:
                continue
            rclone = _best((self.get(name, delay, workload) for name in RCLONE), _wall)
            bulk = self.get("SDK bulk", delay, workload) or self.get("SDK singly", delay, workload)
            lines.append([MEANING[workload], *map(_time_and_requests, (ours, rclone, bulk))])
        return tables.markdown(
            ["", "**kvfs**", "rclone mount, the faster mode", "official SDK, bulk calls"], lines
        )

    # verdicts

    def verdicts(self) -> list[Verdict]:
        """Every promise for every workload that was measured."""
        found: list[Verdict] = []
        late, early = self.delays[-1], self.delays[0]
        for workload in self.workloads:
            if workload == MOUNT:
                continue
            rivals = [row for name in self.peers if (row := self.get(name, late, workload))]
            rclone = [row for row in rivals if row.subject in RCLONE]
            ours = self.get(KVFS, late, workload)
            if ours is None:
                continue
            found += _ahead(ours, rivals, "requests", lambda row: row.requests, str)
            found += _ahead(ours, rivals, f"wall time at {_ms(late)}", _wall, tables.seconds)
            if workload in MANY_FILES:
                found += _ahead(
                    ours, rclone, f"ten times rclone at {_ms(late)}", _wall, tables.seconds, TIMES_RCLONE
                )
            ours = self.get(KVFS, early, workload)
            rclone = [row for name in RCLONE if (row := self.get(name, early, workload))]
            if early != late and ours is not None and workload in WITHOUT_DELAY:
                found += _ahead(
                    ours, rclone, f"wall time at {_ms(early)}, against rclone", _wall, tables.seconds
                )
        return found

    # plots

    def plot(self, out: Path) -> list[str]:
        """The names of the files written."""
        made = []
        for delay in self.delays:
            title = f"Wall time, each request {_ms(delay)} late (seconds, less is better)"
            made.append(self._bars(out / f"wall-{delay * 1000:.0f}ms.svg", title, delay, _wall, "seconds"))
        last = self.delays[-1]
        made.append(
            self._bars(
                out / "requests.svg", "Requests (less is better)", last, lambda row: row.requests, "requests"
            )
        )
        cpu = "CPU of daemon and client (seconds, less is better)"
        made.append(self._bars(out / "cpu.svg", cpu, self.delays[0], _cpu, "CPU seconds"))
        return made

    def _bars(self, file: Path, title: str, delay: float, of: Callable[[Row], float], unit: str) -> str:
        labels = [name for name in self.workloads if name != MOUNT]
        series = {
            subject: [of(row) if (row := self.get(subject, delay, name)) else None for name in labels]
            for subject in self.subjects
        }
        shown = {name: values for name, values in series.items() if any(values)}
        plots.bars(file, title, labels, shown, y_title=unit)
        return file.name

    def document(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [asdict(row) for row in self.rows]


def _wall(row: Row) -> float:
    return row.wall


def _cpu(row: Row) -> float:
    return row.cpu + row.client


def _ms(delay: float) -> str:
    return f"{delay * 1000:.0f} ms"


def _best(found: Iterable[Row | None], of: Callable[[Row], float]) -> Row | None:
    return min((row for row in found if row is not None), key=of, default=None)


def _ahead(
    ours: Row,
    rivals: Sequence[Row],
    what: str,
    of: Callable[[Row], float],
    show: Callable[[Any], str],
    factor: float = 1.0,
) -> list[Verdict]:
    best = _best(rivals, of)
    if best is None:
        return []
    mine, theirs = of(ours), of(best)
    if mine == theirs:
        said = f"level with {best.subject}: {show(mine)}"
    elif mine and theirs:
        ratio = max(mine, theirs) / min(mine, theirs)
        said = f"{show(mine)}; {best.subject} {show(theirs)}: {tables.times(ratio)} {_side(mine < theirs)}"
    else:
        said = f"{show(mine)}; {best.subject} {show(theirs)}"
    return [Verdict(ours.workload, what, mine * factor <= theirs, said)]


def _side(ahead: bool) -> str:
    return "ahead" if ahead else "behind"


def _time_and_requests(row: Row | None) -> str:
    if row is None:
        return "—"
    return f"{tables.seconds(row.wall)}, {row.requests:,} requests".replace(" 1 requests", " 1 request")


def wall_cell(row: Row) -> str:
    """Once-measured values are marked."""
    return tables.seconds(row.wall) + ("¹" if row.runs == 1 else "")


def cpu_cell(row: Row) -> str:
    """Daemon + client."""
    return (
        f"{tables.seconds(row.cpu)} + {tables.seconds(row.client)}"
        if row.peak
        else tables.seconds(row.client)
    )


def requests_cell(row: Row) -> str:
    """How many."""
    return "—" if row.delay is None else f"{row.requests:,}"


def kinds_cell(row: Row) -> str:
    """What they were."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(row.kinds.items())) or "none"


def peak_cell(row: Row) -> str:
    """Of the daemon."""
    return tables.size(row.peak) if row.peak else "—"
