"""The size of bulk bodies: it grows while answers are quick, else shrinks, and remembers which sizes passed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.bulksize import LEAST_BYTES, PROBATION, QUICK, SLOW, Bound


def bound() -> Bound:
    return Bound(1_000, least=1, most=10_000)


def sent(bound: Bound, copes: int, pairs: int) -> list[int]:
    """Send so many pairs to a server that copes with bodies of `copes`; return the sizes of all bodies."""
    sizes = []
    while pairs > 0:
        size = min(bound.value, pairs)
        sizes.append(size)
        if size > copes:
            bound.fail(size)
        else:
            bound.succeed(size)
            pairs -= size
    return sizes


def test_it_doubles_to_the_limit_of_the_api():
    """With a server that copes the size doubles to 10,000 pairs in four bodies, and never goes beyond."""
    assert sent(bound(), 10_000, 10_000) == [1_000, 2_000, 4_000, 3_000]
    assert max(sent(bound(), 10**9, 100_000)) == 10_000


def test_what_is_far_below_the_bound_says_nothing_of_it():
    """A thousand quick answers to single pairs do not raise the size to ten thousand at once."""
    limit = bound()
    for _ in range(1_000):
        limit.succeed(1)
    assert limit.value == 1_000


@pytest.mark.parametrize("copes", [1, 7, 62, 100, 999, 1_500, 5_000])
def test_what_failed_is_not_tried_again_soon(copes):
    """A size that failed is not tried again soon, so few of a hundred bodies' worth of pairs are sent in vain."""
    limit = bound()
    sent(limit, copes, copes * 100)
    sizes = sent(limit, copes, copes * 200)
    assert sum(size for size in sizes if size > copes) <= copes * 200 * 0.1


def test_a_server_that_recovers_gets_large_bodies_again():
    """A size that failed is tried again when enough smaller bodies have passed."""
    limit = bound()
    sent(limit, 100, 2_000)
    assert limit.value <= 125
    sizes = sent(limit, 10_000, 60_000)
    assert limit.value == 10_000
    assert len(sizes) < 5 * PROBATION + 30


def test_a_server_that_gets_worse_is_followed_down():
    """A size that passed once shrinks again when the server gets worse."""
    limit = bound()
    sent(limit, 10_000, 40_000)
    sizes = sent(limit, 50, 500)
    assert len([size for size in sizes if size > 50]) <= 10


def test_slow_answers_make_it_smaller_if_they_were_for_its_sake():
    """One value that took a minute does not change how many small ones go together."""
    limit = bound()
    limit.slow_down(1_000)
    assert limit.value == 500
    limit.slow_down(1)
    assert limit.value == 500


@given(
    st.lists(st.tuples(st.sampled_from(["fail", "slow_down", "succeed"]), st.floats(0.001, 1.0)), max_size=60)
)
def test_it_stays_within_its_limits(steps):
    """The size stays between its least and its most, and a failure of the allowed size allows less."""
    for limit in (bound(), Bound(90_000_000, least=LEAST_BYTES, most=90_000_000)):
        for name, part in steps:
            before = limit.value
            size = max(1, int(before * part))
            getattr(limit, name)(size)
            assert limit._least <= limit.value <= limit.most
            if name == "fail" and size == before:
                assert limit.value < before or before == limit._least


def test_the_times_leave_room_below_the_edge():
    """A body twice as large as a quick one is not slow yet, because the edge gives up only after 100 s."""
    assert QUICK * 2 < SLOW < 100 / 2
