"""Progress of a move: a bar on a terminal, else a line now and then. On stderr, so that output stays clean."""

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from kvfs.cli.output import duration_text, size_text
from kvfs.cli.places import OpenStore
from kvfs.core.prices import dollars
from kvfs.data.copier import CopyProgress

if TYPE_CHECKING:  # rich is for those commands that draw
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_SECONDS: Final = 5.0


class MoveProgress:
    """Shows keys, bytes, rate, time left and cost so far."""

    def __init__(self, *stores: OpenStore | None) -> None:
        self._stores = {
            store.identity: store for store in stores if store is not None and store.rest is not None
        }
        self._began = time.monotonic()
        self._first = -1
        self._last_line = self._began
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def show(self, progress: CopyProgress) -> None:
        """Show the progress; called after every step."""
        if self._first < 0 and progress.total:
            self._first, self._began = progress.written, time.monotonic()
        if sys.stderr.isatty():
            self._draw(progress)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            click.echo(self._line(progress), err=True)

    def _line(self, progress: CopyProgress) -> str:
        if progress.phase == "deleting":
            return f"deleted {progress.deleted:,}"
        if not progress.total:
            return f"{progress.phase}: {progress.keys:,} keys"
        seconds = max(0.001, time.monotonic() - self._began)
        rate = (progress.written - max(0, self._first)) / seconds
        left = (progress.total - progress.written) / rate if rate else 0.0
        ahead = f", {duration_text(left)} left" if rate else ""
        waiting = self._waiting()
        return (
            f"{progress.written:,} of {progress.total:,} keys, {size_text(progress.size)},"
            f" {rate:,.0f} keys/s{ahead}{self.cost_text()}{waiting}"
        )

    def _waiting(self) -> str:
        for store in self._stores.values():
            budget = store.budget.statistics() if store.budget is not None else None
            if budget is not None and budget.waiting and not budget.left:
                return "; waiting for the API's limit of requests"
        return ""

    def cost_text(self) -> str:
        """Return requests and dollars so far, of stores that cost something; "" otherwise."""
        if not self._stores:
            return ""
        requests, spent = 0, 0.0
        for store in self._stores.values():
            assert store.rest is not None
            requests += store.rest.billing.requests.total()
            spent += dollars(store.rest.billing.keys)
        return f"; {requests:,} requests, ${spent:.4f}"

    def _draw(self, progress: CopyProgress) -> None:
        if self._bar is None or self._task is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=24),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        self._bar.update(
            self._task,
            completed=progress.written,
            total=progress.total or None,
            description=self._line(progress),
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None
