"""`kvfs top`: which processes use a mount, how long they wait, and what they cost. docs/status.md has the JSON."""

import pwd
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import zip_longest
from operator import add
from pathlib import Path
from typing import Final

import click
from msgspec import to_builtins
from msgspec.structs import astuple, replace

from kvfs.cli.daemons import ask_mount, chosen_mounts
from kvfs.cli.options import INTERVAL, STATE_DIR, flag, json_option, path
from kvfs.cli.output import counted, duration_text, say_json
from kvfs.cli.watch import Line, Picture, draw_once, watch
from kvfs.core.durations import count, quantile
from kvfs.core.errors import UserError
from kvfs.host.control import ControlError, Message
from kvfs.host.replies import BilledKeys, CallerItem, TopReport
from kvfs.host.requests import TopRequest

VERSION: Final = 1
"""Of the JSON: raised when a name goes or changes its meaning, not when one is added."""

SORTS: Final = ("requests", "dollars", "ops", "latency")
GROUPS: Final = ("command", "pid", "user")
_SILENCE: Final = 5.0  # seconds
_MOST: Final = 1000  # rows of one picture
SEVERAL: Final = -1  # the uid of a row that stands for several users
NOBODY: Final = -2  # and of one that stands for the daemon's own work and what is left of others


_ORDER: Final[dict[str, Callable[[CallerItem], tuple[float, ...]]]] = {
    "requests": lambda row: (row.requests, _count(row)),
    "dollars": lambda row: (row.dollars, row.requests, _count(row)),
    "ops": lambda row: (_count(row),),
    "latency": lambda row: (_within(row, 0.99), row.seconds),
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
        rows = grouped(answer.callers, self._by)
        rows.sort(key=_ORDER[self._sort], reverse=True)
        before = self._before.get(mountpoint, {})
        self._before[mountpoint] = {_place(row): (answer.now, _count(row)) for row in rows}
        lines = [Line(str(mountpoint), bold=True), Line(_summary(answer, rows)), Line(_HEAD, bold=True)]
        return lines + [Line(_text(row, _rate(row, before, answer.now))) for row in rows[:_MOST]]


def _count(row: CallerItem) -> int:
    return sum(row.operations.values())


def _within(row: CallerItem, share: float) -> float:
    """Return the seconds that this share of the operations did not exceed."""
    return quantile(row.durations, share) or 0.0


def _user(row: CallerItem) -> str:
    if row.uid == NOBODY or (row.command in ("kvfs", "others") and not row.uid):
        return "-"
    try:
        return "*" if row.uid == SEVERAL else pwd.getpwuid(row.uid).pw_name
    except KeyError:
        return str(row.uid)


def grouped(rows: Iterable[CallerItem], by: str) -> list[CallerItem]:
    """Return rows of one command, process or user in one; ended processes of a command are one already."""
    found: dict[tuple[object, ...], CallerItem] = {}
    for row in rows:
        place = _place(row) if by == "pid" else (row.command if by == "command" else _user(row),)
        found[place] = _joined(found[place], row) if place in found else row
    return list(found.values())


def _joined(one: CallerItem, other: CallerItem) -> CallerItem:
    sums = ("processes", "waited", "seconds", "requests", "dollars")
    uid = NOBODY if _user(one) == "-" else one.uid
    return replace(
        one,
        pid=one.pid if one.pid == other.pid else 0,
        uid=uid if _user(one) == _user(other) else SEVERAL,
        command=one.command if one.command == other.command else "*",
        operations=Counter(one.operations) + Counter(other.operations),
        durations=list(map(sum, zip_longest(one.durations, other.durations, fillvalue=0))),
        keys=BilledKeys(*map(add, astuple(one.keys), astuple(other.keys))),
        **{name: getattr(one, name) + getattr(other, name) for name in sums},
    )


def _place(row: CallerItem) -> tuple[object, ...]:
    return (row.pid, _user(row), row.command)


def _rate(row: CallerItem, before: dict[tuple[object, ...], tuple[float, int]], now: float) -> float:
    """Return the operations a second since the last picture."""
    then, operations = before.get(_place(row), (now, _count(row)))
    return max(0.0, (_count(row) - operations) / (now - then)) if now > then else 0.0


def _summary(answer: TopReport, rows: list[CallerItem]) -> str:
    since = duration_text(max(0.0, answer.now - answer.since))
    requests = sum(answer.requests.values())
    words = [f"{sum(map(_count, rows)):,} operations in {since}", f"{requests:,} requests"]
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


def _text(row: CallerItem, rate: float) -> str:
    operations = _count(row)
    cached = f"{(operations - row.waited) / operations:.0%}" if operations else "-"
    pid = str(row.pid) if row.pid else f"x{row.processes}" if row.processes > 1 else "-"
    cells = (
        pid, _user(row)[:8], row.command[:15], f"{operations:,}", f"{rate:,.0f}", seconds_text(_within(row, 0.5)),
        seconds_text(_within(row, 0.99)), cached, _number(row.requests), *map(_number, astuple(row.keys)),
        f"{row.dollars:.6f}",
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
