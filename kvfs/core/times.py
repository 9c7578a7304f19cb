"""Times as they are kept and shown: whole nanoseconds since 1970, negative before it.

Clocks give seconds as a float; an expiration is whole seconds, as KV's.
"""

from typing import Final

SECOND: Final = 1_000_000_000  # nanoseconds
FIRST: Final = -(2**63)  # the year 1677
LAST: Final = 2**63 - 1  # the year 2262


def nanoseconds(seconds: float) -> int:
    """Return a moment of a clock (epoch seconds) in nanoseconds."""
    return int(seconds * SECOND)


def within_range(time_ns: int) -> int:
    """Return the nearest time that can be kept, as a disk's file system cuts times to its range as well."""
    return min(max(time_ns, FIRST), LAST)
