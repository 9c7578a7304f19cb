"""Words for people: lines, sizes, durations, and progress on a terminal or in plain lines.

Whatever comes from a server or a file name passes `printable` before it reaches a terminal.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:  # rich is for those commands that draw
    from rich.progress import Progress, TaskID


def printable(text: str) -> str:
    """`text` without anything a terminal would obey: control characters and lone surrogates are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def say(line: str) -> None:
    """A line of result on stdout."""
    click.echo(printable(line))


def complain(line: str) -> None:
    """A line of diagnosis on stderr: `kvfs: …`."""
    click.echo(f"kvfs: {printable(line)}", err=True)


def size_text(size: float) -> str:
    """`300 B`, `1.2 KiB`, `25.0 MiB`."""
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size:.0f} B"


def duration_text(seconds: float) -> str:
    """`4 s`, `3 min`, `2 h`, `5 d`: the biggest unit that fits."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


class SendingProgress:
    """Shows how many changes were sent: a bar on a terminal, now and then a line elsewhere. On stderr."""

    LINE_SECONDS = 2.0

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """`done` of `total` changes are at the server."""
        if sys.stderr.isatty():
            self._draw(done, total)
        elif time.monotonic() - self._last_line >= self.LINE_SECONDS:
            self._last_line = time.monotonic()
            click.echo(f"sent {done} of {total}", err=True)

    def _draw(self, done: int, total: int) -> None:
        if self._bar is None or self._task is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("sending", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
