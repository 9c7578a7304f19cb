"""SVG plots, by matplotlib: the same numbers make the same file. A bar has its number, or says why there is none."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "svg")

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Bar = float | str
"""A number, or why there is none."""
_COLOURS = ("#f6821f", "#1f6fb2", "#3d7a3d", "#8e5ba6", "#7fb3d9", "#c9a227", "#8ac28a", "#555555")
_GREY = "#777777"
_STYLE = {
    "svg.hashsalt": "kvfs",
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=_COLOURS),
}
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
_BAR_INCHES, _GAP_INCHES = 0.19, 0.14


@dataclass(frozen=True)
class Panel:
    """Groups of bars: a label for each group, and in each series a bar for each label."""

    labels: Sequence[str]
    series: Mapping[str, Sequence[Bar]]
    title: str = ""

    def numbers(self) -> list[float]:
        """Return the numbers of all bars."""
        return [bar for bars in self.series.values() for bar in bars if not isinstance(bar, str)]


@dataclass(frozen=True)
class Scale:
    """The axis of values: its title, the form of a number at its bar, and its scale."""

    title: str
    show: Callable[[float], str]
    logarithmic: bool = True


def bars(file: Path, title: str, panels: Sequence[Panel], scale: Scale, note: str = "") -> None:
    """Panels side by side, with one axis and one legend; `note` stands below the title."""
    series = list(dict.fromkeys(name for panel in panels for name in panel.series))
    groups = max(len(panel.labels) for panel in panels)
    inches = groups * (len(series) * _BAR_INCHES + _GAP_INCHES) + 0.4
    with mpl.rc_context(_STYLE):
        figure, grid = pyplot.subplots(
            1, len(panels), figsize=(8.2 * len(panels) ** 0.5, inches), squeeze=False
        )
        numbers = [number for panel in panels for number in panel.numbers()]
        for axes, panel in zip(grid[0], panels, strict=True):
            _ruler(axes, scale, numbers)
            _groups(axes, panel, scale, series, groups)
        figure.tight_layout(w_pad=2)
        _headings(figure, title, note, inches)
        _finish(file, figure)


def _groups(axes: Axes, panel: Panel, scale: Scale, series: Sequence[str], groups: int) -> None:
    width = 0.86 / len(series)
    left = axes.get_xlim()[0]
    for number, name in enumerate(series):
        found = panel.series.get(name, ())
        places = [place + number * width for place in range(len(found))]
        lengths = [0.0 if isinstance(bar, str) else bar for bar in found]
        axes.barh(places, lengths, width * 0.9, label=name, color=_COLOURS[number])
        for place, bar in zip(places, found, strict=True):
            is_missing = isinstance(bar, str)
            axes.annotate(
                f"{name}: {bar}" if isinstance(bar, str) else scale.show(bar),
                (left if is_missing else max(bar, left), place), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=8, color=_GREY if is_missing else "black",
                style="italic" if is_missing else "normal",
            )  # fmt: skip
    middle = (len(series) - 1) * width / 2
    axes.set_yticks([place + middle for place in range(len(panel.labels))], panel.labels)
    axes.set_ylim(groups - 0.25, -0.25 - width / 2)
    axes.set_title(panel.title, loc="left", fontsize=10)


def _ruler(axes: Axes, scale: Scale, numbers: Sequence[float]) -> None:
    """The axis of values, the same in all panels; its title says that it is logarithmic, and where zero is."""
    least = min((number for number in numbers if number > 0), default=1.0)
    most = max(numbers, default=1.0)
    title = scale.title
    if not scale.logarithmic:
        axes.set_xlim(0, most * 1.15)
    elif min(numbers, default=1.0) <= 0:
        start = 10.0 ** math.floor(math.log10(least))
        axes.set_xscale("symlog", linthresh=start, linscale=0.5)
        axes.set_xlim(0, most * 4)
        title += f" (logarithmic above {start:g}: each line is ten times the last)"
    else:
        axes.set_xscale("log")
        axes.set_xlim(least * 0.5, most * 4)
        title += " (logarithmic: each line is ten times the last)"
    axes.grid(axis="x", which="major", color="#dddddd")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(title, fontsize=9)


def _headings(figure: Figure, title: str, note: str, inches: float) -> None:
    """Title, note and legend above the panels."""
    lines = [title, *note.splitlines()]
    handles, names = figure.axes[0].get_legend_handles_labels()
    top = 1 + (0.30 + 0.2 * len(lines)) / inches
    for number, line in enumerate(lines):
        place = top - 0.2 * number / inches
        figure.text(0.01, place, line, fontsize=9 if number else 12, color="#444444" if number else "black")
    figure.legend(
        handles,
        names,
        loc="lower left",
        bbox_to_anchor=(0, 1 - 0.05 / inches),
        ncols=len(names),
        frameon=False,
    )


@dataclass(frozen=True)
class Curves:
    """Lines through points (x, y), a name for each; the x axis is logarithmic, the y axis where it is said."""

    x_title: str
    y_title: str
    show: Callable[[float], str]
    logarithmic: bool = True


def lines(file: Path, title: str, series: Mapping[str, Sequence[tuple[float, float]]], how: Curves) -> None:
    """The last point of each line has its number."""
    with mpl.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(9, 5))
        ends: list[tuple[tuple[float, float], str]] = []
        for number, (name, points) in enumerate(series.items()):
            shown = [point for point in points if point[1] > 0]
            axes.plot([x for x, _ in shown], [y for _, y in shown], marker="o", markersize=4, label=name)
            ends += [(shown[-1], _COLOURS[number])] if shown else []
        axes.set_xscale("log")
        axes.set_xlabel(f"{how.x_title} (logarithmic)")
        axes.set_ylabel(f"{how.y_title} (logarithmic)" if how.logarithmic else how.y_title)
        if how.logarithmic:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        _numbers(axes, ends, how)
        axes.grid(which="major", color="#dddddd")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_PLAIN)
        axes.set_title(title, loc="left")
        axes.legend(loc="upper left", bbox_to_anchor=(1.08, 1), frameon=False)
        _finish(file, figure)


def _numbers(axes: Axes, ends: Sequence[tuple[tuple[float, float], str]], how: Curves) -> None:
    """The number of each last point, from the lowest up: one that would lie on another is moved above it."""
    top = -math.inf
    for point, colour in sorted(ends, key=lambda end: end[0][1]):
        height = axes.transData.transform(point)[1] * 72 / axes.figure.dpi  # in points
        top = max(height, top + 10)
        axes.annotate(
            how.show(point[1]), point, xytext=(7, top - height - 3), textcoords="offset points",
            fontsize=8, color=colour,
        )  # fmt: skip


def _finish(file: Path, figure: Figure) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    pyplot.close(figure)
