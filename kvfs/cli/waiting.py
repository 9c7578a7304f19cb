"""A word on the terminal while a command waits for something that has no numbers: `⠋ asking api.cloudflare.com`.

A wait of less than half a second shows nothing. Without a terminal there is a line every ten seconds. All goes to
stderr.
"""

import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

import click

from kvfs.cli.output import printable

if TYPE_CHECKING:  # rich is for those who wait
    from rich.status import Status

SHORT_SECONDS: Final = 0.5
LINE_SECONDS: Final = 10.0


class Waiting:
    """The word of one wait. While it is entered, `text` says what is waited for; `say` changes it.

    With `quiet` it says nothing. A thread shows it, because the caller is busy waiting. Only one may be entered at
    a time.
    """

    def __init__(self, text: str, *, quiet: bool = False) -> None:
        self._text = text
        self._quiet = quiet
        self._lock = threading.Lock()  # guards the fields below
        self._ended = threading.Event()
        self._shown: Status | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread = threading.Thread(target=self._show, name="kvfs-waiting", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def say(self, text: str) -> None:
        """Show that something else is waited for now."""
        with self._lock:
            self._text = text
            if self._shown is not None:
                self._shown.update(_words(text))

    def _show(self) -> None:
        if sys.stderr.isatty():
            if not self._ended.wait(SHORT_SECONDS):
                self._spin()
            return
        begun = time.monotonic()
        while not self._ended.wait(LINE_SECONDS):
            with self._lock:
                click.echo(f"{printable(self._text)} ({time.monotonic() - begun:.0f} s)", err=True)

    def _spin(self) -> None:
        from rich.console import Console

        with self._lock:
            self._shown = Console(stderr=True, highlight=False).status(_words(self._text))
            self._shown.start()
        self._ended.wait()
        with self._lock:
            self._shown.stop()


def _words(text: str) -> Any:
    """Return text for rich, which shall find no markup in it."""
    from rich.text import Text

    return Text(printable(text))
