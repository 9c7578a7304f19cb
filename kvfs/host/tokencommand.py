"""A command that prints a token: run in the foreground when a command of kvfs starts, later by the daemon.

The daemon can be ended while it waits for one: then the command, and what it started, is killed.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import trio

from kvfs.core.errors import UserError

SECONDS: Final = 120.0  # a password manager may ask for a fingerprint


def output_of(words: Sequence[str]) -> str:
    """Run the command; it may ask at the terminal, and Ctrl-C ends it. Blocks. Raises `UserError`."""
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, check=False
        )
    except OSError as exc:
        raise _cannot_run(words, exc) from None
    except subprocess.TimeoutExpired:
        raise _too_late(words) from None
    return _printed(words, done.returncode, done.stdout)


async def answer_of(words: Sequence[str]) -> str:
    """Like `output_of` without a terminal; cancelling the caller ends the command. Raises `UserError`."""
    with trio.move_on_after(SECONDS):
        try:
            done = await trio.run_process(
                list(words), capture_stdout=True, stderr=subprocess.DEVNULL, check=False,
                deliver_cancel=_end, process_group=0,
            )  # fmt: skip
        except OSError as exc:
            raise _cannot_run(words, exc) from None
        return _printed(words, done.returncode, done.stdout or b"")
    raise _too_late(words)


async def _end(process: trio.Process) -> None:
    """End the command and the processes it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        process.kill()


def _printed(words: Sequence[str], status: int, output: bytes) -> str:
    """Return the token in the output. An error must not repeat the words, which may hold the token."""
    if status != 0:
        raise UserError(f"--token-command: {words[0]} failed with status {status}")
    return output.decode(errors="replace")


def _cannot_run(words: Sequence[str], error: OSError) -> UserError:
    return UserError(f"--token-command: cannot run {words[0]}: {error.strerror}")


def _too_late(words: Sequence[str]) -> UserError:
    return UserError(f"--token-command: {words[0]} gave no token within {SECONDS:g} s")
