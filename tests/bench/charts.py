"""The charts of a report: kvfs beside each kind of tool at its best, with the names of commands."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import plots, tables
from bench.plots import Bar, Panel, Scale
from bench.report import Report, Row
from bench.workloads import (
    BIG_READ,
    BIG_WRITE,
    COMMAND,
    CREATE,
    CREATE_INTO,
    DELETE,
    LIST,
    READ,
    READ_WARM,
    RENAME,
    RENAME_FILES,
    RENAME_WARM,
    SAVE,
    STAT,
    STAT_WARM,
    TAR,
    UNCHECKED,
)

FAMILIES = {
    "kvfs": ("kvfs",),
    "rclone mount": ("rclone writes", "rclone full"),
    "official SDK": ("SDK bulk", "SDK threads", "SDK singly"),
    "wrangler": ("wrangler",),
}
"""By the name in a chart: the subjects, of which the best is drawn."""
READING = (LIST, STAT, STAT_WARM, READ, READ_WARM, TAR, BIG_READ)
CHANGING = (
    CREATE, CREATE_INTO, SAVE, UNCHECKED, BIG_WRITE, RENAME, RENAME_WARM, RENAME_FILES, DELETE,
)  # fmt: skip
README = (CREATE_INTO, LIST, READ, TAR, DELETE, RENAME)
README_FAMILIES = ("kvfs", "rclone mount", "official SDK")
_NO_FILES, _KEEPS_NOTHING = "makes no files", "keeps nothing to use again"
_ABSENT = {STAT: _NO_FILES, STAT_WARM: _NO_FILES, TAR: _NO_FILES} | dict.fromkeys(
    (READ_WARM, RENAME_WARM), _KEEPS_NOTHING
)
WHY_NOT: Mapping[str, Mapping[str, str]] = {
    "official SDK": _ABSENT,
    "wrangler": _ABSENT
    | dict.fromkeys((RENAME, RENAME_FILES), "has no command for it")
    | dict.fromkeys((SAVE, UNCHECKED, BIG_READ, BIG_WRITE), "not measured: a process for each key"),
}
"""Why a tool has no bar."""
_NOTE = (
    "Each tool at its best: rclone in two cache modes, the SDK called in three ways. {n:,} files of 1 KiB.\n"
    "memfs and ext4, which ask no network, are in the tables."
)
_Measure = Callable[[Row], float]


def draw(out: Path, report: Report, n: int, floor: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    """Draw all charts; return the names of the files for the page. The README's is beside them, and not on the page."""
    made = []
    for delay in reversed(report.delays):
        name = f"wall-{_ms(delay)}ms.svg"
        late = f"each request {_ms(delay)} ms late" if delay else "on this machine, without delay"
        title = f"Wall time, {late}: less is better"
        _draw(out / name, title, report, delay, _wall, Scale("seconds", tables.seconds), n)
        made.append(name)
    first, last = report.delays[0], report.delays[-1]
    counts = Scale("requests", lambda value: f"{value:,.0f}")
    _draw(out / "requests.svg", "Requests: less is better", report, last, _requests, counts, n)
    busy = Scale("CPU seconds", tables.seconds)
    _draw(out / "cpu.svg", "CPU of daemon and client: less is better", report, first, _cpu, busy, n)
    made += ["requests.svg", "cpu.svg"]
    _readme(out / "readme.svg", report, last, n)
    if floor:
        _floor(out / "floor.svg", floor)
        made.append("floor.svg")
    return made


def redraw(out: Path) -> None:
    """Draw the charts again from `results.json`, without measuring."""
    found = json.loads((out / "results.json").read_text())
    rows = [Row(**row) for row in found["rows"]]
    delays = sorted({row.delay for row in rows if row.delay is not None})
    draw(out, Report(rows, delays), found["files"], found["cpu"])


def bar(report: Report, family: str, delay: float, workload: str, of: _Measure) -> Bar:
    """Return the best of a family, or the reason why there is nothing."""
    found = [row for name in FAMILIES[family] if (row := report.get(name, delay, workload)) is not None]
    return min(map(of, found)) if found else WHY_NOT.get(family, {}).get(workload, "not measured")


def _panel(
    report: Report,
    delay: float,
    of: _Measure,
    workloads: Sequence[str],
    families: Sequence[str],
    title: str = "",
) -> Panel:
    names = [name for name in workloads if name in report.workloads]
    series = {family: [bar(report, family, delay, name, of) for name in names] for family in families}
    return Panel([COMMAND[name] for name in names], series, title)


def _draw(file: Path, title: str, report: Report, delay: float, of: _Measure, scale: Scale, n: int) -> None:
    parts = (("reading", READING), ("changing", CHANGING))
    panels = [_panel(report, delay, of, names, list(FAMILIES), what) for what, names in parts]
    plots.bars(file, title, [panel for panel in panels if panel.labels], scale, _NOTE.format(n=n))


def readme_panel(report: Report, delay: float) -> Panel:
    """Six commands, and three tools."""
    return _panel(report, delay, _wall, README, README_FAMILIES)


def _readme(file: Path, report: Report, delay: float, n: int) -> None:
    panel = readme_panel(report, delay)
    title = f"{n:,} files of 1 KiB, each request {_ms(delay)} ms late: less is better"
    plots.bars(file, title, [panel], Scale("seconds", tables.seconds))


def _floor(file: Path, floor: Sequence[Mapping[str, Any]]) -> None:
    shares = {
        "kvfs": [row["share"] * 100 for row in floor],
        "target": [row["target"] * 100 for row in floor],
    }
    panel = Panel([row["task"] for row in floor], shares)
    scale = Scale("% of the rate of memfs", lambda value: f"{value:.0f} %", logarithmic=False)
    plots.bars(file, "Rate beside memfs, a file system in memory: more is better", [panel], scale)


def _wall(row: Row) -> float:
    return row.wall


def _requests(row: Row) -> float:
    return row.requests


def _cpu(row: Row) -> float:
    return row.cpu + row.client


def _ms(delay: float) -> str:
    return f"{delay * 1000:.0f}"
