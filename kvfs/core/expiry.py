"""Expiration as mtime: a key that expires shows its expiration; everything about that, given the time.

All times are epoch seconds, but nanoseconds where a name ends in `_ns`; `now` is the caller's clock. KV refuses
an expiration less than 60 s ahead.
"""

from enum import Enum
from math import ceil
from typing import Final

from kvfs.core.errors import InvalidError
from kvfs.core.limits import EXPIRATION_SECONDS
from kvfs.core.times import SECOND

NOW_SLACK: Final = 5  # an mtime that little ahead is now: clocks differ, and requests take time
LATEST: Final = 2**53  # beyond it JSON numbers are no longer whole seconds
LAST_DATE: Final = 253_402_300_799  # the end of the year 9999; as milliseconds it is a moment of 1978
_YEAR: Final = 31_556_952  # seconds


def year_of(expiration: int) -> int:
    """Return the year of an expiration, which may be one that no calendar has."""
    return 1970 + expiration // _YEAR


def milliseconds_hint(expiration: int | None) -> str:
    """Return a warning about an expiration that is most likely in milliseconds; "" for any other."""
    if expiration is None or expiration <= LAST_DATE:
        return ""
    year, divided = year_of(expiration), expiration // 1000
    return (
        f"KV counts seconds, and {expiration} is in the year {year}; if it is milliseconds, write {divided}"
    )


class Gone(Enum):
    """The type of `EXPIRED`, so that a type checker can tell it from a time and from None."""

    EXPIRED = "expired"


EXPIRED: Final = Gone.EXPIRED


def expiration_for_mtime(mtime: int, now: float) -> int | None:
    """Return the expiration that setting this mtime asks for; None (never) for any mtime not in the future.

    Raises `InvalidError` below KV's floor of 60 s, and for a time no JSON number can hold.
    """
    if mtime <= now + NOW_SLACK:
        return None
    if mtime < now + EXPIRATION_SECONDS:
        raise InvalidError(
            f"an mtime in the future is an expiration, and KV keeps nothing for less than "
            f"{EXPIRATION_SECONDS} s; this one is {mtime - now:.0f} s ahead"
        )
    if mtime > LATEST:
        raise InvalidError(f"an expiration is at most 2**53, this one {mtime}")
    return mtime


def mtime_of(expiration: int | None, changed_ns: int) -> int:
    """Return the nanoseconds to show: of the expiration, or else of when this machine last saw the content change."""
    return changed_ns if expiration is None else expiration * SECOND


def is_expired(expiration: int | None, now: float) -> bool:
    """Return whether a key is gone by itself: at its expiration, not after it."""
    return expiration is not None and expiration <= now


def expiration_to_send(expiration: int | None, now: float) -> int | Gone | None:
    """Return the expiration to send with a write that waited: `EXPIRED` (drop the write) when its time has passed.

    With less than the floor left it is the floor, and `NOW_SLACK` on top: the server compares with its own
    clock when the request arrives, and would refuse the value for good.
    """
    if expiration is None:
        return None
    if is_expired(expiration, now):
        return EXPIRED
    return max(expiration, ceil(now) + EXPIRATION_SECONDS + NOW_SLACK)
