"""A command that prints a token, run when a command of kvfs starts; later `host/renewing.py` runs it."""

import subprocess
from collections.abc import Sequence
from typing import Final

from kvfs.core.errors import UserError

SECONDS: Final = 120.0  # a password manager may ask for a fingerprint


def output_of(words: Sequence[str]) -> str:
    """Run the command; it may ask at the terminal, and Ctrl-C ends it. Blocks. Raises `UserError`."""
    try:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS, check=False
        )
    except OSError as exc:
        raise cannot_run(words, exc) from None
    except subprocess.TimeoutExpired:
        raise too_late(words) from None
    return printed(words, done.returncode, done.stdout)


def printed(words: Sequence[str], status: int, output: bytes) -> str:
    """Return the token in the output. An error must not repeat the words, which may hold the token."""
    if status != 0:
        raise UserError(f"--token-command: {words[0]} failed with status {status}")
    return output.decode(errors="replace")


def cannot_run(words: Sequence[str], error: OSError) -> UserError:
    """Return the error of a command that does not run."""
    return UserError(f"--token-command: cannot run {words[0]}: {error.strerror}")


def too_late(words: Sequence[str]) -> UserError:
    """Return the error of a command that takes too long."""
    return UserError(f"--token-command: {words[0]} gave no token within {SECONDS:g} s")
