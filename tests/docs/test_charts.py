"""The charts can be read alone: numbers at the bars, a reason where there is none, a zero, a titled axis."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import charts, plots, tables
from bench.plots import Panel, Scale
from bench.report import Report, Row
from support.mounted import REPOSITORY

BENCHMARKS = REPOSITORY / "docs" / "benchmarks"


def _texts(file: Path) -> list[str]:
    """Return every text of a picture."""
    return [
        "".join(each.itertext()).strip()
        for each in ElementTree.parse(file).iter()
        if each.tag.endswith("}text")
    ]


@pytest.mark.parametrize("logarithmic", [True, False])
def test_a_chart_says_how_its_axis_counts(tmp_path: Path, logarithmic: bool) -> None:
    """A chart with a logarithmic axis says so, and another does not."""
    scale = Scale("seconds", tables.seconds, logarithmic)
    plots.bars(tmp_path / "x.svg", "Title", [Panel(["cp", "rm"], {"kvfs": [0.2, 3.0]})], scale)
    assert any("logarithmic" in text for text in _texts(tmp_path / "x.svg")) == logarithmic


def test_zero_is_drawn_and_what_is_missing_says_why(tmp_path: Path) -> None:
    """A bar of nothing has its 0 on an axis that begins at 0, and a missing bar has words in its place."""
    panel = Panel(["ls", "cp"], {"kvfs": [0, 7], "SDK": ["makes no files", 900]})
    plots.bars(tmp_path / "x.svg", "Title", [panel], Scale("requests", lambda value: f"{value:.0f}"))
    texts = _texts(tmp_path / "x.svg")
    assert texts.count("0") == 2, "the bar, and the axis"
    assert {"7", "900", "SDK: makes no files", "ls", "cp"} <= set(texts)


def test_the_readme_shows_the_numbers_of_the_last_run() -> None:
    """The README's picture has six rows, named as commands, drawn from `results.json`.

    `scripts/bench charts` makes it again.
    """
    found = json.loads((BENCHMARKS / "results.json").read_text())
    rows = [Row(**row) for row in found["rows"]]
    report = Report(rows, sorted({row.delay for row in rows if row.delay is not None}))
    panel = charts.readme_panel(report, report.delays[-1])
    assert len(panel.labels) == 6
    shown = {
        tables.seconds(bar) if isinstance(bar, float) else bar
        for bars in panel.series.values()
        for bar in bars
    }
    texts = _texts(BENCHMARKS / "readme.svg")
    missing = {each for each in {*panel.labels, *shown} if not any(each in text for text in texts)}
    assert not missing


@pytest.mark.parametrize("name", sorted(file.name for file in BENCHMARKS.glob("*.svg")))
def test_every_committed_chart_has_numbers(name: str) -> None:
    """Every committed chart has numbers at its bars, and a logarithmic axis for time and requests that says so."""
    texts = _texts(BENCHMARKS / name)
    assert sum(text[:1].isdigit() for text in texts) > 10
    assert any("logarithmic" in text for text in texts) == (name != "floor.svg")
