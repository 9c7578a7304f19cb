"""`kvfs top`: which processes use a mount, how long they wait, and what they cost. docs/status.md has the JSON."""

import pwd
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Final

import click
from msgspec import to_builtins
from msgspec.structs import astuple

from kvfs.cli.daemons import ask_mount, chosen_mounts
from kvfs.cli.options import INTERVAL, STATE_DIR, flag, json_option, path
from kvfs.cli.output import counted, duration_text, say_json
from kvfs.cli.watch import Line, Picture, draw_once, watch
from kvfs.core.durations import count, quantile
from kvfs.core.errors import UserError
from kvfs.host.control import ControlError, Message
from kvfs.host.replies import CallerItem, TopReport
from kvfs.host.requests import TopRequest

VERSION: Final = 1
"""Of the JSON: raised when a name goes or changes its meaning, not when one is added."""

SORTS: Final = ("requests", "dollars", "ops", "latency")
GROUPS: Final = ("command", "pid", "user")
_SILENCE: Final = 5.0  # seconds
_MOST: Final = 1000  # rows of one picture


@dataclass(frozen=True, slots=True)
class TopRow:
    """A process, or several that are shown as one. `durations` are counts in buckets of `core.durations`."""

    pid: int
    user: str
    command: str
    processes: int
    operations: int
    waited: int
    seconds: float
    durations: tuple[int, ...]
    requests: float
    keys: tuple[float, ...]
    """Read, written, deleted, lists."""

    dollars: float

    @property
    def p99(self) -> float:
        """Return the seconds that 99 of 100 operations did not exceed."""
        return quantile(self.durations, 0.99) or 0.0

    @property
    def median(self) -> float:
        """Return the seconds that half of the operations did not exceed."""
        return quantile(self.durations, 0.5) or 0.0

    def joined(self, other: "TopRow") -> "TopRow":
        """Return both in one row."""
        return replace(
            self,
            pid=self.pid if self.pid == other.pid else 0,
            user=self.user if self.user == other.user else "*",
            command=self.command if self.command == other.command else "*",
            processes=self.processes + other.processes,
            operations=self.operations + other.operations,
            waited=self.waited + other.waited,
            seconds=self.seconds + other.seconds,
            durations=tuple(
                one + two for one, two in zip_longest(self.durations, other.durations, fillvalue=0)
            ),
            requests=self.requests + other.requests,
            keys=tuple(one + two for one, two in zip(self.keys, other.keys, strict=True)),
            dollars=self.dollars + other.dollars,
        )


_ORDER: Final[dict[str, Callable[[TopRow], tuple[float, ...]]]] = {
    "requests": lambda row: (row.requests, row.operations),
    "dollars": lambda row: (row.dollars, row.requests, row.operations),
    "ops": lambda row: (row.operations,),
    "latency": lambda row: (row.p99, row.seconds),
}


@click.command()
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@click.option(
    "--by",
    type=click.Choice(GROUPS),
    default="command",
    show_default=True,
    help="Show a row for each command, process or user.",
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="requests",
    show_default=True,
    help="Sort the rows by this, the highest first.",
)
@INTERVAL
@flag("--once", "Draw once, and end.")
@json_option("Print one JSON object by process, as docs/status.md describes it.")
@STATE_DIR
def top(
    directory: Path | None,
    by: str,
    sort: str,
    interval: float,
    once: bool,
    as_json: bool,
    state: Path,
) -> None:
    """Show which processes use DIR or all your mounts: operations, latency, requests, keys and dollars.

    On a terminal it is drawn again and again: s sorts by something else, b groups by something else, q ends.

    \b
    kvfs top                      draw until q is pressed
    kvfs top --once --by pid      who used up the budget since the mount?
    """
    view = _View(directory, state, by, sort)
    if as_json:
        found = view.asked()
        say_json({"version": VERSION, "mounts": [_as_json(*one) for one in found]})
    elif once:
        draw_once(view.picture(view.asked()))
    else:
        watch(view.draw, interval, view.key)


class _View:
    """The choice of mounts and the order of rows, as the keys set it."""

    def __init__(self, directory: Path | None, state: Path, by: str, sort: str) -> None:
        self._directory = directory
        self._state = state
        self._by = by
        self._sort = sort
        self._before: dict[Path, dict[tuple[object, ...], tuple[float, int]]] = {}

    def asked(self) -> list[tuple[Path, TopReport]]:
        """Return the answers of the daemons. Raises `UserError`, `ControlError`."""
        return [
            (mountpoint, ask_mount(mountpoint, self._state, TopRequest(), silence=_SILENCE))
            for mountpoint in chosen_mounts(self._directory, self._state)
        ]

    def draw(self) -> Picture:
        """Return the picture now; a mount that is away may come back."""
        try:
            return self.picture(self.asked())
        except (UserError, ControlError) as exc:
            return [Line(f"{exc}; waiting for it")]

    def key(self, key: str) -> None:
        """Take a key: s and b choose the next order or group."""
        if key == "s":
            self._sort = SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)]
        if key == "b":
            self._by = GROUPS[(GROUPS.index(self._by) + 1) % len(GROUPS)]

    def picture(self, found: Iterable[tuple[Path, TopReport]]) -> Picture:
        """Yield a block for each mount."""
        lines = [
            line for mountpoint, answer in found for line in (*self._block(mountpoint, answer), Line(""))
        ]
        return lines[:-1]

    def _block(self, mountpoint: Path, answer: TopReport) -> Picture:
        rows = grouped(map(_row, answer.callers), self._by)
        rows.sort(key=_ORDER[self._sort], reverse=True)
        before = self._before.get(mountpoint, {})
        self._before[mountpoint] = {_place(row): (answer.now, row.operations) for row in rows}
        lines = [Line(str(mountpoint), bold=True), Line(_summary(answer, rows)), Line(_HEAD, bold=True)]
        return lines + [Line(_text(row, _rate(row, before, answer.now))) for row in rows[:_MOST]]


def _row(caller: CallerItem) -> TopRow:
    """Return a row of a caller from the daemon's answer."""
    return TopRow(
        caller.pid,
        _user(caller.uid, caller.command),
        caller.command,
        caller.processes,
        sum(caller.operations.values()),
        caller.waited,
        caller.seconds,
        tuple(caller.durations),
        caller.requests,
        astuple(caller.keys),
        caller.dollars,
    )


def _user(uid: int, command: str) -> str:
    if command in ("kvfs", "others") and not uid:
        return "-"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def grouped(rows: Iterable[TopRow], by: str) -> list[TopRow]:
    """Return rows of one command, process or user in one; ended processes of a command are one already."""
    found: dict[tuple[object, ...], TopRow] = {}
    for row in rows:
        place = {"command": (row.command,), "user": (row.user,)}.get(by, _place(row))
        found[place] = found[place].joined(row) if place in found else row
    return list(found.values())


def _place(row: TopRow) -> tuple[object, ...]:
    return (row.pid, row.user, row.command)


def _rate(row: TopRow, before: dict[tuple[object, ...], tuple[float, int]], now: float) -> float:
    """Return the operations a second since the last picture."""
    then, operations = before.get(_place(row), (now, row.operations))
    return max(0.0, (row.operations - operations) / (now - then)) if now > then else 0.0


def _summary(answer: TopReport, rows: list[TopRow]) -> str:
    since = duration_text(max(0.0, answer.now - answer.since))
    requests = sum(answer.requests.values())
    words = [f"{sum(row.operations for row in rows):,} operations in {since}", f"{requests:,} requests"]
    if answer.keys:
        words.append(f"${answer.keys.get('dollars', 0):.6f} at list price")
    if answer.budget:
        words.append(f"{answer.budget.get('left', 0):,} requests left")
    return ", ".join([*words, f"{counted(answer.pending.count, 'change')} pending"])


_COLUMNS: Final = (
    ("PID", 7), ("USER", 8), ("COMMAND", -15), ("OPS", 9), ("OPS/S", 7), ("MEDIAN", 8), ("P99", 8), ("CACHED", 6),
    ("REQUESTS", 8), ("READ", 7), ("WRITTEN", 7), ("DELETED", 7), ("LISTS", 6), ("DOLLARS", 10),
)  # fmt: skip


def _laid_out(cells: Iterable[str]) -> str:
    pairs = zip(cells, (width for _, width in _COLUMNS), strict=True)
    return " ".join(
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}" for cell, width in pairs
    ).rstrip()


_HEAD: Final = _laid_out(name for name, _ in _COLUMNS)


def _text(row: TopRow, rate: float) -> str:
    cached = f"{(row.operations - row.waited) / row.operations:.0%}" if row.operations else "-"
    pid = str(row.pid) if row.pid else f"x{row.processes}" if row.processes > 1 else "-"
    cells = (
        pid, row.user[:8], row.command[:15], f"{row.operations:,}", f"{rate:,.0f}", seconds_text(row.median),
        seconds_text(row.p99), cached, _number(row.requests), *map(_number, row.keys), f"{row.dollars:.6f}",
    )  # fmt: skip
    return _laid_out(cells)


def seconds_text(seconds: float) -> str:
    """Return a text like `12 µs`, `3.4 ms`, `1.2 s`."""
    for unit, length in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs" if seconds else "-"


def _number(number: float) -> str:
    """Return a whole number as such, and a part of a request that several share with one digit."""
    return f"{number:,.0f}" if abs(number - round(number)) < 0.05 else f"{number:,.1f}"


def _as_json(mountpoint: Path, answer: TopReport) -> Message:
    callers = []
    for caller in answer.callers:
        shown = to_builtins(caller)
        durations = shown.pop("durations")
        shown["operations_count"] = count(durations)
        shown["median_seconds"] = quantile(durations, 0.5)
        shown["p99_seconds"] = quantile(durations, 0.99)
        callers.append(shown)
    return {"mountpoint": str(mountpoint), "since": answer.since, "now": answer.now, "callers": callers}
