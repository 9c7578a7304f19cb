"""SVG plots, by matplotlib; the same numbers make the same file."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "svg")

import matplotlib as mpl
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

_COLOURS = (
    "#f6821f", "#1f6fb2", "#7fb3d9", "#3d7a3d", "#8ac28a", "#c9a227", "#8e5ba6", "#555555", "#bbbbbb", "#222222",
)  # fmt: skip
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


def bars(
    file: Path,
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    y_title: str = "",
    logarithmic: bool = True,
) -> None:
    """Groups of horizontal bars; None, and what is not above 0, has no bar."""
    with mpl.rc_context(_STYLE):
        _, axes = pyplot.subplots(figsize=(9, 1.2 + (0.15 * len(series) + 0.12) * len(labels)))
        width = 0.85 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            places = [place + number * width for place in range(len(labels))]
            axes.barh(places, [value or 0 for value in values], width * 0.92, label=name)
        middle = (len(series) - 1) * width / 2
        axes.set_yticks([place + middle for place in range(len(labels))], labels)
        axes.invert_yaxis()
        if logarithmic:
            least = min((value for values in series.values() for value in values if value), default=1.0)
            axes.set_xscale("log")
            axes.set_xlim(left=least * 0.6)  # so that the shortest bar can be seen
        axes.margins(y=0.01)
        axes.grid(axis="x", which="major", color="#dddddd")
        axes.set_axisbelow(True)
        axes.xaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel(y_title)
        _finish(file, axes, title)


def lines(
    file: Path,
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_title: str = "",
    y_title: str = "",
) -> None:
    """Lines through points, both axes logarithmic; a name for each."""
    with mpl.rc_context(_STYLE):
        _, axes = pyplot.subplots(figsize=(9, 5.5))
        for name, points in series.items():
            shown = [point for point in points if point[1] > 0]
            axes.plot([x for x, _ in shown], [y for _, y in shown], marker="o", markersize=4, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(which="major", color="#dddddd")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(_PLAIN)
        axes.set_xlabel(x_title)
        axes.set_ylabel(y_title)
        _finish(file, axes, title)


def _finish(file: Path, axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure = axes.get_figure()
    figure.savefig(file, format="svg", bbox_inches="tight", facecolor="white", metadata={"Date": None})
    pyplot.close(figure)
