"""The sender's loop: when and how pending changes are sent, in which bodies and order, without an overlap."""

import pytest
import trio
from support.journals import START, delete, keys, open_journal, put, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import UnavailableError
from kvfs.core.model import ChangeState, Entry, Key
from kvfs.journal.writer import Move
from kvfs.sender.events import EventKind, SenderOptions, SenderState
from kvfs.sender.sender import Sender


@pytest.fixture
def write(setting):
    """Record a put in the namespace of the setting."""

    def write(key, value=b"value", **options):
        return put(setting.journal, key, value, namespace=setting.namespace, **options)

    return write


@pytest.fixture
async def running(setting, nursery):
    """Start a sender's loop; it ends with the test."""

    def start(**options):
        sender = setting.sender(**options)
        nursery.start_soon(sender.run)
        return sender

    return start


async def test_a_change_is_sent_a_quiet_while_after_the_last(autojump_clock, setting, write, running):
    """A change is sent a quiet while after the last one, with all that came meanwhile in one request."""
    running(delay=5)
    for number in range(4):
        write(f"k{number}")
        await trio.sleep(4)
    await trio.sleep(0.9)
    assert setting.operations() == []
    await trio.sleep(0.2)
    assert setting.operations() == ["bulk_put"]
    assert sorted(await stored(setting.backend, setting.namespace)) == ["k0", "k1", "k2", "k3"]


async def test_a_key_rewritten_for_ever_is_sent_at_an_age(autojump_clock, setting, write, running):
    """A key rewritten for ever is sent at an age, so a log that grows every second reaches the store."""
    running(delay=5, max_age=30)
    for number in range(65):
        write("log", str(number).encode())
        await trio.sleep(1)
    assert setting.store.count("bulk_put") == 2


async def test_a_full_body_does_not_wait(autojump_clock, setting, write, running):
    """A body that is full by the number of pairs does not wait."""
    running(delay=5, pairs=10)
    for number in range(10):
        write(f"k{number}")
    await trio.sleep(0.01)
    assert setting.operations() == ["bulk_put"]


async def test_a_body_full_by_bytes_does_not_wait(autojump_clock, setting, write, running):
    """A body that is full by the size of the values does not wait."""
    running(delay=5, body_bytes=100_000)
    write("a", b"x" * 60_000)
    await trio.sleep(1)
    write("b", b"x" * 60_000)
    await trio.sleep(0.01)
    assert setting.store.count() == 2
    assert setting.journal.pending() == []


async def test_changes_of_the_last_run_are_sent_without_a_new_one(autojump_clock, setting, tmp_path, running):
    """Changes pending at the start are sent without a new one."""
    setting.journal.close()
    with open_journal(tmp_path / "journal.db") as journal:
        put(journal, "a", b"old run", namespace=setting.namespace)
    setting.journal = open_journal(tmp_path / "journal.db", now=simulated_now)
    running()
    await trio.sleep(0.1)
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"old run")}


async def test_a_clock_that_jumps_back_does_not_stop_the_sending(autojump_clock, setting, write):
    """A clock that jumps back does not stop the sending: the wall clock is believed within the options' bounds."""
    offset = 0.0
    options = SenderOptions(on_conflict=setting.on_conflict)
    sender = Sender(setting.journal, setting.store, now=lambda: simulated_now() + offset, options=options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        write("a")
        offset = -1e6
        await trio.sleep(5.1)
        assert setting.operations() == ["bulk_put"]
        await trio.sleep(200)
        assert setting.journal.totals.settling_count == 0
        nursery.cancel_scope.cancel()


async def test_metadata_and_expiration_go_with_every_put(autojump_clock, setting, write):
    """Metadata and expiration go with every put, because a plain PUT would clear both."""
    write("a", metadata=b'{"x":1}', expiration=int(START) + 3600)
    await setting.sender().send_once()
    assert await stored(setting.backend, setting.namespace) == {
        "a": Entry(b"value", b'{"x":1}', int(START) + 3600)
    }


async def test_nothing_pending_asks_nothing(autojump_clock, setting):
    """An idle mount costs no request."""
    assert await setting.sender().send_once() == 0
    assert setting.operations() == []


async def test_a_change_while_its_key_is_in_flight_is_not_lost(autojump_clock, setting, write):
    """A change while its key is in flight stays pending and is sent after it."""
    write("a", b"old")
    setting.store.before("bulk_put", lambda call: write("a", b"new"), on=1)
    sender = setting.sender()
    await sender.send_once()
    assert [setting.journal.value(c) for c in setting.journal.pending()] == [b"new"]
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"new")}


async def test_a_key_may_be_written_again_at_once(autojump_clock, setting, write):
    """A key may be written again at once, because REST has no limit of one write a second to a key."""
    sender = setting.sender()
    for number in range(3):
        write("a", str(number).encode())
        await sender.drain()
    assert setting.store.count("bulk_put") == 3
    assert trio.current_time() < 0.1


async def test_puts_before_deletes(autojump_clock, setting, write):
    """In one round deletions go only when every earlier put has arrived."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"1"))
    write("new")
    delete(setting.journal, "old", namespace=setting.namespace)
    await setting.sender().send_once()
    assert setting.operations() == ["bulk_put", "bulk_delete"]
    assert list(await stored(setting.backend, setting.namespace)) == ["new"]


async def test_a_failed_put_holds_the_deletes_after_it(autojump_clock, setting, write):
    """After a failed put the deletions after it wait, so a crash or an outage leaves both names, never neither."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"1"))
    setting.store.fail("bulk_put", times=1)
    write("new")
    delete(setting.journal, "old", namespace=setting.namespace)
    sender = setting.sender()
    await sender.send_once()
    assert setting.operations() == ["bulk_put"]
    assert list(await stored(setting.backend, setting.namespace)) == ["old"]
    await sender.drain()
    assert list(await stored(setting.backend, setting.namespace)) == ["new"]


async def test_a_put_that_may_not_go_yet_holds_the_deletes_after_it(autojump_clock, setting, write):
    """After `cp a b; rm a`, where the store wants b again, a stays until b has its content."""
    await setting.backend.put(setting.namespace, Key("a"), Entry(b"1"))
    setting.store.torn("bulk_put", leave=lambda key: key == "b", times=1)
    sender = setting.sender()
    write("b", b"1")
    delete(setting.journal, "a", namespace=setting.namespace)
    await sender.send_once()
    await sender.send_once()
    assert list(await stored(setting.backend, setting.namespace)) == ["a"]
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {"b": Entry(b"1")}


async def test_a_change_made_while_sending_is_sent_in_its_turn(autojump_clock, setting, write, running):
    """A change made during sending is found by the loop without another change to wake it."""
    setting.store.before("bulk_put", lambda call: write("late"), on=1)
    running()
    write("early")
    await trio.sleep(5.1)
    assert list(await stored(setting.backend, setting.namespace)) == ["early"]
    await trio.sleep(5)
    assert list(await stored(setting.backend, setting.namespace)) == ["early", "late"]


async def test_a_delete_before_a_put_does_not_wait_for_it(autojump_clock, setting, write):
    """A deletion does not wait for a put recorded after it, because it depends on earlier ones only."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"1"))
    delete(setting.journal, "old", namespace=setting.namespace)
    write("new")
    setting.store.torn("bulk_put", leave=lambda key: True)
    sender = setting.sender()
    await sender.send_once()
    setting.store.clear()
    await sender.drain()
    assert list(await stored(setting.backend, setting.namespace)) == ["new"]


async def test_a_refused_put_keeps_the_old_name_of_a_rename(autojump_clock, setting):
    """A refused put is set aside, and the old name of its rename stays on the server until the user decides."""
    namespace, journal = setting.namespace, setting.journal
    await setting.backend.put(namespace, Key("a"), Entry(b"text"))
    body = journal.stage(b"text")
    journal.move(
        namespace,
        [Move(Key("a"), Key("b"), b"not json", None, body=body, base_old=digest(b"text"), base_new=b"")],
    )
    result = await setting.sender().drain()
    assert (result.sent, result.left, result.rejected) == (0, 2, 1)
    assert list(await stored(setting.backend, namespace)) == ["a"]

    journal.amend(namespace, Key("b"), metadata=b'"json"')
    await setting.sender().drain()
    assert await stored(setting.backend, namespace) == {"b": Entry(b"text", b'"json"')}


async def test_a_new_name_written_all_the_time_does_not_keep_the_old_one(
    autojump_clock, setting, write, running
):
    """The old name goes after any version of the new name has landed, even one that was replaced on its way."""
    namespace, journal = setting.namespace, setting.journal
    await setting.backend.put(namespace, Key("old"), Entry(b"text"))
    move = Move(Key("old"), Key("log"), None, None, body=journal.stage(b"text"), base_old=digest(b"text"))
    journal.move(namespace, [move])
    setting.store.delay("bulk_put", 0.5)
    sender = running(delay=1, max_age=2)
    for number in range(100):
        await trio.sleep(0.2)
        write("log", b"text%d" % number)
    await sender.drain()
    assert sorted(await stored(setting.backend, namespace)) == ["log"]
    deleted = [number for number, call in enumerate(setting.store.calls) if call.operation == "bulk_delete"]
    assert deleted[0] < 4, setting.operations()


async def test_the_old_name_waits_for_where_its_content_went(autojump_clock, setting):
    """After a → b → c, with b replaced on its way and never sent again, a stays until c is there."""
    namespace, journal = setting.namespace, setting.journal
    await setting.backend.put(namespace, Key("a"), Entry(b"text"))
    names = [Key(name) for name in "abcd"]
    seen = []

    async def look(call):
        seen.append(sorted(await stored(setting.backend, namespace)))

    setting.store.after("*", look)
    setting.store.fail("bulk_put", times=1)
    sender = setting.sender()
    body = journal.stage(b"text")
    journal.move(namespace, [Move(names[0], names[1], None, None, body=body, base_old=digest(b"text"))])
    await sender.send_once()
    journal.move(namespace, [Move(names[1], names[2], None, None)])
    setting.store.before(
        "bulk_put", lambda call: journal.move(namespace, [Move(names[2], names[3], None, None)]), times=1
    )
    await sender.drain()
    await sender.drain()
    assert await stored(setting.backend, namespace) == {"d": Entry(b"text")}
    assert all(seen), seen


async def test_a_put_that_never_gets_through_does_not_hold_every_deletion(
    autojump_clock, setting, write, running
):
    """Deletions that do not depend on a put that never gets through wait for the age of the oldest change, and go."""
    for number in range(20):
        await setting.backend.put(setting.namespace, Key(f"old{number}"), Entry(b"1"))
    setting.store.fail("put")
    running(delay=1, max_age=10, body_bytes=100_000)
    write("large", b"x" * 100_000)
    for number in range(20):
        delete(setting.journal, f"old{number}", namespace=setting.namespace)
    await trio.sleep(9)
    assert "old1" in await stored(setting.backend, setting.namespace)
    for number in range(60):
        write(f"new{number}")
        await trio.sleep(1)
    assert not [key for key in await stored(setting.backend, setting.namespace) if key.startswith("old")]
    assert setting.journal.get(setting.namespace, Key("large")).state is ChangeState.PENDING


async def test_only_held_back_changes_do_not_keep_the_loop_busy(autojump_clock, setting, running):
    """A deletion that waits for the user's decision does not keep the loop busy."""
    setting.journal.move(
        setting.namespace,
        [Move(Key("a"), Key("b"), b"not json", None, body=setting.journal.stage(b"x"))],
    )
    running()
    await trio.sleep(10)
    requests = setting.store.count()
    with trio.fail_after(1_000_000):
        await trio.sleep(3600)
    assert setting.store.count() == requests


async def test_two_drains_never_overlap(autojump_clock, setting, write):
    """Two drains never overlap, because two bodies with one key on the wire may land in either order."""
    under_way = 0

    async def enter(call):
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        await trio.sleep(3)
        under_way -= 1

    setting.store.before("bulk_put", enter)
    sender = setting.sender(delay=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        for number in range(10):
            write("a", str(number).encode())
            nursery.start_soon(sender.drain)
            nursery.start_soon(sender.send_once)
            await trio.sleep(1)
        await sender.drain()
        nursery.cancel_scope.cancel()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"9")}


async def test_bodies_for_different_namespaces_go_together(autojump_clock, setting, write):
    """A few bodies for different namespaces go together, so one wait is a wait for all."""
    for number in range(3):
        other = await setting.backend.create_namespace(f"other{number}")
        put(setting.journal, "a", namespace=other.id)
    write("a")
    setting.store.delay("bulk_put", 10)
    started = trio.current_time()
    await setting.sender().send_once()
    assert setting.store.count("bulk_put") == 4
    assert trio.current_time() - started < 11


async def test_never_more_than_a_body_of_values_in_memory(autojump_clock, setting, write):
    """Requests under way together hold no more values in memory than one full body."""
    under_way = peak = 0

    async def measure(call):
        nonlocal under_way, peak
        size = sum(len(entry.value) for entry in call.args[1].values())
        under_way += size
        peak = max(peak, under_way)
        await trio.sleep(1)
        under_way -= size

    setting.store.before("bulk_put", measure)
    for number in range(20):
        write(f"k{number:02}", b"x" * 100_000)
    await setting.sender(body_bytes=300_000, parallel=4).drain()
    assert peak <= 300_000
    assert len(await stored(setting.backend, setting.namespace)) == 20


async def test_a_value_too_large_for_a_bulk_body_goes_alone(autojump_clock, setting, write):
    """A value too large for a bulk body goes alone by a PUT, with its metadata."""
    write("large", b"x" * 100_000, metadata=b"1")
    write("small")
    await setting.sender(body_bytes=100_000).drain()
    assert sorted(setting.operations()) == ["bulk_put", "put"]
    assert (await stored(setting.backend, setting.namespace))["large"] == Entry(b"x" * 100_000, b"1")


async def test_a_file_made_and_removed_in_the_window_costs_nothing(autojump_clock, setting, write, running):
    """A file made and removed in the window costs nothing, and neither does a local one."""
    running()
    write("a")
    write(".a.swp", local=True)
    delete(setting.journal, "a", namespace=setting.namespace)
    await trio.sleep(60)
    assert setting.operations() == []


async def test_an_expiration_below_the_floor_is_raised_to_it(autojump_clock, setting, write):
    """An expiration below 60 s, of a write that waited, is raised to it, or the store would refuse it for good."""
    write("a", expiration=int(START) + 70)
    await trio.sleep(60)
    await setting.sender().send_once()
    entry = (await stored(setting.backend, setting.namespace))["a"]
    assert START + 120 <= entry.expiration <= START + 130


async def test_a_write_whose_time_has_passed_is_not_resurrected(autojump_clock, setting, write):
    """A write whose time has passed is dropped if the store never had the key, else it becomes a deletion.

    The status counts both.
    """
    await setting.backend.put(setting.namespace, Key("b"), Entry(b"old"))
    write("a", expiration=int(START) + 70)
    write("b", expiration=int(START) + 70, base=digest(b"old"))
    await trio.sleep(71)
    sender = setting.sender()
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {}
    assert setting.operations() == ["bulk_delete"]
    assert sender.statistics().expired == 2
    assert setting.happened() == [EventKind.EXPIRED, EventKind.EXPIRED]


async def test_what_settled_is_handed_on_while_it_can_be_read(autojump_clock, setting, write, running):
    """A settled value is handed to the cache while it can be read; then the store answers for the key."""
    values = []
    sender = Sender(
        setting.journal,
        setting.store,
        now=simulated_now,
        on_settled=lambda changes: values.extend(setting.journal.value(c) for c in changes),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        write("a", b"mine")
        await trio.sleep(10)
        assert setting.journal.get(setting.namespace, Key("a")).state is ChangeState.SETTLING
        await trio.sleep(84)
        assert values == []
        await trio.sleep(2)
        assert values == [b"mine"]
        assert setting.journal.get(setting.namespace, Key("a")) is None
        write("b", b"later")
        await trio.sleep(100)
        assert values == [b"mine", b"later"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["drain", "fsync"])
async def test_what_others_sent_settles_in_time(autojump_clock, setting, write, running, way):
    """Changes that `sync` or fsync sent settle in time: the loop wakes for that though nothing is written any more."""
    sender = running(delay=1000, max_age=1000, settle_window=90)
    write("a")
    await trio.sleep(1)  # the loop waits for the quiet while
    if way == "drain":
        await sender.drain()
    else:
        await sender.send_now([(setting.namespace, Key("a"))], 10)
    await trio.sleep(95)
    assert keys(setting.settled) == ["a"]
    assert setting.journal.totals.settling_count == 0


@pytest.mark.parametrize(("window", "left"), [(0, 0), (90, 1)])
async def test_what_has_settled_is_handed_on_at_once_for_who_asks(
    autojump_clock, setting, write, running, window, left
):
    """A refresh that comes before the loop looks again settles what its window allows, and nothing else."""
    sender = running(delay=1000, max_age=1000, settle_window=window)
    write("a")
    await sender.drain()
    assert setting.journal.totals.settling_count == 1
    assert await sender.settle_due() == 0
    assert await sender.settle_due(at_once=True) == 1 - left
    assert setting.journal.totals.settling_count == left


async def test_settling_goes_on_through_an_outage(autojump_clock, setting, write, running):
    """Settling goes on through an outage, because the loop waits for the store and for time."""
    running(settle_window=90)
    write("a")
    await trio.sleep(10)
    setting.store.fail("*", UnavailableError("down"))
    write("b")
    await trio.sleep(100)
    assert keys(setting.settled) == ["a"]


async def test_draining_includes_what_is_rewritten_while_it_drains(autojump_clock, setting, write):
    """A drain includes a key that is rewritten meanwhile, with its newest content."""
    write("a", b"old")
    write("b")
    setting.store.after("bulk_put", lambda call: write("a", b"new"), on=1)
    await setting.sender(pairs=1).drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"new"), "b": Entry(b"value")}


async def test_draining_tells_how_far_it_is(autojump_clock, setting, write):
    """A drain reports its progress: how many of how many, up to all of them."""
    for number in range(25):
        write(f"k{number}")
    seen = []
    result = await setting.sender(pairs=10).drain(lambda done, total: seen.append((done, total)))
    assert seen[0] == (10, 25)
    assert seen[-1] == (25, 25)
    assert (result.sent, result.left, result.rejected, result.error) == (25, 0, 0, None)


async def test_draining_ends_though_others_go_on_writing(autojump_clock, setting, write):
    """A drain ends though others go on writing, because it is for the changes pending at its beginning."""
    write("a")
    setting.store.after("bulk_put", lambda call: write(f"new{len(setting.store.calls)}"))
    with trio.fail_after(100):
        result = await setting.sender().drain()
    assert result.sent == 1


async def test_draining_waits_out_a_write_a_second(autojump_clock, setting, write):
    """A drain waits a second for a key that was just written, and ends then."""
    sender = setting.sender()
    write("a", b"1")
    await sender.drain()
    write("a", b"2")
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"2")}


async def test_statistics_say_what_was_done(autojump_clock, setting, write):
    """Statistics have changes by kind, requests, and that all is well."""
    await setting.backend.put(setting.namespace, Key("old"), Entry(b"1"))
    for name in "abc":
        write(name)
    delete(setting.journal, "old", namespace=setting.namespace)
    sender = setting.sender()
    await sender.drain()
    found = sender.statistics()
    assert (found.state, found.sent, found.deleted, found.requests) == (SenderState.IDLE, 3, 1, 2)
    assert (found.failures, found.last_error, found.retry_at) == (0, None, None)


async def test_sending_ten_thousand_takes_four_requests(autojump_clock, setting, write):
    """Ten thousand puts take four requests with bodies that double while answers are quick.

    Deletions begin with the size that passed.
    """
    with setting.journal.transaction():
        for number in range(10_000):
            write(f"dir/file{number}", b"x" * 100)
    sender = setting.sender()
    await sender.drain()
    assert [len(call.keys) for call in setting.store.calls] == [1_000, 2_000, 4_000, 3_000]
    assert setting.journal.pending() == []
    with setting.journal.transaction():
        for number in range(10_000):
            delete(setting.journal, f"dir/file{number}", namespace=setting.namespace)
    await sender.drain()
    assert setting.operations()[4:] == ["bulk_delete", "bulk_delete"]
