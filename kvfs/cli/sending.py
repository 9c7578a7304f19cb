"""Progress of sending, on stderr: a bar and the reason of a wait on a terminal, else a line now and then."""

import sys
import time
from typing import TYPE_CHECKING, Any, Final, Self

import click

from kvfs.cli.output import counted, duration_text, printable, size_text
from kvfs.host.replies import Sending

if TYPE_CHECKING:  # rich is for those commands that draw
    from rich.live import Live
    from rich.progress import Progress, TaskID

RATE_SECONDS: Final = 10.0  # over which the rate is counted


def sending_text(sending: Sending) -> str:
    """Return a text like `sent 2 of 3 changes, 1.2 KiB left; waiting for …: goes on in 142 s`."""
    if sending.doing:
        return sending.doing
    words = f"sent {sending.done:,} of {sending.total:,} changes"
    words += f", {size_text(sending.bytes)} left" if sending.bytes else ""
    return f"{words}; {waiting_text(sending)}" if sending.waiting else words


def waiting_text(sending: Sending) -> str:
    """Describe the reason of the wait and its end."""
    until = f": goes on in {sending.seconds:.0f} s" if sending.seconds is not None else ""
    return f"waiting for {sending.waiting}{until}" if sending.waiting else sending.doing


class Rate:
    """The number of changes a second lately, and the time that the rest will take."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []  # when, and how many were done

    def text(self, sending: Sending, now: float) -> str:
        """Return a text like `120/s, 2 min left`; "" while nothing is known."""
        self._seen.append((now, sending.done))
        while now - self._seen[0][0] > RATE_SECONDS and len(self._seen) > 2:
            del self._seen[0]
        (then, before), seconds = self._seen[0], now - self._seen[0][0]
        rate = (sending.done - before) / seconds if seconds > 0 and now > then else 0.0
        if rate <= 0:
            return ""
        left = duration_text((sending.total - sending.done) / rate)
        return f"{rate:,.0f}/s, {left} left" if rate >= 1 else f"{left} left"


class SendingProgress:
    """Shows how many changes were sent."""

    LINE_SECONDS = 10.0
    SHORT_SECONDS = 0.5  # shorter work prints nothing

    def __init__(self, *, quiet: bool = False) -> None:
        self._live: Live | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._rate = Rate()
        self._quiet = quiet
        self._began = self._last_line = time.monotonic()
        self._has_said = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop()

    def update(self, sending: Sending) -> None:
        """Show the progress; nothing at all of no changes."""
        if self._quiet or (sending.total == 0 and not sending.doing):
            return
        if sys.stderr.isatty():
            if self._live is not None or time.monotonic() - self._began >= self.SHORT_SECONDS:
                self._draw(sending)
        elif time.monotonic() - self._last_line >= self.LINE_SECONDS:
            self._last_line = time.monotonic()
            self._has_said = True
            click.echo(printable(sending_text(sending)), err=True)

    def finish(self, sent: int, requests: int) -> None:
        """Print one line at the end, if the work took long enough to be shown."""
        has_drawn = self._live is not None
        self._stop()
        if (has_drawn or self._has_said) and sent:
            click.echo(f"sent {counted(sent, 'change')} in {counted(requests, 'request')}", err=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self, sending: Sending) -> None:
        from rich.console import Group
        from rich.text import Text

        live, bar, task = self._opened()
        if sending.total:
            bar.update(
                task,
                completed=sending.done,
                total=sending.total,
                left=f"{size_text(sending.bytes)} left",
                rate=self._rate.text(sending, time.monotonic()),
            )
        lines: list[Any] = [bar] if sending.total else []
        if waiting := waiting_text(sending):
            lines.append(Text(printable(waiting)))
        live.update(Group(*lines))

    def _opened(self) -> "tuple[Live, Progress, TaskID]":
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bar is None or self._task is None:
            self._bar = Progress(
                TextColumn("sending"), BarColumn(bar_width=20), MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(),
            )  # fmt: skip
            self._task = self._bar.add_task("sending", total=None, left="", rate="")
        if self._live is None:
            self._live = Live(console=Console(stderr=True), transient=True)
            self._live.start()
        return self._live, self._bar, self._task
