"""Private files that a command needs while it runs, and what of them a killed command left.

Whoever makes such a file locks it until it goes: one that nobody locks was left. A process number would not do, because
another process may have it by then.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from kvfs.host.state import private_directory

STDIN: Final = "stdin-"
"""How the names of files begin that hold the standard input of a copy."""
YOUNG_SECONDS: Final = 60.0  # a file that was written so shortly ago may be about to be locked


@contextmanager
def held_file(directory: Path, prefix: str = "") -> Iterator[tuple[IO[bytes], Path]]:
    """Yield a new file to write to, and its path, which goes at the end. Raises OSError, `UserError`.

    What was left of such files goes before.
    """
    remove_left(directory, prefix)
    descriptor, name = tempfile.mkstemp(dir=private_directory(directory), prefix=prefix)
    with open(descriptor, "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file, Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def remove_left(directory: Path, prefix: str = "") -> None:
    """Remove such files of commands that were killed. One that cannot be removed stays, and stops nothing."""
    for path in directory.glob(f"{prefix}*"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - YOUNG_SECONDS:
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    """Remove a file, unless a command has it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)
