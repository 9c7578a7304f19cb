"""The ledger: several processes of a user share one account and one count of requests."""

import fcntl
import os
import random
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from kvfs.core.errors import RateLimitedError
from kvfs.store.ledger import LEASE, Ledger, Machine, Owner, process
from kvfs.store.ratelimit import Budget, Priority

FOREGROUND, UPLOAD, BACKGROUND = Priority
BOOT = b"one start of it."


class World:
    """Processes that share an account, and a server that counts what they send."""

    def __init__(self, path: Path, requests: int, window: float = 10.0) -> None:
        self.path = path
        self.requests, self.window = requests, window
        self.alive: set[Owner] = set()
        self.sent: list[float] = []
        self.now: Callable[[], float] = trio.current_time

    def process(self, **options) -> Budget:
        """Start one more process."""
        owner = (len(self.alive) + 1, 77)
        self.alive.add(owner)
        ledger = Ledger(self.path, self.requests, self.window, lambda: self.machine(owner))
        return Budget(self.requests, self.window, ledger=ledger, **{"concurrency": 1000} | options)

    def machine(self, owner: Owner, boot: bytes = BOOT) -> Machine:
        """Return what a process sees of the machine."""
        return Machine(self.now, boot, owner, lambda pid: (pid, 77 if (pid, 77) in self.alive else 0))

    async def request(self, budget: Budget, priority: Priority = FOREGROUND, seconds: float = 0.0) -> None:
        """Make one request that takes so long; the server counts it somewhere in between."""
        async with budget.request(priority):
            await trio.sleep(seconds / 2)
            self.sent.append(trio.current_time())
            await trio.sleep(seconds / 2)

    def most_in_a_window(self) -> int:
        """Return how many requests the server saw in its worst window."""
        window, most = deque[float](), 0
        for at in sorted(self.sent):
            window.append(at)
            while window[0] <= at - self.window:
                window.popleft()
            most = max(most, len(window))
        return most


@pytest.fixture
def world(tmp_path) -> World:
    """Yield a world of twenty requests in ten seconds."""
    return World(tmp_path / "use", 20)


@pytest.mark.parametrize("seed", range(8))
async def test_processes_together_never_exceed_the_limit(tmp_path, autojump_clock, seed):
    """Processes together never exceed the limit, whichever of them dies, though all go on as soon as they may."""
    rng, world = random.Random(seed), World(tmp_path / "use", 60)

    async def live(budget: Budget, scope: trio.CancelScope) -> None:
        with scope:
            for _ in range(150):
                await world.request(budget, rng.choice(tuple(Priority)), rng.choice((0, 0, 0.3, 4)))
                await trio.sleep(rng.choice((0, 0, 0, 0.1, 3)))
            budget.close()

    async def kill(scope: trio.CancelScope, owner: Owner) -> None:
        await trio.sleep(rng.uniform(0, 40))
        world.alive.discard(owner)
        scope.cancel()

    async with trio.open_nursery() as nursery:
        for number in range(1, 6):
            scope = trio.CancelScope()
            nursery.start_soon(live, world.process(), scope)
            if number > 3:
                nursery.start_soon(kill, scope, (number, 77))
    assert len(world.sent) > 400
    assert world.most_in_a_window() <= 60


async def test_a_request_that_takes_long_counts_until_a_window_after_its_end(world, autojump_clock):
    """A long request counts until a window after its end, because the API may count it there."""
    first, second = world.process(), world.process()
    await world.request(first, seconds=4 * LEASE)
    assert second.statistics().used == 1
    await trio.sleep(world.window - 1)
    assert second.statistics().used == 1
    await trio.sleep(3)
    assert second.statistics().used == 0


async def test_a_remount_keeps_the_count(world, autojump_clock):
    """After a remount the next process waits for what the one before it has sent."""
    first = world.process()
    for _ in range(20):
        await world.request(first)
    first.close()
    second, began = world.process(), trio.current_time()
    assert second.statistics().left == 0
    await world.request(second)
    assert world.window <= trio.current_time() - began <= world.window + 2
    assert second.statistics().used == 1


async def test_requests_made_before_their_account_was_known_count(world, autojump_clock):
    """Requests that find the account count for a window, for the process that made them and for the others."""
    first = world.process()
    first.made(2)
    assert first.statistics().used == 2
    first.close()
    second = world.process()
    assert second.statistics().used == 2
    await trio.sleep(world.window + 2)
    assert second.statistics().used == 0


async def test_what_is_not_used_is_free_again(tmp_path, autojump_clock):
    """Tokens that a process took and does not need are free at its end, else after a while."""
    world = World(tmp_path / "use", 200)
    first = world.process()
    await world.request(first)
    second = world.process()
    assert second.statistics().left == 196
    first.close()
    second._share(wants=False)
    assert second.statistics().left == 199
    await world.request(second)
    world.alive.clear()  # killed
    third = world.process()
    assert third.statistics().left == 195
    await trio.sleep(LEASE + 1)
    assert third.statistics().left == 196
    await trio.sleep(world.window + 2)
    assert third.statistics().left == 200


async def test_both_see_what_the_account_has_used(world, autojump_clock):
    """`used` and `left` of both processes are the account's."""
    first, second = world.process(), world.process()
    for _ in range(5):
        await world.request(first)
        await world.request(second)
        await trio.sleep(0.1)
    await trio.sleep(1.1)
    for budget in (first, second):
        assert 10 <= budget.statistics().used <= 18  # the tokens of both, too
    await trio.sleep(LEASE + 2)
    assert 0 <= first.statistics().used <= 10


async def test_a_429_of_one_holds_the_other_up(world, autojump_clock):
    """A 429 of one process holds the other up, because the account has to wait."""
    first, second = world.process(), world.process()
    await world.request(second)
    first.block(7)
    await trio.sleep(1.1)
    assert second.statistics().blocked_until is not None
    began = trio.current_time()
    await world.request(second)
    assert trio.current_time() - began == pytest.approx(5.9)


async def test_headers_of_an_answer_correct_the_count_of_both(world, autojump_clock):
    """Headers of an answer to one process correct the count of the other too, for use by other machines."""
    first, second = world.process(), world.process()
    await world.request(first)
    first.told({"ratelimit": '"default";r=3;t=6', "ratelimit-policy": '"default";q=20;w=10'})
    assert second.statistics().left <= 3
    began = trio.current_time()
    for _ in range(4):
        await world.request(second)
    assert trio.current_time() - began == pytest.approx(6)


async def test_uploads_of_one_leave_the_last_to_the_foreground_of_another(tmp_path, autojump_clock):
    """Uploads of one process leave the last requests to another's foreground: priorities hold between processes."""
    world = World(tmp_path / "use", 100)
    uploads, reads = world.process(), world.process()
    for _ in range(95):
        await world.request(uploads, UPLOAD)
    with trio.CancelScope(deadline=trio.current_time() + 5), pytest.raises(RateLimitedError):
        await world.request(uploads, UPLOAD)
    assert len(world.sent) == 95
    await trio.sleep(1.1)
    with trio.fail_after(4):
        for _ in range(3):
            await world.request(reads)


async def test_who_waits_for_the_others_says_for_how_long(world, autojump_clock):
    """A process that waits for the others says until when their requests leave the window, not until its next look."""
    first, second = world.process(), world.process()
    for _ in range(20):
        await world.request(first)
    await trio.sleep(1.1)
    first._share(wants=False)
    soon = trio.CancelScope(deadline=trio.current_time() + 3)
    with soon, pytest.raises(RateLimitedError, match=r"budget of 20 requests in 10 s is used up") as caught:
        await world.request(second)
    assert 5 < caught.value.retry_after < 8
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.request, second)
        await trio.sleep(0.1)
        assert 4 < second.statistics().next_in < 8


async def test_the_file_is_hardly_touched_while_much_is_left(tmp_path, autojump_clock, monkeypatch):
    """While much is left the file is touched once for some sixteen requests."""
    world, looks = World(tmp_path / "use", 2_000), []
    budget = world.process()
    read = Ledger._read
    monkeypatch.setattr(Ledger, "_read", lambda self: (looks.append(1), read(self))[1])
    for _ in range(800):
        await world.request(budget)
    assert len(looks) <= 800 // 16 + 5


@pytest.mark.parametrize(
    ("damage", "used"),
    [
        (lambda data: b"", 0),
        (lambda data: data[:-1], 10),
        (lambda data: data + b"\0", 10),
        (lambda data: data[:500] + b"\xff" + data[501:], 10),
        (lambda data: bytes(len(data)), 10),
        (lambda data: random.Random(1).randbytes(len(data)), 10),
    ],
)
async def test_a_damaged_file_begins_anew_as_half_used_up(world, autojump_clock, damage, used):
    """A damaged file begins anew as half used up, because nobody knows its count, and stops nothing."""
    first = world.process()
    await world.request(first)
    first.close()
    world.path.write_bytes(damage(world.path.read_bytes()))
    second = world.process()
    assert second.statistics().used == used
    await world.request(second)
    await trio.sleep(2 * (LEASE + world.window))
    assert second.statistics().used == 0


async def test_a_start_of_the_machine_begins_anew(world, autojump_clock):
    """A start of the machine begins anew: as half used up right after use, as unused when it was long ago."""
    first = world.process()
    await world.request(first)
    ledger = partial(Ledger, world.path, 20, 10.0, lambda: world.machine((9, 9), b"another start..."))
    assert Budget(20, 10.0, ledger=ledger()).statistics().used == 10
    first = world.process()
    await world.request(first)
    os.utime(world.path, (1e9, 1e9))
    assert Budget(20, 10.0, ledger=ledger()).statistics().used == 0


async def test_a_process_that_is_stopped_with_the_lock_stops_nobody(world, autojump_clock):
    """While a process is stopped with the lock, the others count for themselves."""
    budget = world.process()
    with world.path.open("rb") as held:  # a lock is of an opened file, not of a process
        fcntl.flock(held, fcntl.LOCK_EX)
        for _ in range(5):
            await world.request(budget)
        assert budget.statistics().used == 5
    await trio.sleep(1.1)
    budget._share(wants=False)
    assert world.process().statistics().used >= 5


async def test_a_file_that_cannot_be_made_leaves_each_to_itself(tmp_path, autojump_clock, expect_log):
    """If the file cannot be made each process counts for itself, with one warning."""
    expect_log("requests are not counted together")
    world = World(tmp_path / "missing" / "use", 20)
    first, second = world.process(), world.process()
    for _ in range(20):
        await world.request(first)
        await world.request(second)
    assert first.statistics().left == 0
    first.close()


async def test_a_request_that_was_given_up_costs_nothing(world, autojump_clock):
    """A cancelled caller gives its token back."""
    budget = world.process(concurrency=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.request, budget, FOREGROUND, 1.0)
        await trio.sleep(0.1)
        with trio.move_on_after(0.2):
            await world.request(budget)
    budget._share(wants=False)
    assert budget.statistics().used == 1


async def test_more_processes_than_the_file_has_room_for_go_on(tmp_path, autojump_clock):
    """Processes beyond the room of the file go on, and are counted when they have sent."""
    world = World(tmp_path / "use", 500)
    for budget in [world.process() for _ in range(80)]:
        await world.request(budget)
    assert len(world.sent) == 80


def test_a_process_is_told_from_another_of_its_number():
    """A process is told by its start from another of its number; a number without a process has none."""
    mine = process()
    assert mine[0] == os.getpid()
    assert process(mine[0]) == mine
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert process(ended.pid) == (ended.pid, 0)


def test_the_file_is_private(tmp_path):
    """The file is private, because it says when this user works."""
    Ledger(tmp_path / "use", 20, 10.0).renew(0, wants=True)
    assert (tmp_path / "use").stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_damaged_and_removed_stops_nobody(world, autojump_clock):
    """If the file is damaged and removed while in use, requests go on, counted as far as possible."""
    budget = world.process()
    await world.request(budget)
    world.path.write_bytes(b"damaged")
    world.path.unlink()
    await trio.sleep(2)
    await world.request(budget)
    assert budget.statistics().used >= 2


async def test_a_file_that_cannot_be_read_leaves_the_process_to_itself(tmp_path, autojump_clock, expect_log):
    """A file that cannot be read leaves the process to itself with a warning, and fails no request."""
    expect_log("requests are not counted together")
    os.mkfifo(tmp_path / "use")  # it opens, and no place of it can be read
    world = World(tmp_path / "use", 20)
    budget = world.process()
    await world.request(budget)
    assert budget.statistics().used == 1
    budget.close()


async def test_what_another_gives_back_is_used_at_once(tmp_path, autojump_clock):
    """A waiting process looks every second, so it soon uses what another gives back, with its own share used up."""
    world = World(tmp_path / "use", 500)
    first, second = world.process(), world.process()
    await world.request(first)  # takes more tokens than one
    for _ in range(484):
        await world.request(second)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.request, second)
        await trio.sleep(0.5)
        first.close()
    assert trio.current_time() - began < 3
    assert world.most_in_a_window() <= 500
