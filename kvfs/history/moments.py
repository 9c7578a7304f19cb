"""A moment in people's words: `10m` and `2h ago` are before now, `14:30` is the last one, and dates are dates."""

import time
from datetime import datetime, timedelta
from typing import Final

from kvfs.core.errors import InvalidError
from kvfs.core.measures import parse_units

FORMS: Final = "10m, 2h, 3d ago, 14:30, 2026-11-30, 2026-11-30T14:30"


def parse_time(text: str, now: float) -> float:
    """Parse a moment before `now`, in the time zone of this machine, as epoch seconds. Raises `InvalidError`."""
    words = text.strip()
    if (seconds := parse_units(words.removesuffix("ago").strip())) is not None:
        return max(0.0, now - seconds)
    moment = _time_of_day(words, now) or _date(words)
    if moment is None:
        raise InvalidError(f"{text!r} is no time: write {FORMS}")
    if moment > now:
        raise InvalidError(f"{text!r} is still to come: write a time that has passed")
    return max(0.0, moment)


def _time_of_day(text: str, now: float) -> float | None:
    for form in ("%H:%M", "%H:%M:%S"):
        try:
            clock = datetime.strptime(text, form)
        except ValueError:
            continue
        today = datetime.fromtimestamp(now)
        moment = today.replace(hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=0)
        return (moment if moment.timestamp() <= now else moment - timedelta(days=1)).timestamp()
    return None


def _date(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def time_text(moment: float) -> str:
    """Format a time as `parse_time` reads it; an expiration may lie in a year that `datetime` has not."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
