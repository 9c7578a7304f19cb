"""`--history 7d,1G`: the accepted forms, and the messages for others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import InvalidError
from kvfs.history.allowance import DEFAULT, NONE, Bounds, parse_bounds

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("7d,1G", DEFAULT),
        ("0", NONE),
        ("none", NONE),
        ("12h", Bounds(12 * 3600.0, GIB)),
        ("2G", Bounds(DEFAULT.seconds, 2 * GIB)),
        ("512M,30min", Bounds(1800.0, GIB // 2)),
        ("2w 64KiB", Bounds(14 * 86400.0, 65536)),
    ],
)
def test_what_can_be_written(text: str, bounds: Bounds) -> None:
    """The bounds are an age, a size, both in either order, or 0."""
    assert parse_bounds(text) == bounds


@pytest.mark.parametrize(
    "text", ["", "x", "7d,x", "7d,1G,2h", "7d,7d", "-1d", "0s,1G", "1K", "2000T", "200w,10000w", "9999w"]
)
def test_what_is_refused(text: str) -> None:
    """A wrong bound is refused with the form, or with the limit that it passed."""
    with pytest.raises(InvalidError, match=r"7d,1G|from 64K to 1T|at most 100 years"):
        parse_bounds(text)


def test_the_default_reads_as_it_is_written() -> None:
    """The default reads the same in `kvfs config show` and in the status."""
    assert str(DEFAULT) == "7d,1G"
    assert str(Bounds(90.0, 1536 * 1024)) == "90s,1536K"


@given(st.builds(Bounds, st.floats(0.001, 1e8), st.integers(65536, 1024**4)))
def test_bounds_survive_the_way_to_the_daemon(bounds: Bounds) -> None:
    """Bounds written as text are read as the same bounds."""
    assert parse_bounds(str(bounds)) == bounds
