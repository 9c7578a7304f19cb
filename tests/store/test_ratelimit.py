"""Limiting and Budget: never more requests than the window allows, in order of priority."""

from itertools import groupby
from operator import itemgetter

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline
from trio.testing import wait_all_tasks_blocked

from kvfs.core.errors import RateLimitedError, UnavailableError
from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.core.model import Entry, Key
from kvfs.store.passage import began, passage, queued, urgently
from kvfs.store.ratelimit import (
    FIRST_BLOCK,
    LONGEST_BLOCK,
    TELLING,
    Budget,
    BudgetStatistics,
    Limiting,
    Priority,
    ratelimit_of,
)
from kvfs.store.retry import Retrying

FOREGROUND, UPLOAD, BACKGROUND = Priority


class Log:
    """Makes requests of a budget and notes their starts, in order."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.started: list[tuple[Priority, float]] = []

    async def request(self, priority: Priority = FOREGROUND, seconds: float = 0.0) -> None:
        """Make one request that takes so long."""
        async with self.budget.request(priority):
            self.started.append((priority, trio.current_time()))
            await trio.sleep(seconds)

    async def requests(self, priority: Priority, count: int, seconds: float = 0.0) -> None:
        """Make many at once, and wait until all are done."""
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self.request, priority, seconds)

    def order(self) -> str:
        """Return whose requests were made, as initials."""
        return "".join(priority.name[0] for priority, _ in self.started)


async def test_the_whole_budget_may_go_in_a_burst(autojump_clock):
    """All 1,200 requests may go at once, and the next when the window of the first is over."""
    log, start = Log(Budget(concurrency=10_000)), trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(RATE_REQUESTS + 1):
            nursery.start_soon(log.request)

    times = [time - start for _, time in log.started]
    assert times == [0.0] * RATE_REQUESTS + [RATE_SECONDS]


async def test_nobody_waits_longer_than_necessary(autojump_clock):
    """Each request goes at the moment the window allows it."""
    log = Log(Budget(2, 10.0))
    async with trio.open_nursery() as nursery:
        for delay in (0, 3, 3, 3, 3):
            await trio.sleep(delay / 2)
            nursery.start_soon(log.request)

    start = log.started[0][1]
    assert [time - start for _, time in log.started] == [0, 1.5, 10, 11.5, 20]


async def test_foreground_goes_before_uploads_before_background(autojump_clock):
    """Foreground goes before uploads before background, in whatever order they came."""
    log = Log(Budget(1, 10.0))
    await log.request()
    async with trio.open_nursery() as nursery:
        for priority in (BACKGROUND, UPLOAD, FOREGROUND, BACKGROUND, UPLOAD, FOREGROUND):
            nursery.start_soon(log.request, priority)
            await wait_all_tasks_blocked()

    assert log.order() == "F" + "FFUUBB"


async def test_the_last_of_the_budget_is_for_the_foreground(autojump_clock):
    """Uploads leave a twentieth of the budget, background work a half, and the foreground may have it all."""
    log = Log(Budget(100, 10.0))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.requests, BACKGROUND, 60)
        await trio.sleep(1)
        assert log.order() == "B" * 50
        nursery.start_soon(log.requests, UPLOAD, 60)
        await trio.sleep(1)
        assert log.order() == "B" * 50 + "U" * 45
        await log.requests(FOREGROUND, 4)
        assert trio.current_time() - start == 2
        await trio.sleep(7)
        assert log.order().count("F") == 4


async def test_uploads_are_not_starved(autojump_clock):
    """While the foreground takes everything, every fifth request is an upload that waits."""
    log = Log(Budget(10, 10.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.requests, FOREGROUND, 300)
        nursery.start_soon(log.requests, UPLOAD, 300)
        await trio.sleep(99)
        nursery.cancel_scope.cancel()

    windows = [list(window) for _, window in groupby(log.started, key=itemgetter(1))]
    assert len(windows) == 10
    assert all([priority for priority, _ in window].count(UPLOAD) == 2 for window in windows[1:])


async def test_uploads_leave_slots_to_the_foreground(autojump_clock):
    """A read gets through at once, however long the uploads in flight take."""
    budget = Budget(concurrency=8)
    log = Log(budget)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.requests, UPLOAD, 20, 60.0)
        await wait_all_tasks_blocked()
        assert budget.statistics().in_flight == 6
        start = trio.current_time()

        await log.request()

        assert trio.current_time() == start
        nursery.cancel_scope.cancel()


async def test_no_more_than_so_many_are_in_flight(autojump_clock):
    """The next request starts when one ends, if as many as allowed are in flight."""
    budget = Budget(concurrency=3)
    log = Log(budget)
    start = trio.current_time()
    await log.requests(FOREGROUND, 7, 5.0)

    assert [time - start for _, time in log.started] == [0, 0, 0, 5, 5, 5, 10]
    assert budget.statistics().in_flight == 0


async def test_who_stops_waiting_loses_nothing_for_others(autojump_clock):
    """A cancelled waiter gives its turn to the next, and its request is not counted."""
    budget = Budget(1, 10.0)
    log = Log(budget)
    start = trio.current_time()
    await log.request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.request, UPLOAD)
        async with trio.open_nursery() as inner:
            inner.start_soon(log.request, FOREGROUND)  # it is first in line
            await trio.sleep(5)
            inner.cancel_scope.cancel()

    assert [(priority, time - start) for priority, time in log.started] == [(FOREGROUND, 0), (UPLOAD, 10)]
    assert budget.statistics().waiting == 0


async def test_a_turn_granted_to_a_cancelled_waiter_is_passed_on(autojump_clock):
    """A turn granted to a waiter that is cancelled at that moment goes to the next, and nothing is counted."""
    budget = Budget(concurrency=1)
    log = Log(budget)
    doomed = trio.CancelScope()

    async def wait_in_vain() -> None:
        with doomed:
            await log.request(FOREGROUND)

    async with trio.open_nursery() as nursery, budget.request(FOREGROUND):
        nursery.start_soon(wait_in_vain)
        await wait_all_tasks_blocked()
        nursery.start_soon(log.request, UPLOAD)
        await wait_all_tasks_blocked()
        doomed.cancel()

    assert log.order() == "U"
    assert budget.statistics() == BudgetStatistics(2, RATE_REQUESTS - 2, RATE_SECONDS, None, 0, 0)


async def test_a_wait_lasts_to_its_bound_and_then_says_why(autojump_clock):
    """A caller that must have an answer before the budget allows learns at its bound how long it would wait."""
    log = Log(Budget(1, 10.0))
    await log.request()
    await trio.sleep(4)
    start = trio.current_time()

    with trio.move_on_after(5), pytest.raises(RateLimitedError, match=r"used up.* in 1 s") as caught:
        await log.request()
    assert trio.current_time() == pytest.approx(start + 5 - TELLING)
    assert caught.value.retry_after == pytest.approx(1 + TELLING)

    with trio.fail_after(7):
        await log.request()


async def test_a_wait_that_the_budget_ends_in_time_succeeds(autojump_clock):
    """A wait goes on to its bound, because a failure of another call or a header may free the way sooner."""
    budget = Budget(1000, 300.0)
    budget.told({"ratelimit": '"default";r=0;t=30'})
    log, start = Log(budget), trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.request)
        await trio.sleep(3)
        budget.told({"ratelimit": '"default";r=5;t=27'})
        nursery.start_soon(log.request)

    assert [time - start for _, time in log.started] == [3, 3]


@pytest.mark.parametrize("priority", Priority)
async def test_the_count_of_the_api_is_believed_where_it_is_lower(autojump_clock, priority):
    """A lower count in the API's headers is believed until its time is over, because other machines spend too."""
    budget = Budget(1200, 300.0)
    budget.told({"ratelimit": '"default";r=2;t=30', "ratelimit-policy": '"default";q=2;w=30'})
    log, start = Log(budget), trio.current_time()
    assert budget.statistics().left == 2

    await log.requests(priority, 4)

    times = [time - start for _, time in log.started]
    allowed = {FOREGROUND: 2, UPLOAD: 1, BACKGROUND: 1}[priority]
    assert times == [0] * allowed + [30] * (4 - allowed)


@pytest.mark.parametrize(
    ("header", "limit"),
    [
        ('"default";r=50;t=30', (50, 30)),
        ('"burst";r=7;t=1, "default";r=900;t=200', (7, 1)),
        ("default;t=5;r=0", (0, 5)),
        ('"default";r=50', None),
        ("r=50", None),
        ('"default";r=-1;t=30', None),
        ('"default";r=1e9;t=30', None),
        ("", None),
    ],
)
def test_the_header_is_read_or_left_alone(header, limit):
    """A malformed header, from a proxy for instance, is ignored."""
    assert ratelimit_of(header) == limit


async def test_a_wait_for_a_slot_is_never_hopeless(autojump_clock):
    """A wait for a slot is never refused, because slots come back at any moment."""
    log = Log(Budget(concurrency=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.request, FOREGROUND, 5)
        await wait_all_tasks_blocked()
        with trio.fail_after(6):
            await log.request()


async def test_statistics_tell_how_it_stands(autojump_clock):
    """Statistics show used, left, in flight, waiting, blocked; used requests come back with the window."""
    budget = Budget(3, 10.0, concurrency=2)
    log = Log(budget)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.requests, FOREGROUND, 3, 5.0)
        await wait_all_tasks_blocked()
        assert budget.statistics() == BudgetStatistics(2, 1, 10.0, None, in_flight=2, waiting=1, limit=3)
    budget.block(7)
    until = trio.current_time() + 7
    assert budget.statistics() == BudgetStatistics(3, 0, 10.0, until, in_flight=0, waiting=0, limit=3)
    assert repr(budget) == "<Budget 3 of 3 requests in 10 s used>"
    await trio.sleep(10)
    assert budget.statistics() == BudgetStatistics(0, 3, 10.0, None, in_flight=0, waiting=0, limit=3)


@pytest.mark.parametrize(("asked", "seconds"), [(-5.0, 0.0), (0.0, 0.0), (1e12, LONGEST_BLOCK)])
async def test_a_block_has_bounds(autojump_clock, asked, seconds):
    """A block has bounds: no header blocks for ever, and none reaches into the past."""
    assert Budget().block(asked) == seconds


@pytest.fixture
def faults(tmp_path):
    """Return a store that fails when told."""
    with open_inline(tmp_path / "store.db") as store:
        yield FaultStore(store)


async def test_after_a_429_everybody_waits(faults, autojump_clock):
    """After a 429 all views of the budget wait as long as the server asked, and not longer."""
    budget = Budget()
    namespace = (await faults.create_namespace("n")).id
    faults.fail("put", RateLimitedError("429", retry_after=42.0), times=1)
    start = trio.current_time()

    with pytest.raises(RateLimitedError):
        await Limiting(faults, budget, UPLOAD).put(namespace, Key("a"), Entry(b""))
    assert budget.statistics().blocked_until == start + 42
    await Limiting(faults, budget).get(namespace, Key("a"))

    assert trio.current_time() - start == 42


async def test_a_429_without_a_time_blocks_for_five_seconds_then_ten(faults, autojump_clock):
    """A 429 without a time blocks for five seconds, then ten, and an accepted request starts anew."""
    limiting = Limiting(faults, Budget())
    faults.fail("list_namespaces", RateLimitedError("429"), on=(1, 2, 4))

    waits = []
    for _ in range(4):
        try:
            await limiting.list_namespaces()
        except RateLimitedError as exc:
            waits.append(exc.retry_after)
    assert waits == [FIRST_BLOCK, 2 * FIRST_BLOCK, FIRST_BLOCK]
    assert trio.current_time() == 3 * FIRST_BLOCK


async def test_a_crowd_that_meets_a_429_counts_once(faults, autojump_clock):
    """Sixteen requests under way that meet a 429 count as one, and do not make the block an hour."""
    limiting = Limiting(faults, Budget())
    faults.delay("list_namespaces", 1)
    faults.fail("list_namespaces", RateLimitedError("429"), on=range(1, 17))

    async def ask() -> None:
        with pytest.raises(RateLimitedError) as caught:
            await limiting.list_namespaces()
        assert caught.value.retry_after == FIRST_BLOCK

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask)


async def test_every_call_counts_once_also_when_it_fails(faults, autojump_clock):
    """Every call counts once, also when it fails, because the server counted what was sent."""
    budget = Budget()
    limiting = Limiting(faults, budget)
    await limiting.list_namespaces()
    faults.fail("list_namespaces")
    with pytest.raises(UnavailableError):
        await limiting.list_namespaces()

    assert budget.statistics().used == faults.count() == 2


async def test_retrying_around_limiting_outlasts_a_429(faults, autojump_clock, expect_log):
    """With time enough a call outlasts a 429, and with too little it says how long that would take."""
    store = Retrying(Limiting(faults, Budget()), attempts=3, deadline=400)
    hasty = Retrying(Limiting(faults, Budget()), attempts=3, deadline=30)
    faults.fail("list_namespaces", RateLimitedError("429", retry_after=100), on=(1, 3))
    expect_log("list_namespaces failed")

    assert await store.list_namespaces() == []
    assert 100 <= trio.current_time() <= 101
    start = trio.current_time()
    for _ in range(2):
        with pytest.raises(RateLimitedError) as caught:
            await hasty.list_namespaces()
        assert caught.value.retry_after == pytest.approx(start + 100 - trio.current_time(), abs=1)
    assert trio.current_time() == pytest.approx(start + 30 - TELLING)
    assert faults.count() == 3


async def test_an_upload_that_somebody_waits_for_goes_before_the_others(faults, autojump_clock):
    """An upload that an fsync waits for goes before a hundred others."""
    budget = Budget(concurrency=4)
    namespace = (await faults.create_namespace("n")).id
    limiting = Limiting(faults, budget, UPLOAD)
    order = []

    async def put(name, urgent):
        with urgently(urgent):
            await limiting.put(namespace, Key(name), Entry(b""))
        order.append(name)

    faults.delay("put", 1.0)
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(put, f"upload{number}", False)
        await wait_all_tasks_blocked()
        nursery.start_soon(put, "fsync", True)
    assert order.index("fsync") <= 4


async def test_a_request_tells_when_it_was_let_through(faults, autojump_clock):
    """A request tells when it was let through, so the wait for its turn is not counted as slowness."""
    budget = Budget(requests=1, window=60)
    limiting = Limiting(faults, budget)
    faults.delay("list_namespaces", 2.0)
    with passage() as way:
        await limiting.list_namespaces()
    assert trio.current_time() - way.began == 2
    with passage() as way:
        asked = trio.current_time()
        await limiting.list_namespaces()
    assert trio.current_time() - way.began == 2
    assert trio.current_time() - asked == 62


async def test_a_deadline_survives_a_second_wait_in_the_queue(autojump_clock):
    """The time in the queue does not count for a caller's deadline, which holds again once the request begins."""
    with passage() as way, way.scope:
        way.scope.deadline = trio.current_time() + 3
        for _ in range(2):  # as after a wait that ended without a request
            queued()
            await trio.sleep(10)
        began()
        await trio.sleep(10)
    assert trio.current_time() == 23
