"""The latest items are remembered, in bounds."""

from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.latest import Latest


@given(st.lists(st.tuples(st.integers(0, 9), st.integers())), st.integers(1, 12))
def test_the_latest_of_each_key_are_kept_in_order(kept: list[tuple[int, int]], most: int) -> None:
    """A memory keeps as many items as are allowed, each with its last value; kept again is young again."""
    latest = Latest[int, int](most)
    for key, value in kept:
        latest.keep(key, value)
    order = list(dict.fromkeys(key for key, _ in reversed(kept)))
    assert list(latest) == order[:most][::-1]
    assert all(latest[key] == dict(kept)[key] for key in latest)
