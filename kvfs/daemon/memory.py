"""Keep what the daemon holds near what it uses."""

import ctypes
from contextlib import suppress
from typing import Final

ARENAS: Final = 2  # heaps of the C library
_M_ARENA_MAX: Final = -8  # malloc.h of glibc


def limit_heaps() -> None:
    """At most `ARENAS` heaps, where the C library has several; to be called before there are threads.

    glibc makes up to eight for each processor as threads come and go, and each keeps what large values left
    in it: the resident memory of a day's work would be several times what is used (mallopt(3)).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
