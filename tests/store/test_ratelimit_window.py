"""The promise of the budget, for any traffic: the server never counts too many requests in a window."""

import random
from bisect import bisect_left

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from kvfs.store.ratelimit import Budget, Priority


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    requests=st.integers(1, 12),
    concurrency=st.integers(1, 5),
    count=st.integers(1, 60),
)
def test_no_window_ever_holds_more(seed, requests, concurrency, count):
    """Whenever the server counts a request, from its start to its end, no window holds too many."""
    rng = random.Random(seed)
    seen: list[float] = []

    async def one(budget: Budget) -> None:
        await trio.sleep(rng.uniform(0, 30))
        async with budget.request(rng.choice(list(Priority))):
            start = trio.current_time()
            with trio.move_on_after(rng.uniform(0, 8)):
                await trio.sleep(rng.choice([0, 1, 5]))
            seen.append(rng.uniform(start, trio.current_time()))

    async def main() -> None:
        budget = Budget(requests, 10.0, concurrency=concurrency)
        with trio.fail_after(80_000):  # of simulated time
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(one, budget)

    trio.run(main, clock=MockClock(autojump_threshold=0))

    seen.sort()
    assert len(seen) == count
    for index, time in enumerate(seen):
        assert bisect_left(seen, time + 10.0 - 1e-6) - index <= requests
