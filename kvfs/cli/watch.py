"""Pictures that are drawn again and again: on a terminal in place, until q or Ctrl-C; elsewhere block by block."""

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

import click

from kvfs.cli.output import printable, say

QUIT: Final = frozenset({"q", "Q", "\x03", "\x04"})
"""Keys that end it: q, and Ctrl-C and Ctrl-D where the terminal hands them over as keys."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a picture; `printable` makes its text harmless when it is drawn."""

    text: str
    bold: bool = False


Picture = list[Line]
Draw = Callable[[], Picture]


def draw_once(lines: Picture) -> None:
    """Write a picture as plain lines, bold where the output is a terminal."""
    for line in lines:
        if line.bold:
            click.secho(printable(line.text), bold=True)
        else:
            say(line.text)


def watch(
    draw: Draw, interval: float, on_key: Callable[[str], None] = lambda key: None, *, lines: bool = False
) -> None:
    """Draw every `interval` seconds until the user ends it.

    Other keys go to `on_key`, and a picture follows at once. With `lines` the pictures are lines for programs, on a
    terminal too.

    `draw` must not raise for a daemon that is away: it says so in the picture.
    """
    if lines or not sys.stdout.isatty():
        _draw_blocks(draw, interval, apart=not lines)
        return
    with suppress(KeyboardInterrupt), _terminated_as_interrupt():
        _draw_live(draw, interval, on_key)


def _draw_blocks(draw: Draw, interval: float, *, apart: bool) -> None:
    """Write one block per interval, with an empty line between two if they are to be `apart`."""
    with suppress(KeyboardInterrupt):
        while True:
            draw_once(draw())
            sys.stdout.flush()
            time.sleep(interval)
            if apart:
                say("")


def _draw_live(draw: Draw, interval: float, on_key: Callable[[str], None]) -> None:
    from rich.console import Console  # brings a lot along
    from rich.live import Live
    from rich.text import Text

    def picture() -> Text:
        lines = [Text(printable(line.text), style="bold" if line.bold else "") for line in draw()]
        return Text("\n").join(lines)

    with _keys() as next_key, Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture(), refresh=True)
            due = time.monotonic() + interval
            while (left := due - time.monotonic()) > 0:
                key = next_key(left)
                if key in QUIT:
                    return
                if key:
                    on_key(key)
                    break


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits so many seconds for a key; "" when none came. It needs no Enter, and shows none."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _key(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _key(descriptor: int, seconds: float) -> str:
    if not select.select([descriptor], [], [], seconds)[0]:
        return ""
    return os.read(descriptor, 1).decode("ascii", "replace") or "q"  # the terminal is gone


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """End the picture on SIGTERM as Ctrl-C does, so that the terminal is left as it was."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
