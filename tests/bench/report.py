"""The report of a run: rows, tables and verdicts. It says where kvfs is behind."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import tables
from bench.measuring import median
from bench.reasons import REQUESTS, TENFOLD, TIME
from bench.suite import Found
from bench.workloads import (
    COMMAND,
    CREATE,
    CREATE_INTO,
    DELETE,
    LIST,
    MEANING,
    MOUNT,
    READ,
    RENAME,
    RENAME_FILES,
    STAT,
    TAR,
)

KVFS, FLOOR, DISK = "kvfs", "memfs", "ext4"
_ORDER = (KVFS, "rclone", "SDK", "wrangler", FLOOR, DISK)
RCLONE = ("rclone writes", "rclone full")
SDK = "SDK "
MANY_FILES = (CREATE, CREATE_INTO, READ, TAR, DELETE)
"""Where a request for each file is what others pay."""
WITHOUT_DELAY = (CREATE, CREATE_INTO, READ, STAT, LIST, RENAME, RENAME_FILES)
AHEAD, LEVEL, BEHIND = "ahead", "level", "behind"
TIMES_RCLONE = 10.0


@dataclass(frozen=True)
class Row:
    """Medians of one workload of one subject; seconds and bytes. `delay` is in seconds, None without a network."""

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
    start: float
    """Of `wall`: starting the program, where that is much."""
    running: float
    """The median without that."""


def rows(found: Found) -> list[Row]:
    """Return a row for each subject, delay and workload."""
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
        median([run.start for run in runs]), median([run.cost.wall - run.start for run in runs]),
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """A promise, held against the rows."""

    workload: str
    measure: str
    """`REQUESTS`, `TIME` or `TENFOLD`."""
    what: str
    standing: str
    """`AHEAD`, `LEVEL` or `BEHIND`; not as many times ahead as promised is behind."""
    detail: str


class Report:
    """Rows, found by subject, delay and workload."""

    def __init__(self, found: Iterable[Row], delays: Sequence[float]) -> None:
        self.rows = list(found)
        self.delays = sorted(delays)
        self._by = {(row.subject, row.delay, row.workload): row for row in self.rows}
        self.subjects = list(dict.fromkeys(row.subject for row in self.rows))
        self.subjects.sort(key=lambda name: _ORDER.index(name.split()[0]))

    def get(self, subject: str, delay: float, workload: str) -> Row | None:
        """Return the row. A subject without a network has one row for every delay."""
        return self._by.get((subject, delay, workload)) or self._by.get((subject, None, workload))

    @property
    def workloads(self) -> list[str]:
        """Return the workloads that were measured, in the order of the tables."""
        return [name for name in MEANING if any(row.workload == name for row in self.rows)]

    @property
    def start(self) -> float | None:
        """Return the seconds that a command over the SDK takes before and after its work."""
        found = [row.start for row in self.rows if row.subject.startswith(SDK)]
        return median(found) if found else None

    @property
    def peers(self) -> list[str]:
        """Return the tools that a user would take instead."""
        return [name for name in self.subjects if name not in (KVFS, FLOOR, DISK)]

    # tables

    def table(self, delay: float, show: Callable[[Row], str], subjects: Sequence[str] | None = None) -> str:
        """Return a table of workloads by subjects, with — where a subject cannot do one."""
        subjects = self.subjects if subjects is None else subjects
        lines = []
        for workload in self.workloads:
            found = [self.get(subject, delay, workload) for subject in subjects]
            lines.append([COMMAND[workload], *(show(row) if row is not None else "—" for row in found)])
        return tables.markdown(["", *(f"**{name}**" if name == KVFS else name for name in subjects)], lines)

    # the SDK in a program that is running already

    def beside_running(self, delay: float) -> str:
        """Compare kvfs with a running program that uses the SDK.

        Then say in how many workloads kvfs is ahead of its fastest mode.
        """
        modes = [name for name in self.subjects if name.startswith(SDK)]
        lines, standings = [], []
        for workload in self.workloads:
            ours = self.get(KVFS, delay, workload)
            found = [self.get(name, delay, workload) for name in modes]
            best = _best(found, lambda row: row.running)
            if ours is None or best is None:
                continue
            standings.append(_standing(ours.wall, best.running))
            cells = [tables.seconds(row.running) if row is not None else "—" for row in (ours, *found)]
            lines.append([COMMAND[workload], *cells, standings[-1]])
        header = ["", f"**{KVFS}**", *modes, "kvfs, beside the fastest"]
        return f"{tables.markdown(header, lines)}\n{counted(standings).capitalize()}.\n"

    # verdicts

    def verdicts(self) -> list[Verdict]:
        """Return a verdict on every promise, for every workload that was measured."""
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
            found += _against(ours, rivals, REQUESTS, REQUESTS, lambda row: row.requests, str)
            found += _in_time(ours, rivals, f"wall time at {_ms(late)}")
            if workload in MANY_FILES:
                found += _in_time(ours, rclone, f"{TENFOLD} at {_ms(late)}", TENFOLD, TIMES_RCLONE)
            ours = self.get(KVFS, early, workload)
            rclone = [row for name in RCLONE if (row := self.get(name, early, workload))]
            if early != late and ours is not None and workload in WITHOUT_DELAY:
                found += _in_time(ours, rclone, f"wall time at {_ms(early)}, against rclone")
        return found

    def document(self) -> list[dict[str, Any]]:
        """Return the report as a document for JSON."""
        return [asdict(row) for row in self.rows]


def _wall(row: Row) -> float:
    return row.wall


def _ms(delay: float) -> str:
    return f"{delay * 1000:.0f} ms"


def _best(found: Iterable[Row | None], of: Callable[[Row], float]) -> Row | None:
    return min((row for row in found if row is not None), key=of, default=None)


def _in_time(
    ours: Row, rivals: Sequence[Row], what: str, measure: str = TIME, factor: float = 1.0
) -> list[Verdict]:
    return _against(ours, rivals, measure, what, _wall, tables.seconds, factor)


def _against(
    ours: Row,
    rivals: Sequence[Row],
    measure: str,
    what: str,
    of: Callable[[Row], float],
    show: Callable[[Any], str],
    factor: float = 1.0,
) -> list[Verdict]:
    """Return the verdict beside the best of the rivals, if there is one."""
    best = _best(rivals, of)
    if best is None:
        return []
    mine, theirs = of(ours), of(best)
    if mine == theirs:
        said = f"level with {best.subject}: {show(mine)}"
    elif mine and theirs:
        ratio = max(mine, theirs) / min(mine, theirs)
        said = f"{show(mine)}; {best.subject} {show(theirs)}: {tables.times(ratio)} {_standing(mine, theirs)}"
    else:
        said = f"{show(mine)}; {best.subject} {show(theirs)}"
    return [Verdict(ours.workload, measure, what, _standing(mine * factor, theirs), said)]


def _standing(mine: float, theirs: float) -> str:
    if mine == theirs:
        return LEVEL
    return AHEAD if mine < theirs else BEHIND


def counted(standings: Sequence[str]) -> str:
    """Return a text of how many there are of each kind."""
    found = [f"{standing} in {standings.count(standing)}" for standing in (AHEAD, LEVEL, BEHIND)]
    return f"{', '.join(found)} of {len(standings)}"


def cpu_cell(row: Row) -> str:
    """Return the CPU of the daemon + that of the client."""
    return (
        f"{tables.seconds(row.cpu)} + {tables.seconds(row.client)}"
        if row.peak
        else tables.seconds(row.client)
    )


def requests_cell(row: Row) -> str:
    """Return the number of requests."""
    return "—" if row.delay is None else f"{row.requests:,}"


def kinds_cell(row: Row) -> str:
    """Return the kinds of the requests."""
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(row.kinds.items())) or "none"


def peak_cell(row: Row) -> str:
    """Return the peak of the daemon."""
    return tables.size(row.peak) if row.peak else "—"
