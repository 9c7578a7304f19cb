"""The one rule about the age of what the store said, and the counters that tell of changes."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.freshness import NEVER, fresh_until, is_fresh, seconds_left
from kvfs.core.generation import Generation

TIMES = st.fractions(0, 10_000, max_denominator=1000)  # exact, so that borders are borders
TTLS = st.fractions(0, 600, max_denominator=1000)


@given(TIMES, TTLS, TIMES)
def test_what_is_fresh_has_time_left_and_nothing_else_has(
    known_at: Fraction, ttl: Fraction, now: Fraction
) -> None:
    """An answer may be repeated exactly while seconds are left of it, unless the clock is set back."""
    left = seconds_left(fresh_until(known_at, ttl), ttl, now)
    assert is_fresh(known_at, ttl, now) == (known_at <= now and left > 0)
    assert 0 <= left <= ttl, "nobody is told to repeat it for longer than a new answer"


@given(TIMES, TTLS, TIMES)
def test_an_answer_ages_with_the_clock(known_at: Fraction, ttl: Fraction, passed: Fraction) -> None:
    """An answer loses a second with each second, and stays old once it is."""
    end = fresh_until(known_at, ttl)
    assert seconds_left(end, ttl, known_at) == ttl
    assert seconds_left(end, ttl, known_at + passed) == max(0, ttl - passed)
    assert is_fresh(known_at, ttl, known_at + passed) == (passed < ttl)


@given(TIMES, TTLS, TIMES, TIMES)
def test_a_key_is_shown_no_longer_than_it_lives(
    until: Fraction, ttl: Fraction, now: Fraction, end: Fraction
) -> None:
    """An expiration cuts the time for which anybody may repeat the answer."""
    left = seconds_left(until, ttl, now, end)
    assert left == min(seconds_left(until, ttl, now), max(0, end - now))


@pytest.mark.parametrize("now", [1e9, 4e9])
def test_what_has_to_be_asked_anew_is_never_fresh(now: float) -> None:
    """An answer from the future is not fresh, because the clock was set back since, nor is one to be asked anew."""
    assert not is_fresh(NEVER, 1e6, now)
    assert not is_fresh(now + 0.001, 60, now)
    assert seconds_left(fresh_until(NEVER, 1e6), 1e6, now) == 0


@given(st.integers(1, 100))
def test_a_generation_is_never_the_same_after_a_change(changes: int) -> None:
    """Each change gives a number that was never there before."""
    generation = Generation()
    numbers = [generation.number]
    for _ in range(changes):
        generation.bump()
        numbers.append(generation.number)
    assert sorted(set(numbers)) == numbers


def test_a_misspelt_generation_is_a_mistake() -> None:
    """A counter that nobody compares would be a change that nobody notices."""
    with pytest.raises(AttributeError):
        Generation().nubmer = 1  # type: ignore[attr-defined]
