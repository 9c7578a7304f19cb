"""`send_now`: fsync means on the server, callers of a moment share a request, and the errno tells why not."""

import random

import pytest
import trio
from support.journals import START, delete, put, simulated_now, stored

from kvfs.core.errors import (
    DeniedError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    TimedOutError,
    UnavailableError,
)
from kvfs.core.model import Entry, Key
from kvfs.journal.journal import Move, digest
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
    """At once, and only what was asked for."""
    write("a")
    write("b")
    await fsync("a")
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"value")}
    assert trio.current_time() < 0.1


async def test_a_hundred_at_once_cost_one_request(autojump_clock, setting, write, fsync):
    """Those who come while it is under way share the next."""
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
    """A key that is settling, unknown here, or local."""
    write("a")
    write(".l", local=True)
    await fsync("a")
    await fsync("a", "unknown", ".l")
    assert setting.store.count() == 1


async def test_a_newer_change_counts_as_well(autojump_clock, setting, write, fsync):
    """What was asked for was replaced before it left: the newer is on the server."""
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
    """What was asked for has arrived; what came after was not asked for."""
    write("a", b"asked")
    setting.store.before("bulk_put", lambda call: write("a", b"later"), times=1)
    await fsync("a")
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"asked")}
    assert setting.journal.pending_count == 1


async def test_a_file_removed_meanwhile_is_done(autojump_clock, setting, write, fsync):
    """Nothing of it has to reach the store any more."""
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
    """What it waits for came after it, and goes along."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"x"))
    move = Move(Key("old"), Key("new"), None, None, body=setting.journal.stage(b"x"), base_old=digest(b"x"))
    setting.journal.move(setting.namespace, [move])
    write("new", b"y")
    await fsync("old", timeout=5)
    assert await stored(setting.backend, setting.namespace) == {"new": Entry(b"y")}


async def test_a_burst_for_one_key_has_it_on_its_way_once(autojump_clock, setting, write, fsync):
    """However many ask, at once or one after the other: two bodies with the key may land in either order."""
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
    """Its callers wait a second and more; whoever waits for another key does not."""
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
    """Other keys go on, and the loop does not back off."""
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
    """Within its bound."""
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
    """The change stays in the journal all the same."""
    write("a", b"kept")
    setting.store.fail("*", planted)
    started = trio.current_time()
    with pytest.raises(raised, match=str(planted)):
        await fsync("a", timeout=20)
    assert trio.current_time() - started <= 20
    assert setting.journal.value(setting.journal.get(setting.namespace, Key("a"))) == b"kept"


async def test_no_answer_at_all_is_a_time_out(autojump_clock, setting, write, fsync):
    """Accepted and never answered."""
    write("a")
    setting.store.block("*")
    with pytest.raises(TimedOutError, match="20 s"):
        await fsync("a", timeout=20)
    assert trio.current_time() == pytest.approx(20)
    assert setting.journal.pending_count == 1


async def test_what_was_refused_before_is_said_again(autojump_clock, setting, write, fsync):
    """Without asking the store again."""
    setting.journal.reject(write("a"), "metadata must be valid json")
    with pytest.raises(RejectedError, match="valid json"):
        await fsync("a")
    assert setting.operations() == []


async def test_many_callers_in_an_outage_do_not_hammer(autojump_clock, setting, write, fsync):
    """They share the attempts as they share the success, and try more rarely the longer it lasts."""
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
    """An fsync tries again within its bound, not when the loop, which fails for its own changes, may."""
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
    """It is waited out, and not more than that."""
    setting.store.fail("bulk_put", RateLimitedError("429", retry_after=asked), times=1)
    write("a")
    await fsync.sender.send_once()
    started = trio.current_time()
    write("b")
    await fsync("b", timeout=10)
    assert asked <= trio.current_time() - started < asked + 0.2


async def test_a_first_try_does_not_wait_for_the_back_off(autojump_clock, setting, write, fsync):
    """The store may be back: somebody is waiting."""
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
    """Retry-After and a used-up quota hold for everybody."""
    write("a")
    setting.store.fail("*", planted, times=1)
    with pytest.raises(raised):
        await fsync("a", timeout=10)
    write("b")
    with pytest.raises(raised):
        await fsync("b", timeout=10)
    assert setting.store.count() == 1


async def test_the_same_file_again_within_a_second_does_not_wait(autojump_clock, setting, write, fsync):
    """REST has no limit of one write a second to a key."""
    for number in range(30):
        write("a", str(number).encode())
        await fsync("a")
    assert trio.current_time() < 0.1
    assert setting.store.count("bulk_put") == 30


async def test_a_deletion_takes_what_has_to_precede_it_along(autojump_clock, setting, write, fsync):
    """`mv a b` and an fsync of the directory: b is there before a is not."""
    journal, namespace = setting.journal, setting.namespace
    await setting.backend.put(namespace, Key("a"), Entry(b"x"))
    journal.move(namespace, [Move(Key("a"), Key("b"), None, None, body=journal.stage(b"x"), base_new=b"")])
    write("later")
    await fsync("a")
    assert setting.operations() == ["bulk_put", "bulk_delete"]
    assert list(await stored(setting.backend, namespace)) == ["b"]


async def test_a_deletion_held_back_by_a_refused_put_says_so(autojump_clock, setting, fsync):
    """It will not be sent until the user decides."""
    journal, namespace = setting.journal, setting.namespace
    journal.move(namespace, [Move(Key("a"), Key("b"), b"bad", None, body=journal.stage(b"x"), base_new=b"")])
    with pytest.raises(RejectedError, match="'b'"):
        await fsync("a")


async def test_it_goes_past_the_loops_waiting(autojump_clock, setting, write, fsync, nursery):
    """The loop sends the rest when its time has come, and what was sent is not sent twice."""
    nursery.start_soon(fsync.sender.run)
    write("a")
    write("b")
    await trio.sleep(1)
    await fsync("a")
    await trio.sleep(10)
    assert [set(call.keys) for call in setting.store.calls] == [{"a"}, {"b"}]


async def test_a_deletion_freed_by_it_is_sent_by_the_loop(autojump_clock, setting, fsync, nursery):
    """The loop had found nothing to send: the arrival of the put wakes it."""
    journal, namespace = setting.journal, setting.namespace
    journal.move(namespace, [Move(Key("a"), Key("b"), b"bad", None, body=journal.stage(b"x"), base_new=b"")])
    nursery.start_soon(fsync.sender.run)
    await trio.sleep(20)
    journal.amend(namespace, Key("b"), metadata=None)
    await fsync("b")
    await trio.sleep(6)
    assert setting.journal.pending() == []


async def test_a_caller_that_gives_up_leaves_nothing_behind(autojump_clock, setting, write, fsync):
    """Neither a request that waits nor a lock."""
    write("a")
    gate = setting.store.block("bulk_put", on=1)
    with trio.move_on_after(5):
        await fsync("a")
    gate.open()
    await fsync("a")
    assert fsync.sender._fsyncs.waiting == []
    assert list(await stored(setting.backend, setting.namespace)) == ["a"]


async def test_a_conflict_is_on_the_server_under_both_names(autojump_clock, setting, write):
    """What the caller wrote has arrived, if not under the name it had."""
    await setting.backend.put(setting.namespace, Key("a"), Entry(b"theirs"))
    write("a", b"mine", base=digest(b"read"))
    await setting.sender(on_conflict=OnConflict.KEEP_BOTH).send_now({(setting.namespace, Key("a"))}, 60)
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"mine", b"theirs"]


async def test_an_expired_change_is_done(autojump_clock, setting, write, fsync):
    """There is nothing left to be on the server."""
    write("a", expiration=int(START) + 61)
    await trio.sleep(61)
    assert simulated_now() >= START + 61
    await fsync("a")
    assert setting.operations() == []


async def test_an_fsync_that_finds_the_store_back_sends_the_rest_soon(autojump_clock, setting, write, fsync):
    """The loop does not sleep on to the end of its back-off, also when the fsync took several requests."""
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
