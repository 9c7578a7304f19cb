"""The bounds of the history: `7d,1G` is an age and a number of bytes, `0` none."""

import re
from dataclasses import dataclass
from typing import Final

from kvfs.core.errors import InvalidError
from kvfs.core.measures import DAY, LONGEST, duration_word, parse_size, parse_units, size_word

LEAST_BYTES: Final = 64 * 1024  # below it nearly nothing would be kept
MOST_BYTES: Final = 1024**4


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest a version is kept, in seconds, and the most bytes of all; no bytes: nothing is kept."""

    seconds: float = 7 * DAY
    bytes: int = 1024**3

    def __bool__(self) -> bool:
        return self.bytes > 0 and self.seconds > 0

    def __str__(self) -> str:
        return f"{duration_word(self.seconds)},{size_word(self.bytes)}" if self else "0"


DEFAULT: Final = Bounds()
NONE: Final = Bounds(0.0, 0)


def parse_bounds(text: str) -> Bounds:
    """Parse `7d,1G`, one of the two, or `0`. Raises `InvalidError` that names the limits."""
    if text.strip() in ("0", "none", "off"):
        return NONE
    ages: list[float] = []
    sizes: list[int] = []
    form = f"{text!r} is no history: write an age and a size like 7d,1G, or 0 for none"
    for word in re.split(r"[,\s]+", text.strip()):  # spaces: a list of the configuration file
        age = parse_units(word)
        try:
            ages += [age] if age is not None else []
            sizes += [parse_size(word)] if age is None else []
        except InvalidError as exc:
            raise InvalidError(form) from exc
    if len(ages) > 1 or len(sizes) > 1:
        raise InvalidError(form)
    if not all(0 < age <= LONGEST for age in ages):
        raise InvalidError(
            f"{text!r}: the age is more than 0 and at most 100 years; 0 alone keeps no history"
        )
    if not all(LEAST_BYTES <= size <= MOST_BYTES for size in sizes):
        raise InvalidError(f"{text!r}: the size is from 64K to 1T; 0 alone keeps no history")
    return Bounds(next(iter(ages), DEFAULT.seconds), next(iter(sizes), DEFAULT.bytes))
