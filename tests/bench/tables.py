"""Markdown tables and numbers as people read them."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table: the first column to the left, the others to the right."""
    lines = [_line(header), _line(["---", *["--:"] * (len(header) - 1)])]
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def seconds(value: float) -> str:
    """Return seconds with three digits that count, and the unit."""
    if value >= 100:
        return f"{value:.0f} s"
    if value >= 1:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.1f} ms"


def size(value: float) -> str:
    """Return bytes as MiB."""
    return f"{value / 2**20:.0f} MiB"


def times(value: float) -> str:
    """Return a ratio as text."""
    return f"{value:.{0 if value >= 20 else 1 if value >= 2 else 2}f} times"
