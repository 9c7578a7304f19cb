"""Durations and sizes as people write them: `90`, `15m`, `1d12h`, `250ms`; `300`, `64K`, `10GiB`.

Everything that takes one reads it here: options, variables, the configuration file, faults, attributes. What is
written here reads back as the same number.
"""

import re
from decimal import Decimal
from typing import Final

from kvfs.core.errors import InvalidError

UNITS: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""Seconds by the name of a unit, the longest first."""

DAY: Final = 86_400.0
LONGEST: Final = 36_500 * DAY
"""A duration above it is a mistake, and too much for some calls of the system."""

LARGEST: Final = 1024**5
"""A size above it, likewise."""

_NUMBER: Final = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_PART: Final = re.compile(rf"({_NUMBER})\s*(ms|min|[smhdw])\s*")
_SIZE: Final = re.compile(rf"({_NUMBER})\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Return seconds: a number of them, or numbers with units. Raises `InvalidError`."""
    plain = re.fullmatch(_NUMBER, text.strip())
    seconds = float(plain[0]) if plain is not None else parse_units(text)
    if seconds is None:
        raise InvalidError(
            f"{text[:40]!r} is not a duration: write seconds, or 250ms, 90s, 15m, 2h, 1d12h, 4w"
        )
    if seconds > LONGEST:
        raise InvalidError(f"{text[:40]!r} is longer than 100 years: write at most {duration_word(LONGEST)}")
    return seconds


def parse_units(text: str) -> float | None:
    """Return the seconds of a duration that names its units; None for a plain number, a size, a date or other text."""
    words = text.strip()
    parts = _PART.findall(words)
    if not parts or _PART.sub("", words):
        return None
    # a product with 0.001 would not read back as what was written
    return sum(float(n) / 1000 if unit == "ms" else float(n) * UNITS[unit] for n, unit in parts)


def parse_size(text: str) -> int:
    """Return bytes: a number of them, or a number with a unit, which is a power of 1024. Raises `InvalidError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidError(
            f"{text[:40]!r} is not a size: write bytes, or a number with K, M, G or T as in 256M"
        )
    size = float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " ")
    if size > LARGEST:
        raise InvalidError(f"{text[:40]!r} is too large: write at most {size_word(LARGEST)}")
    return int(size)


def duration_word(seconds: float) -> str:
    """Return a duration in the largest unit that it is whole in; `parse_duration` reads the same number."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % UNITS[unit] == 0:
            return f"{seconds / UNITS[unit]:.0f}{unit}"
    return f"{Decimal(repr(float(seconds))).normalize():f}s"  # without an exponent


def size_word(size: int) -> str:
    """Return a size in the largest unit that it is whole in; `parse_size` reads the same number."""
    for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if size and size % 1024**power == 0:
            return f"{size // 1024**power}{unit}"
    return str(size)
