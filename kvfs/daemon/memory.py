"""Keep what the daemon holds near what it uses."""

import ctypes
from contextlib import suppress
from typing import Final

import trio

ARENAS: Final = 2  # heaps of the C library
PERIOD: Final = 60.0  # seconds between two looks for memory to give back
_M_ARENA_MAX: Final = -8  # malloc.h of glibc


def limit_heaps() -> None:
    """At most `ARENAS` heaps, where the C library has several; to be called before there are threads.

    glibc makes up to eight for each processor as threads come and go, and each keeps what large values left
    in it: the resident memory of a day's work would be several times what is used (mallopt(3)).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)


def trim_heaps() -> None:
    """Give free pages back to the system, where the C library can.

    By itself glibc gives back only the end of a heap: one small object after a large value that was freed
    holds all of it (malloc_trim(3)).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


async def keep_trimmed() -> None:
    """For ever, once in `PERIOD`, in a thread: some milliseconds for tens of megabytes."""
    while True:
        await trio.sleep(PERIOD)
        await trio.to_thread.run_sync(trim_heaps)
