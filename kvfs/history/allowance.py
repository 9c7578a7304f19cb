"""The bounds of the history: `7d,1G` is an age and a number of bytes, `0` none. Also parses durations."""

import re
from dataclasses import dataclass
from typing import Final

from kvfs.core.errors import InvalidError

UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
MOST_SECONDS: Final = 100 * 365 * 86400  # older than any file here
LEAST_BYTES: Final = 64 * 1024  # below it nearly nothing would be kept
MOST_BYTES: Final = 1024**4

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d|w)")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest a version is kept, in seconds, and the most bytes of all; no bytes: nothing is kept."""

    seconds: float = 7 * 86400.0
    bytes: int = 1024**3

    def __bool__(self) -> bool:
        return self.bytes > 0 and self.seconds > 0

    def __str__(self) -> str:
        return f"{_whole(self.seconds)},{_size(self.bytes)}" if self else "0"


def _whole(seconds: float) -> str:
    """Return a duration in the largest unit in which it is a whole number."""
    for unit in ("d", "h", "m"):
        count = seconds / UNITS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds!r}s"


def _size(size: int) -> str:
    for number, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if size and size % 1024**number == 0:
            return f"{size // 1024**number}{unit}"
    return str(size)


DEFAULT: Final = Bounds()
NONE: Final = Bounds(0.0, 0)


def parse_bounds(text: str) -> Bounds:
    """Parse `7d,1G`, one of the two, or `0`. Raises `InvalidError` that names the limits."""
    if text.strip() in ("0", "none", "off"):
        return NONE
    seconds: float | None = None
    size: int | None = None
    for word in re.split(r"[,\s]+", text.strip()):  # spaces: a list of the configuration file
        if (found := duration(word)) is not None and seconds is None:
            seconds = found
        elif (matched := _SIZE.fullmatch(word.strip())) is not None and size is None:
            size = int(float(matched[1]) * 1024 ** " KMGT".index(matched[2].upper() or " "))
        else:
            raise InvalidError(f"{text!r} is no history: write an age and a size like 7d,1G, or 0 for none")
    if seconds is not None and not 0 < seconds <= MOST_SECONDS:
        raise InvalidError(
            f"{text!r}: the age is more than 0 and at most 100 years; 0 alone keeps no history"
        )
    if size is not None and not LEAST_BYTES <= size <= MOST_BYTES:
        raise InvalidError(f"{text!r}: the size is from 64K to 1T; 0 alone keeps no history")
    return Bounds(seconds or DEFAULT.seconds, size or DEFAULT.bytes)


def duration(text: str) -> float | None:
    """Parse `90s`, `10m`, `2h`, `7d`, `1w` as seconds; return None for anything else."""
    found = _DURATION.fullmatch(text.strip())
    return float(found[1]) * UNITS[found[2]] if found is not None else None
