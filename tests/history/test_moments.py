"""TIME of `kvfs restore --at`: the accepted forms, and refusals."""

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import InvalidError
from kvfs.history.moments import parse_time, time_text

NOW = datetime(2026, 11, 30, 12, 0).timestamp()


def at(*words: int) -> float:
    return datetime(*words).timestamp()


@pytest.fixture(autouse=True, params=["UTC", "Europe/Berlin"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", lambda now: now - 600),
        ("90s", lambda now: now - 90),
        ("2h ago", lambda now: now - 7200),
        ("1.5d", lambda now: now - 129_600),
        ("11:30", lambda now: at(2026, 11, 30, 11, 30)),
        ("23:59", lambda now: at(2026, 11, 29, 23, 59)),  # the last one
        ("11:30:15", lambda now: at(2026, 11, 30, 11, 30, 15)),
        ("2026-11-30", lambda now: at(2026, 11, 30)),
        ("2026-11-30T10:15", lambda now: at(2026, 11, 30, 10, 15)),
        (" 2026-11-30 10:15:02 ", lambda now: at(2026, 11, 30, 10, 15, 2)),
        ("2026-11-30T10:15:00+00:00", lambda now: 1_796_033_700.0),
        ("99999999999d", lambda now: 0.0),  # nothing is older
        ("0001-01-01T00:00:00+00:00", lambda now: 0.0),
    ],
)
def test_forms_of_a_time(text: str, expected) -> None:
    """A time is a duration before now, a time of day, or a date with or without one, in this machine's time zone."""
    now = at(2026, 11, 30, 12, 0)
    assert parse_time(text, now) == expected(now)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no time"),
        ("tomorrow", "is no time: write 10m, 2h, 3d ago"),
        ("25:00", "is no time"),
        ("2026-13-01", "is no time"),
        ("-1h", "is no time"),
        ("2026-12-24", "still to come"),
    ],
)
def test_what_is_no_time_that_has_passed(text: str, words: str) -> None:
    """A text that is no past time is refused with the accepted forms."""
    with pytest.raises(InvalidError, match=words):
        parse_time(text, at(2026, 11, 30, 12, 0))


@given(st.integers(0, int(NOW)))
def test_a_time_that_is_shown_can_be_written(moment: int) -> None:
    """A time that `kvfs history` prints can be given to restore, but for the hour that a clock has twice."""
    found = parse_time(time_text(moment), NOW + 1e6)
    assert abs(found - moment) in (0, 3600)
    assert time_text(found) == time_text(moment)


def test_an_expiration_in_milliseconds_can_be_shown() -> None:
    """An expiration in milliseconds, as JavaScript counts, instead of seconds is shown with a year of five digits."""
    assert time_text(1_800_000_000_000).startswith("59009-09-2")
