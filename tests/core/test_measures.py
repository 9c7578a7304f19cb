"""Durations and sizes: the forms, the limits, and that what is written reads back."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import InvalidError
from kvfs.core.measures import (
    LARGEST,
    LONGEST,
    duration_word,
    parse_duration,
    parse_size,
    parse_units,
    size_word,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0", 0),
        (" 1.5 ", 1.5),
        (".5", 0.5),
        ("250ms", 0.25),
        ("50ms", 0.05),
        ("90s", 90),
        ("15m", 900),
        ("42 min", 2520),
        ("2h", 7200),
        ("1.5h", 5400),
        ("7d", 604_800),
        ("4w", 2_419_200),
        ("1d12h", 129_600),
        ("1d 12h 3s", 129_603),
        ("36500d", LONGEST),
    ],
)
def test_forms_of_a_duration(text: str, seconds: float) -> None:
    """A plain number is seconds; numbers with units add up."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "nan", "inf", "1e9", "15M", "1d12", "5 minutes", "٣s", "s", "1..5s"]
)
def test_what_is_no_duration(text: str) -> None:
    """The message shows the forms."""
    with pytest.raises(InvalidError, match="is not a duration: write seconds, or 250ms, 90s, 15m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["9999w", "1" + "0" * 400, "36500d1ms"])
def test_a_duration_has_a_limit(text: str) -> None:
    """The message names it."""
    with pytest.raises(InvalidError, match="longer than 100 years: write at most 36500d"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["90", "1G", "2026-11-30", "14:30", ""])
def test_only_units_make_a_duration_among_other_things(text: str) -> None:
    """A number, a size or a date is none where several of them are taken."""
    assert parse_units(text) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("300", 300),
        ("64K", 65_536),
        ("1.5k", 1536),
        ("256M", 2**28),
        ("10GiB", 10 * 2**30),
        ("1 MB", 2**20),
        ("1024T", LARGEST),
    ],
)
def test_forms_of_a_size(text: str, size: int) -> None:
    """Powers of 1024, whatever the unit is called."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "big", "1X", "1e9", "0x10", "٣K"])
def test_what_is_no_size(text: str) -> None:
    """The message shows the form."""
    with pytest.raises(InvalidError, match="is not a size: write bytes, or a number with K, M, G or T"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1025T", "9" * 400])
def test_a_size_has_a_limit(text: str) -> None:
    """The message names it."""
    with pytest.raises(InvalidError, match="is too large: write at most 1024T"):
        parse_size(text)


@given(
    st.floats(0, LONGEST)
    | st.integers(0, int(LONGEST)).map(float)
    | st.integers(0, 10**6).map(lambda n: n / 1000)
)
def test_a_duration_that_is_written_reads_back(seconds: float) -> None:
    """To the last bit, so that the daemon gets what was asked for."""
    assert parse_duration(duration_word(seconds)) == seconds


@given(st.integers(0, LARGEST) | st.integers(0, 1024).map(lambda n: n * 1024**3))
def test_a_size_that_is_written_reads_back(size: int) -> None:
    """To the last byte."""
    assert parse_size(size_word(size)) == size


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    """With an error of ours, never another one."""
    for parse in (parse_duration, parse_size):
        with suppress(InvalidError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("seconds", "word"),
    [(0, "0s"), (5, "5s"), (60, "1m"), (90, "90s"), (7200, "2h"), (604_800, "7d"), (1e-5, "0.00001s")],
)
def test_a_duration_is_written_in_its_largest_unit(seconds: float, word: str) -> None:
    """The unit that it is whole in; a part of a second has no exponent."""
    assert duration_word(seconds) == word
