"""`send_now`: fsync means on the server, callers at one moment share a request, and the errno says why it failed."""

import random

import pytest
import trio
from support.journals import START, delete, put, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import (
    DeniedError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    TimedOutError,
    UnavailableError,
)
from kvfs.core.model import Entry, Key
from kvfs.journal.writer import Move
from kvfs.sender.events import OnConflict


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
def fsync(setting):
    """`send_now` for keys of the namespace, by one sender."""
    sender = setting.sender()

    async def fsync(*names, timeout=60):
        await sender.send_now({(setting.namespace, Key(name)) for name in names}, timeout)

    fsync.sender = sender
    return fsync


async def test_it_returns_when_the_store_has_it(autojump_clock, setting, write, fsync):
    """fsync returns when the store has the change, and sends nothing else."""
    write("a")
    write("b")
    await fsync("a")
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"value")}
    assert trio.current_time() < 0.1


async def test_a_hundred_at_once_cost_one_request(autojump_clock, setting, write, fsync):
    """A hundred callers cost one request, and those that come while it is under way share the next."""
    for number in range(200):
        write(f"k{number}")
    gate = setting.store.block("bulk_put", on=1)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(fsync, f"k{number}")
        await gate.entered.wait()
        for number in range(100, 200):
            nursery.start_soon(fsync, f"k{number}")
        await trio.sleep(1)
        gate.open()
    assert [len(call.keys) for call in setting.store.calls] == [100, 100]


async def test_what_the_store_has_costs_no_request(autojump_clock, setting, write, fsync):
    """A key that is settling, unknown here, or local costs no request."""
    write("a")
    write(".l", local=True)
    await fsync("a")
    await fsync("a", "unknown", ".l")
    assert setting.store.count() == 1


async def test_a_newer_change_counts_as_well(autojump_clock, setting, write, fsync):
    """If the change was replaced before it left, the newer one on the server counts as well."""
    write("a", b"old")
    write("other")
    gate = setting.store.block("bulk_put", on=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fsync, "other")
        await gate.entered.wait()
        nursery.start_soon(fsync, "a")
        await trio.sleep(1)
        write("a", b"new")
        gate.open()
    assert (await stored(setting.backend, setting.namespace))["a"] == Entry(b"new")


async def test_a_rewrite_in_flight_does_not_keep_it_waiting(autojump_clock, setting, write, fsync):
    """fsync returns when its change has arrived, and does not wait for a later rewrite in flight."""
    write("a", b"asked")
    setting.store.before("bulk_put", lambda call: write("a", b"later"), times=1)
    await fsync("a")
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"asked")}
    assert setting.journal.pending_count == 1


async def test_a_file_removed_meanwhile_is_done(autojump_clock, setting, write, fsync):
    """An fsync of a file that was removed meanwhile is done, because nothing of it has to reach the store."""
    write("a")
    write("other")
    gate = setting.store.block("bulk_put", on=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fsync, "other")
        await gate.entered.wait()
        nursery.start_soon(fsync, "a")
        await trio.sleep(1)
        assert delete(setting.journal, "a", namespace=setting.namespace) is None
        gate.open()
    assert list(await stored(setting.backend, setting.namespace)) == ["other"]


async def test_a_deletion_whose_new_name_was_written_again(autojump_clock, setting, write, fsync):
    """A deletion takes along the put it waits for, also if that was written after it."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"x"))
    move = Move(Key("old"), Key("new"), None, None, body=setting.journal.stage(b"x"), base_old=digest(b"x"))
    setting.journal.move(setting.namespace, [move])
    write("new", b"y")
    await fsync("old", timeout=5)
    assert await stored(setting.backend, setting.namespace) == {"new": Entry(b"y")}


async def test_a_burst_for_one_key_has_it_on_its_way_once(autojump_clock, setting, write, fsync):
    """Any number of callers for one key have it on its way once, because two bodies could land in either order."""
    under_way, most = 0, 0

    def begin(call):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)

    def end(call):
        nonlocal under_way
        under_way -= 1

    setting.store.before("bulk_put", begin)
    setting.store.delay("bulk_put", 0.2)
    setting.store.after("bulk_put", end)

    async def save(number):
        await trio.sleep(number * 0.05)
        write("a", b"%d" % number)
        await fsync("a")

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(save, number)
    assert most == 1
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"99")}


async def test_a_key_the_store_wants_again_is_backed_off_from_alone(autojump_clock, setting, write, fsync):
    """Callers of a key that the store wants again wait a second and more, and those of another key do not."""
    setting.store.torn("bulk_put", leave=lambda key: key == "a", when=lambda call: "a" in call.keys, times=2)
    write("a")
    took = {}

    async def save(name):
        started = trio.current_time()
        await fsync(name)
        took[name] = trio.current_time() - started

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save, "a")
        for number in range(20):
            await trio.sleep(0.1)
            write(f"b{number}")
            await save(f"b{number}")
    assert 3 <= took.pop("a") < 4
    assert max(took.values()) < 0.1


async def test_a_429_for_one_key_is_backed_off_from_alone(autojump_clock, setting, write, fsync):
    """After a 429 for one key other keys go on, and the loop does not back off."""
    refused = RateLimitedError("one write a second", status=429, retry_after=1.0)
    setting.store.fail("bulk_put", refused, when=lambda call: call.keys == ("a",), times=2)
    write("a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fsync, "a")
        await trio.sleep(0.2)
        write("b")
        started = trio.current_time()
        await fsync("b")
        assert trio.current_time() - started < 0.1
        assert fsync.sender.statistics().retry_at is None
    assert 3 <= trio.current_time() < 4


async def test_it_waits_out_a_short_trouble(autojump_clock, setting, write, fsync):
    """fsync waits out a short trouble within its bound."""
    write("a")
    setting.store.fail("bulk_put", times=2)
    await fsync("a")
    assert list(await stored(setting.backend, setting.namespace)) == ["a"]


@pytest.mark.parametrize(
    ("planted", "raised"),
    [
        (UnavailableError("503"), UnavailableError),
        (DeniedError("403"), DeniedError),
        (QuotaError("10048"), QuotaError),
        (RejectedError("400"), RejectedError),
    ],
)
async def test_it_tells_why_not_within_its_bound(autojump_clock, setting, write, fsync, planted, raised):
    """At its bound fsync raises the reason, and the change stays in the journal."""
    write("a", b"kept")
    setting.store.fail("*", planted)
    started = trio.current_time()
    with pytest.raises(raised, match=str(planted)):
        await fsync("a", timeout=20)
    assert trio.current_time() - started <= 20
    assert setting.journal.value(setting.journal.get(setting.namespace, Key("a"))) == b"kept"


async def test_no_answer_at_all_is_a_time_out(autojump_clock, setting, write, fsync):
    """A request that is accepted and never answered is a time-out."""
    write("a")
    setting.store.block("*")
    with pytest.raises(TimedOutError, match="20 s"):
        await fsync("a", timeout=20)
    assert trio.current_time() == pytest.approx(20)
    assert setting.journal.pending_count == 1


async def test_what_was_refused_before_is_said_again(autojump_clock, setting, write, fsync):
    """A refusal is repeated to later callers without asking the store again."""
    setting.journal.reject(write("a"), "metadata must be valid json")
    with pytest.raises(RejectedError, match="valid json"):
        await fsync("a")
    assert setting.operations() == []


async def test_many_callers_in_an_outage_do_not_hammer(autojump_clock, setting, write, fsync):
    """Many callers in an outage share the attempts, and try more rarely the longer it lasts."""
    setting.store.fail("*")

    async def fails(name):
        with pytest.raises(UnavailableError):
            await fsync(name, timeout=30)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            write(f"k{number}")
            nursery.start_soon(fails, f"k{number}")
    assert setting.store.count() < 15


async def test_a_third_of_all_requests_failing_keeps_no_caller_from_success(
    autojump_clock, setting, write, fsync, nursery
):
    """With a third of all requests failing an fsync tries again within its bound, whatever the back-off of the loop."""
    rng = random.Random(1)
    setting.store.delay("*", 0.05)
    setting.store.fail("*", when=lambda call: rng.random() < 0.3)
    sender = setting.sender(delay=0.5)
    nursery.start_soon(sender.run)
    failed = []

    async def save(worker):
        for number in range(40):
            await trio.sleep(rng.random())
            write(f"{worker}/other{number}", base=b"read")  # asks for what the store has before it is sent
            name = f"{worker}/{number}"
            write(name, base=b"read")
            try:
                await sender.send_now([(setting.namespace, Key(name))], 10)
            except (UnavailableError, TimedOutError):
                failed.append(name)

    async with trio.open_nursery() as workers:
        for worker in range(5):
            workers.start_soon(save, worker)
    assert len(failed) <= 3, failed


@pytest.mark.parametrize("asked", [0.05, 4.0])
async def test_a_short_wait_the_server_asks_for_is_no_back_off(autojump_clock, setting, write, fsync, asked):
    """A short wait that the server asks for is waited out exactly, and is no back-off."""
    setting.store.fail("bulk_put", RateLimitedError("429", retry_after=asked), times=1)
    write("a")
    await fsync.sender.send_once()
    started = trio.current_time()
    write("b")
    await fsync("b", timeout=10)
    assert asked <= trio.current_time() - started < asked + 0.2


async def test_a_first_try_does_not_wait_for_the_back_off(autojump_clock, setting, write, fsync):
    """A first try does not wait for the back-off, because somebody waits and the store may be back."""
    write("a")
    setting.store.fail("*", times=6)
    with trio.move_on_after(20):
        await fsync.sender.drain()
    setting.store.clear()
    write("b")
    started = trio.current_time()
    await fsync("b")
    assert trio.current_time() - started < 0.1


@pytest.mark.parametrize(
    ("planted", "raised"),
    [(RateLimitedError("429", retry_after=300.0), UnavailableError), (QuotaError("q"), QuotaError)],
)
async def test_but_it_does_wait_when_the_server_said_so(
    autojump_clock, setting, write, fsync, planted, raised
):
    """Retry-After and a used-up quota hold for every fsync."""
    write("a")
    setting.store.fail("*", planted, times=1)
    with pytest.raises(raised):
        await fsync("a", timeout=10)
    write("b")
    with pytest.raises(raised):
        await fsync("b", timeout=10)
    assert setting.store.count() == 1


async def test_the_same_file_again_within_a_second_does_not_wait(autojump_clock, setting, write, fsync):
    """A second fsync within a second does not wait, because REST does not limit a key to one write a second."""
    for number in range(30):
        write("a", str(number).encode())
        await fsync("a")
    assert trio.current_time() < 0.1
    assert setting.store.count("bulk_put") == 30


async def test_a_deletion_takes_what_has_to_precede_it_along(autojump_clock, setting, write, fsync):
    """After `mv a b` an fsync of the directory puts b before it deletes a."""
    journal, namespace = setting.journal, setting.namespace
    await setting.backend.put(namespace, Key("a"), Entry(b"x"))
    journal.move(namespace, [Move(Key("a"), Key("b"), None, None, body=journal.stage(b"x"), base_new=b"")])
    write("later")
    await fsync("a")
    assert setting.operations() == ["bulk_put", "bulk_delete"]
    assert list(await stored(setting.backend, namespace)) == ["b"]


async def test_a_deletion_held_back_by_a_refused_put_says_so(autojump_clock, setting, fsync):
    """A deletion held back by a refused put raises the reason, because it is not sent until the user decides."""
    journal, namespace = setting.journal, setting.namespace
    journal.move(namespace, [Move(Key("a"), Key("b"), b"bad", None, body=journal.stage(b"x"), base_new=b"")])
    with pytest.raises(RejectedError, match="'b'"):
        await fsync("a")


async def test_it_goes_past_the_loops_waiting(autojump_clock, setting, write, fsync, nursery):
    """fsync goes past the loop's waiting; the loop sends the rest later, and nothing twice."""
    nursery.start_soon(fsync.sender.run)
    write("a")
    write("b")
    await trio.sleep(1)
    await fsync("a")
    await trio.sleep(10)
    assert [set(call.keys) for call in setting.store.calls] == [{"a"}, {"b"}]


async def test_a_deletion_freed_by_it_is_sent_by_the_loop(autojump_clock, setting, fsync, nursery):
    """The arrival of a put by fsync wakes the loop, which sends the deletion that it freed."""
    journal, namespace = setting.journal, setting.namespace
    journal.move(namespace, [Move(Key("a"), Key("b"), b"bad", None, body=journal.stage(b"x"), base_new=b"")])
    nursery.start_soon(fsync.sender.run)
    await trio.sleep(20)
    journal.amend(namespace, Key("b"), metadata=None)
    await fsync("b")
    await trio.sleep(6)
    assert setting.journal.pending() == []


async def test_a_caller_that_gives_up_leaves_nothing_behind(autojump_clock, setting, write, fsync):
    """A caller that gives up leaves neither a request that waits nor a lock."""
    write("a")
    gate = setting.store.block("bulk_put", on=1)
    with trio.move_on_after(5):
        await fsync("a")
    gate.open()
    await fsync("a")
    assert fsync.sender._fsyncs.waiting == []
    assert list(await stored(setting.backend, setting.namespace)) == ["a"]


async def test_a_conflict_is_on_the_server_under_both_names(autojump_clock, setting, write):
    """fsync of a conflict returns when both names are on the server."""
    await setting.backend.put(setting.namespace, Key("a"), Entry(b"theirs"))
    write("a", b"mine", base=digest(b"read"))
    await setting.sender(on_conflict=OnConflict.KEEP_BOTH).send_now({(setting.namespace, Key("a"))}, 60)
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"mine", b"theirs"]


async def test_an_expired_change_is_done(autojump_clock, setting, write, fsync):
    """An fsync of an expired change is done, because nothing is left to send."""
    write("a", expiration=int(START) + 61)
    await trio.sleep(61)
    assert simulated_now() >= START + 61
    await fsync("a")
    assert setting.operations() == []


async def test_an_fsync_that_finds_the_store_back_sends_the_rest_soon(autojump_clock, setting, write, fsync):
    """An fsync that finds the store back wakes the loop from its back-off, also when it took several requests."""
    other = await setting.backend.create_namespace("other")
    setting.store.fail("bulk_put", UnavailableError("away"))
    write("rest")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fsync.sender.run)
        await trio.sleep(200)
        tries = setting.store.count()
        while setting.store.count() == tries:  # noqa: ASYNC110  the next try is a minute away then
            await trio.sleep(0.5)
        setting.store.clear()
        write("a")
        put(setting.journal, "b", b"value", namespace=other.id)
        await fsync.sender.send_now({(setting.namespace, Key("a")), (other.id, Key("b"))}, 60)
        await trio.sleep(20)
        assert "rest" in await stored(setting.backend, setting.namespace)
        nursery.cancel_scope.cancel()
