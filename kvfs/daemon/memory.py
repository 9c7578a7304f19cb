"""Keep what the daemon holds near what it uses."""

import ctypes
import gc
import mmap
import time
from contextlib import suppress
from typing import Final

import trio

from kvfs.host.process import collect_rarely

ARENAS: Final = 2  # heaps of the C library
PERIOD: Final = 15.0  # seconds after which free memory is given back
LOOK: Final = 1.0  # seconds after which it is given back if there came `SPARE` more
BUSY: Final = 0.05  # seconds of CPU meanwhile; a daemon that did less has nothing new to give back
LARGE: Final = 1024 * 1024  # bytes from which on memory is mapped for itself, and given back when it is free
SPARE: Final = 64 * 1024 * 1024  # free bytes kept at the end of a heap: more than a value comes in as pieces
_M_TRIM_THRESHOLD: Final = -1  # malloc.h of glibc
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def limit_heaps(*, large: int = LARGE, spare: int = SPARE) -> None:
    """Allow at most `ARENAS` heaps, where the C library has several; must be called before there are threads.

    glibc makes up to eight for each processor as threads come and go, and each keeps what large values left
    in it: the resident memory of a day's work would be several times what is used (mallopt(3)). And it lets
    them grow with the values that were freed: the next one's pieces then come from fresh pages, which takes the
    kernel as long as copying them.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, ARENAS)
        libc.mallopt(_M_MMAP_THRESHOLD, large)
        libc.mallopt(_M_TRIM_THRESHOLD, spare)


def look_less_for_cycles() -> None:
    """Let Python look for cycles rarely, and never at objects of now; must be called when all is imported.

    Objects that exist already live as long as the process.
    """
    gc.freeze()
    collect_rarely()


def trim_heaps() -> None:
    """Give free pages back to the system, where the C library can.

    By itself glibc gives back only the end of a heap: one small object after a large value that was freed
    holds all of it (malloc_trim(3)).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def keep_trimmed() -> None:
    """Trim for ever, after each `PERIOD` with work, in a thread: it takes some milliseconds for tens of megabytes.

    Sooner after much has come in: values that are joined leave their pieces free, and two cannot use the same pages.
    """
    used, kept, since = 0.0, _resident(), 0.0
    while True:
        await trio.sleep(LOOK)
        since += LOOK
        if since < PERIOD and _resident() < kept + SPARE:
            continue
        since = 0.0
        if time.process_time() - used > BUSY:
            await trio.to_thread.run_sync(trim_heaps)
            used, kept = time.process_time(), _resident()


def _resident() -> int:
    """Return the bytes of this process that are in memory; 0 where the system does not say so."""
    with suppress(OSError), open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE
    return 0
