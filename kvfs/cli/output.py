"""Words for people: lines, sizes, durations, and progress on a terminal or in plain lines.

Whatever comes from a server or a file name passes `printable` before it reaches a terminal.
"""

import sys
import time
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Sending:
    """How far sending is: changes done of a total, bytes left, and what it waits for right now, for how long."""

    done: int
    total: int
    bytes: float = 0.0
    waiting: str = ""
    seconds: float | None = None

    def text(self) -> str:
        """In words: `sent 2 of 3 changes, 1.2 KiB left; waiting for …: goes on in 142 s`."""
        words = f"sent {self.done:,} of {self.total:,} changes"
        words += f", {size_text(self.bytes)} left" if self.bytes else ""
        return f"{words}; {self.waiting_text()}" if self.waiting else words

    def waiting_text(self) -> str:
        """What it waits for, and until when."""
        until = f": goes on in {self.seconds:.0f} s" if self.seconds is not None else ""
        return f"waiting for {self.waiting}{until}" if self.waiting else ""


class SendingProgress:
    """Shows how many changes were sent: a bar on a terminal, now and then a line elsewhere. On stderr."""

    LINE_SECONDS = 10.0
    SHORT_SECONDS = 0.5  # what takes no longer needs no word

    def __init__(self, *, quiet: bool = False) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._quiet = quiet
        self._began = self._last_line = time.monotonic()
        self._has_said = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, sending: Sending) -> None:
        """Show how far it is; nothing at all of nothing."""
        if self._quiet or sending.total == 0:
            return
        if sys.stderr.isatty():
            if self._bar is not None or time.monotonic() - self._began >= self.SHORT_SECONDS:
                self._draw(sending)
        elif time.monotonic() - self._last_line >= self.LINE_SECONDS:
            self._last_line = time.monotonic()
            self._has_said = True
            click.echo(printable(sending.text()), err=True)

    def finish(self, sent: int, requests: int) -> None:
        """One line at the end, of what took long enough to be shown."""
        if self._bar is not None:
            self._bar.stop()
        if (self._bar is not None or self._has_said) and sent:
            changes, asked = "change" if sent == 1 else "changes", "request" if requests == 1 else "requests"
            click.echo(f"sent {sent:,} {changes} in {requests:,} {asked}", err=True)

    def _draw(self, sending: Sending) -> None:
        if self._bar is None or self._task is None:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )  # fmt: skip

            columns = (
                TextColumn("sending"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.fields[left]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[waiting]}", markup=False),
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("sending", total=sending.total, left="", waiting="")
            self._bar.start()
        self._bar.update(
            self._task,
            completed=sending.done,
            total=sending.total,
            left=f"{size_text(sending.bytes)} left",
            waiting=printable(sending.waiting_text()),
        )
