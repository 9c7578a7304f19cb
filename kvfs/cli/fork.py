"""A command that goes on in the background after its announcement, as ssh-agent does."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from kvfs.cli.exits import guarded


def in_background(run: Callable[[Callable[[str], None]], int], log: Path) -> int:
    """Run `run` in a process of its own; print what it announces, and return.

    From then on its output goes to `log`. If it ends before it announces anything, its errors have been printed,
    and its exit status is returned. The caller must not have started threads.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        status = 1
        try:
            os.setsid()
            status = guarded(lambda: run(lambda text: _announce(text, writing, log)))
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, encoding="utf-8") as answers:
        text = answers.read()
    if text:
        sys.stdout.write(text)
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _announce(text: str, writing: int, log: Path) -> None:
    """Give the text to the parent and let go of its terminal and its pipes."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for opened, standard in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(opened, standard)
    os.close(nothing)
    os.close(output)
    os.chdir("/")
    os.write(writing, text.encode() + b"\n")
    os.close(writing)
