"""Times a system call and tells how it ended, for tests of the bound of calls."""

import time
from collections.abc import Callable
from pathlib import Path


def timed(call: Callable[[Path], object], directory: Path) -> tuple[int, float]:
    """Return the errno (0: success) and the seconds a call took."""
    begun, number = time.monotonic(), 0
    try:
        call(directory)
    except OSError as exc:
        number = exc.errno or -1
    return number, time.monotonic() - begun
