"""Histograms of durations: every call counts though only some are timed, and quantiles are in the right bucket."""

from hypothesis import given
from hypothesis import strategies as st

from kvfs.core import durations
from kvfs.core.durations import EVERY, SKIP, SUM

NANOSECONDS = st.integers(0, 10**13)


def come(times: durations.Durations, nanoseconds: int) -> None:
    """Count one answer of a hot path, timed or not."""
    if times[SKIP]:
        times[SKIP] -= 1
    else:
        durations.add_timed(times, nanoseconds)


@given(st.lists(st.tuples(st.sampled_from(["hot", "timed", "asked"]), NANOSECONDS), max_size=200))
def test_whatever_comes_is_counted_once(steps: list[tuple[str, int]]) -> None:
    """Every call is counted once, timed or not, asked for in between or not; a counted bucket never shrinks."""
    times, come_so_far = durations.no_durations(), 0
    before: list[int] = []
    for step, nanoseconds in steps:
        if step == "asked":
            settled = durations.settle(times)
            assert durations.count(settled) == come_so_far
            below = [sum(settled[: bound + 1]) for bound in range(durations.BUCKETS)]
            assert all(one <= two for one, two in zip(before, below, strict=False))
            before = below
            continue
        come_so_far += 1
        if step == "hot":
            come(times, nanoseconds)
        else:
            durations.add(times, nanoseconds)
    assert durations.count(durations.settle(times)) == come_so_far


@given(st.lists(NANOSECONDS, min_size=1))
def test_a_quantile_lies_in_the_bucket_of_the_duration_that_it_stands_for(all_of: list[int]) -> None:
    """A quantile lies between half of its duration and twice of it, and never above the longest bucket."""
    times = durations.no_durations()
    for nanoseconds in all_of:
        durations.add(times, nanoseconds)
    assert times[SUM] == sum(all_of)
    for part in (0.5, 0.99, 1.0):
        wanted = sorted(all_of)[
            max(0, -int(-part * len(all_of)) - 1) if part * len(all_of) % 1 == 0 else int(part * len(all_of))
        ]
        found = durations.quantile(times, part)
        assert found is not None
        bucket = min((wanted // 1000).bit_length(), durations.BUCKETS - 1)
        assert (durations.upper(bucket - 1) if bucket else 0.0) <= found <= durations.upper(bucket)


def test_nothing_has_no_quantile() -> None:
    """An empty histogram has None as its quantile and not zero, because nobody waited."""
    assert durations.quantile(durations.no_durations(), 0.5) is None
    assert durations.total([]) == durations.no_durations()


def test_one_of_sixteen_stands_for_those_before_it() -> None:
    """One timed call of sixteen stands for those before it, and the first is timed for itself."""
    times = durations.no_durations()
    for number in range(1 + EVERY):
        come(times, 5_000 if number else 100_000)
    assert times[7] == 1
    assert times[3] == EVERY
    assert times[SUM] == 100_000 + EVERY * 5_000
