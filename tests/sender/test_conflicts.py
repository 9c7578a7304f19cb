"""Conflicts: an edit never silently overwrites another client's change.

The requests, the decision, the kept versions.
"""

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.faults import stale_store
from support.journals import START, keys, put, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import DeniedError, NotTextError, RateLimitedError, UnavailableError
from kvfs.core.limits import KEY_BYTES
from kvfs.core.model import ChangeKind, Entry, Key, ValueRead
from kvfs.kept.local import LocalAttrs
from kvfs.sender.copynames import copy_key
from kvfs.sender.events import EventKind, OnConflict, SenderOptions
from kvfs.sender.sender import Sender
from kvfs.store.bulkread import BulkReading

A = Key("a")
ON_CONFLICT = OnConflict.KEEP_BOTH  # for the fixture `setting`
COPY = Key("a.kvfs-conflict-host-20270115T080000Z")


@pytest.fixture
def edit(setting):
    """Change a value that was read as `read`."""

    def edit(key, value, read, **options):
        return put(setting.journal, key, value, namespace=setting.namespace, base=digest(read), **options)

    return edit


@pytest.fixture
def there(setting):
    """Write to the store as another client."""

    async def there(key, value, **options):
        await setting.backend.put(setting.namespace, Key(key), Entry(value, **options))

    return there


@pytest.fixture
def binary(setting):
    """Let keys come singly only, as the API does for values that are no text."""

    def binary(*names):
        named = set(names)
        setting.store.fail(
            "bulk_get",
            NotTextError("a non-text value", code=10029, status=400),
            when=lambda call: named & set(call.keys),
        )

    return binary


async def test_an_edit_of_what_was_read_is_sent(autojump_clock, setting, edit, there):
    """An edit of a value that was read is sent after one bulk get, with one bulk put."""
    await there("a", b"read")
    edit("a", b"mine", b"read")
    await setting.sender().drain()
    assert setting.operations() == ["bulk_get", "bulk_put"]
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"mine")}


async def test_a_change_of_somebody_else_is_kept_and_so_is_ours(autojump_clock, setting, edit, there):
    """Theirs stays under the name, ours goes beside it with metadata and expiration, and the conflict is reported."""
    await there("a", b"theirs", metadata=b'"t"')
    attrs = LocalAttrs(0o600, 5, 5, None)
    edit("a", b"mine", b"read", metadata=b'"m"', expiration=int(START) + 7200, attrs=attrs)
    sender = setting.sender()
    await sender.drain()

    assert await stored(setting.backend, setting.namespace) == {
        "a": Entry(b"theirs", b'"t"'),
        COPY: Entry(b"mine", b'"m"', int(START) + 7200),
    }
    assert setting.journal.get(setting.namespace, A) is None
    assert setting.journal.attributes.file_attrs(setting.namespace, COPY) == attrs
    (event,) = setting.events
    assert (event.kind, event.namespace, event.key, event.copy) == (
        EventKind.CONFLICT,
        setting.namespace,
        A,
        COPY,
    )
    assert sender.statistics().conflicts == 1


async def test_overwriting_can_be_asked_for(autojump_clock, setting, edit, there):
    """With `overwrite` nothing is read before a write."""
    await there("a", b"theirs")
    edit("a", b"mine", b"read")
    await setting.sender(on_conflict=OnConflict.OVERWRITE).drain()
    assert setting.operations() == ["bulk_put"]
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"mine")}


async def test_identical_bytes_are_no_conflict(autojump_clock, setting, edit, there):
    """Identical bytes, a change that two machines made alike, are no conflict."""
    await there("a", b"same")
    edit("a", b"same", b"read")
    await setting.sender().drain()
    assert setting.events == []
    assert setting.journal.pending() == []


async def test_a_deletion_by_somebody_else_is_no_conflict(autojump_clock, setting, edit):
    """A deletion by another client is no conflict, because writing the key again loses nobody's data."""
    edit("a", b"mine", b"read")
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"mine")}
    assert setting.events == []


async def test_what_nobody_read_costs_no_read(autojump_clock, setting, there):
    """A value that was overwritten without being read, and a deletion that a program asked for, cost no read."""
    await there("b", b"x")
    put(setting.journal, "b", namespace=setting.namespace, base=None)
    setting.journal.record_delete(setting.namespace, Key("c"), base=digest(b"c"))
    await setting.sender().drain()
    assert setting.store.count("bulk_get") == 0


async def test_a_hundred_keys_are_asked_for_at_once(autojump_clock, setting, edit, there):
    """At most one bulk get per hundred keys is sent, and one for the new names of the copies."""
    for number in range(250):
        await there(f"k{number:03}", b"theirs" if number % 50 == 0 else b"read")
        edit(f"k{number:03}", b"mine", b"read")
    sender = setting.sender()
    await sender.drain()
    assert setting.store.count("bulk_get") == 3 + 1
    assert setting.store.count("get") == 0
    assert sender.statistics().conflicts == 5
    assert len(await stored(setting.backend, setting.namespace)) == 255


async def test_binary_values_are_compared_too(autojump_clock, setting, edit, there, binary):
    """Binary values, which do not come by bulk get, are compared too: the batch is split, and they come singly."""
    for number in range(40):
        await there(f"k{number:02}", b"\xff" if number in (7, 30) else b"text")
        edit(f"k{number:02}", b"mine", b"\xfe" if number == 7 else b"\xff" if number == 30 else b"text")
    binary("k07", "k30")
    sender = setting.sender()
    await sender.drain()
    assert 2 <= setting.store.count("get") <= 20
    found = await stored(setting.backend, setting.namespace)
    assert found["k07"] == Entry(b"\xff")
    assert found["k30"] == Entry(b"mine")
    assert sender.statistics().conflicts == 1


async def test_a_value_known_to_be_binary_is_not_asked_for_in_bulk(
    autojump_clock, setting, edit, there, binary
):
    """A value known as binary is asked for singly, or a bulk get would fail each time.

    When it became text it goes with the others.
    """
    binary("b")
    await there("b", b"\xff0")
    sender = setting.sender()
    for number in (1, 2, 3):
        edit("b", b"\xff%d" % number, b"\xff%d" % (number - 1))
        edit("text", b"%d" % number, b"%d" % (number - 1))
        await sender.drain()
        await trio.sleep(200)
        setting.journal.settle(simulated_now(), 90)
    assert setting.store.count("get") == 4  # b and text at first, then b alone
    assert setting.store.count("bulk_get") == 3
    setting.store.clear()
    await there("b", b"plain")
    for read, value in ((b"plain", b"mine"), (b"mine", b"mine again")):
        edit("b", value, read)
        await sender.drain()
        await trio.sleep(200)
        setting.journal.settle(simulated_now(), 90)
    assert setting.store.count("get") == 5
    assert setting.store.count("bulk_get") == 4
    assert await stored(setting.backend, setting.namespace) == {
        "b": Entry(b"mine again"),
        "text": Entry(b"3"),
    }


async def test_the_check_asks_singly_for_values_that_the_cache_knows_to_be_binary(
    autojump_clock, setting, edit, there, binary
):
    """A value that the cache found to be binary is checked by one get, and a text by one bulk get beside it."""
    binary("b")
    for key, value in (("b", b"\xff"), ("text", b"read")):
        await there(key, value)
        edit(key, b"mine", value)
    reading = BulkReading()
    reading.learn((setting.namespace, Key("b")), b"\xff")
    await setting.sender(reading=reading).drain()
    asked = [call.keys for call in setting.store.calls if call.operation in ("get", "bulk_get")]
    assert sorted(asked) == [("b",), ("text",)]


async def test_one_false_answer_makes_no_conflict(autojump_clock, setting, edit, there, binary):
    """A raw value that looks like another client's is read once more before it is believed."""
    binary("a")
    await there("a", b"\xffread")
    edit("a", b"\xffmine", b"\xffread")
    setting.store.lie("get", ValueRead(b"<html>", None), times=1)
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"\xffmine")}
    assert EventKind.CONFLICT not in setting.happened()

    await there("a", b"\xfftheirs")
    edit("a", b"\xffmore", b"\xffmine")
    before = setting.store.count("get")
    await setting.sender().drain()
    assert setting.store.count("get") == before + 2
    assert setting.happened().count(EventKind.CONFLICT) == 1


@pytest.mark.parametrize("there_is", [b"theirs", b"read"])
async def test_a_key_that_a_bulk_get_leaves_out_is_asked_for_singly(
    autojump_clock, setting, edit, there, there_is
):
    """A key that a bulk get leaves out in an odd entry may exist, so it is asked for singly before it is written."""
    await there("a", there_is)
    edit("a", b"mine", b"read")
    setting.store.lie("bulk_get", {})
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    kept = {"a": Entry(b"theirs"), COPY: Entry(b"mine")}
    assert found == (kept if there_is == b"theirs" else {"a": Entry(b"mine")})


async def test_a_key_that_has_no_answer_singly_either_is_not_written(autojump_clock, setting, edit, there):
    """A key without an answer singly either waits for its check, and its neighbour in the bulk get is sent."""
    for key in ("a", "b"):
        await there(key, b"read")
        edit(key, b"mine", b"read")
    setting.store.lie("bulk_get", {Key("b"): Entry(b"read")})
    setting.store.fail("get")
    await setting.sender().send_once()
    assert keys(setting.journal.pending()) == ["a"]


async def test_a_check_that_fails_holds_up_nobody_else(autojump_clock, setting, edit, there):
    """After a check that fails, changes that were checked or need none go, and the others are checked again, alone."""
    for number in range(250):
        await there(f"k{number:03}", b"read")
        edit(f"k{number:03}", b"mine", b"read")
    put(setting.journal, "new", namespace=setting.namespace)
    setting.store.fail("bulk_get", on=2)
    sender = setting.sender()
    await sender.send_once()
    assert setting.journal.pending_count == 100
    assert setting.store.count("bulk_get") == 3
    await sender.drain()
    assert setting.store.count("bulk_get") == 4
    assert setting.journal.pending_count == 0


async def test_a_key_that_a_bulk_answer_leaves_out_is_asked_for_alone(autojump_clock, setting, edit, there):
    """A key that a bulk answer leaves out is asked for alone, or another client's value could be lost."""
    for name in "abc":
        await there(name, b"theirs")
        edit(name, b"mine", b"read")
    odd = {Key(name): Entry(b"theirs") for name in "bc"}
    setting.store.lie("bulk_get", odd, times=1)
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    assert [found[name] for name in "abc"] == [Entry(b"theirs")] * 3
    assert [call.keys for call in setting.store.calls if call.operation == "get"] == [("a",)]
    assert len(setting.events) == 3


async def test_one_of_several_single_checks_may_fail(autojump_clock, setting, edit, there, binary):
    """If one of several single checks fails, the seven others are sent."""
    binary(*(f"k{number}" for number in range(8)))
    for number in range(8):
        await there(f"k{number}", b"\xff")
        edit(f"k{number}", b"\xfe", b"\xff")
    setting.store.fail("get", when=lambda call: call.keys == ("k3",), times=1)
    await setting.sender().send_once()
    assert keys(setting.journal.pending()) == ["k3"]


async def test_a_third_of_all_checks_failing_slows_nothing_down(autojump_clock, setting, edit, there):
    """With a third of all checks failing the pause does not grow, because part of the questions is answered."""
    rng = random.Random(1)
    for number in range(2_000):
        await there(f"k{number:04}", b"read")
        edit(f"k{number:04}", b"mine", b"read")
    setting.store.fail("*", when=lambda call: rng.random() < 0.3)
    started = trio.current_time()
    await setting.sender().drain()
    assert trio.current_time() - started < 60


async def test_checks_that_never_get_through_are_few(autojump_clock, setting, edit):
    """In an outage each try asks one question, not one for each hundred of keys, and a drain's pause grows, too."""
    for number in range(1_000):
        edit(f"k{number:03}", b"mine", b"read")
    setting.store.fail("bulk_get")
    sender = setting.sender()
    with trio.move_on_after(600):
        await sender.drain()
    assert setting.store.count() < 60


async def test_a_short_wait_is_waited_out_in_the_middle(autojump_clock, setting, edit, there):
    """A short wait asked for in the middle keeps the earlier answers, or a large round would never end."""
    for number in range(250):
        await there(f"k{number:03}", b"read")
        edit(f"k{number:03}", b"mine", b"read")
    setting.store.fail("bulk_get", RateLimitedError("429", retry_after=1.5), on=2)
    times = []
    setting.store.before("*", lambda call: times.append(trio.current_time()))
    await setting.sender().send_once()
    assert setting.operations() == ["bulk_get", "bulk_get", "bulk_get", "bulk_put"]
    # the third was on its way when the second was refused; nothing else is sent before the wait is over
    assert [time - times[0] for time in times] == pytest.approx([0, 0, 1.5], abs=0.01)
    assert setting.journal.pending_count == 100


async def test_bulk_gets_of_a_check_are_made_at_once_while_they_are_answered(
    autojump_clock, setting, edit, there
):
    """A check begins with one request, doubles with the answers, and the next check begins where it ended."""
    times = []
    setting.store.before("bulk_get", lambda call: times.append(trio.current_time()))
    setting.store.delay("bulk_get", 1.0)
    sender = setting.sender()
    for expected in ([0, 1, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1]):
        for number in range(700):
            await there(f"{expected[-1]}-{number:03}", b"read")
            edit(f"{expected[-1]}-{number:03}", b"mine", b"read")
        begun = trio.current_time()
        await sender.drain()
        assert [round(time - begun) for time in times if time >= begun] == expected


async def test_a_server_that_asks_to_wait_is_asked_nothing_more(autojump_clock, setting, edit, there):
    """After a server asks to wait no other check and no write is sent."""
    for number in range(250):
        edit(f"k{number:03}", b"mine", b"read")
    put(setting.journal, "new", namespace=setting.namespace)
    setting.store.fail("bulk_get", RateLimitedError("429", retry_after=60.0), on=1)
    sender = setting.sender()
    await sender.send_once()
    assert setting.operations() == ["bulk_get"]
    with trio.move_on_after(59):
        await sender.drain()
    assert setting.operations() == ["bulk_get"]
    await sender.drain()
    assert setting.journal.pending_count == 0


async def test_our_own_last_write_is_no_conflict(autojump_clock, setting, edit, there):
    """A file saved twice is no conflict: the second save expects the first."""
    await there("a", b"read")
    edit("a", b"first", b"read")
    sender = setting.sender()
    await sender.drain()
    edit("a", b"second", b"read")
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"second")}
    assert setting.events == []


@pytest.mark.parametrize("read", [digest(b"read"), None])
async def test_a_stale_answer_is_no_conflict(autojump_clock, setting, there, read):
    """A stale answer with the value before our last writes is no conflict, even if we overwrote it unread."""
    store = stale_store(setting.backend, 60, simulated_now)
    await there("a", b"read")
    sender = Sender(
        setting.journal,
        store,
        now=simulated_now,
        options=SenderOptions(host="host"),
        on_event=setting.events.append,
    )
    for value in (b"1", b"2", b"3", b"4"):
        put(setting.journal, "a", value, namespace=setting.namespace, base=read)
        await sender.drain()
        await trio.sleep(5)
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"4")}
    assert setting.events == []


async def test_a_key_made_anew_over_one_never_read_is_no_conflict(autojump_clock, setting, there):
    """A key deleted unread and made anew twice is no conflict when a stale answer shows the first version of ours."""
    await there("a", b"never read")
    sender = setting.sender()
    setting.journal.record_delete(setting.namespace, A, base=None)
    await sender.drain()
    for value in (b"1", b"2"):
        put(setting.journal, "a", value, namespace=setting.namespace, base=b"")
        await sender.drain()
        await there("a", b"never read")
    assert setting.events == []


@pytest.fixture
def minutely(setting):
    """Return a sender whose changes settle after 90 s."""
    return Sender(
        setting.journal,
        setting.store,
        now=simulated_now,
        options=SenderOptions(settle_window=90.0, host="host"),
        on_event=setting.events.append,
    )


@pytest.mark.parametrize("read", [digest(b"read"), None])
async def test_somebody_elses_change_long_after_an_unread_one_is_a_conflict(
    autojump_clock, setting, there, minutely, read
):
    """A foreign change is a conflict once no stale answer can show the old value, even after unsettled rewrites."""
    await there("a", b"read")
    for number in range(60):
        put(setting.journal, "a", b"%d" % number, namespace=setting.namespace, base=read)
        await minutely.drain()
        await trio.sleep(60)
        await minutely.settle_due()
    await there("a", b"somebody else's")
    await trio.sleep(20)
    put(setting.journal, "a", b"ours", namespace=setting.namespace, base=digest(b"59"))
    await minutely.drain()
    assert (await stored(setting.backend, setting.namespace))["a"].value == b"somebody else's"
    assert [event.kind for event in setting.events] == [EventKind.CONFLICT]


async def test_an_edit_that_waited_out_an_outage_does_not_hide_somebody_else(
    autojump_clock, setting, there, minutely
):
    """An edit made soon after an unread overwrite, and sent after an outage, is compared: no old answer remains."""
    await there("a", b"never read")
    put(setting.journal, "a", b"first", namespace=setting.namespace, base=None)
    await minutely.drain()
    await trio.sleep(10)
    put(setting.journal, "a", b"ours", namespace=setting.namespace, base=digest(b"first"))
    await there("a", b"somebody else's")
    await trio.sleep(3600)
    await minutely.drain()
    assert (await stored(setting.backend, setting.namespace))["a"].value == b"somebody else's"
    assert [event.kind for event in setting.events] == [EventKind.CONFLICT]


async def test_somebody_elses_write_after_ours_is_a_conflict(autojump_clock, setting, edit, there):
    """Another client's write after ours is a conflict also within the window in which our own still answers."""
    await there("a", b"read")
    sender = setting.sender()
    edit("a", b"first", b"read")
    await sender.drain()
    await there("a", b"theirs")
    edit("a", b"second", b"read")
    await sender.drain()
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"second", b"theirs"]


async def test_a_repeated_attempt_is_not_taken_for_somebody_else(autojump_clock, setting, edit, there):
    """A repeated attempt whose first answer was lost is not taken for another client's write."""
    await there("a", b"read")
    edit("a", b"mine", b"read")
    setting.store.lost_ack("bulk_put", times=1)
    sender = setting.sender()
    await sender.send_once()
    edit("a", b"mine again", b"read")
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"mine again")}
    assert EventKind.CONFLICT not in setting.happened()


@pytest.mark.parametrize("error", [UnavailableError("503"), DeniedError("403")])
async def test_without_an_answer_nothing_is_written_over(autojump_clock, setting, edit, there, error):
    """Without an answer nothing is overwritten, and the change waits until the question can be asked."""
    await there("a", b"theirs")
    edit("a", b"mine", b"read")
    setting.store.fail("bulk_get", error)
    await setting.sender().send_once()
    assert setting.operations() == ["bulk_get"]
    assert [change.kind for change in setting.journal.pending()] == [ChangeKind.PUT]
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"theirs")}


async def test_a_change_replaced_while_asking_is_left_to_the_next_round(autojump_clock, setting, edit, there):
    """A change replaced during its check is left to the next round, in which the newer one is checked and sent."""
    await there("a", b"theirs")
    edit("a", b"mine", b"read")
    setting.store.after("bulk_get", lambda call: edit("a", b"newer", b"read"), times=1)
    await setting.sender().drain()
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"newer", b"theirs"]


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=600).filter(
        lambda key: len(key.encode()) <= KEY_BYTES
    ),
    st.text(max_size=300),
    st.integers(0, 3),
)
def test_the_name_of_a_copy_is_a_key_that_was_free(key, host, taken):
    """The name of a copy is a free key within the limit, for any name and host."""
    occupied: set[Key] = set()
    for _ in range(taken + 1):
        copy = copy_key(Key(key), host, START, occupied.__contains__)
        assert len(copy.encode()) <= KEY_BYTES
        assert ".kvfs-conflict-" in copy
        assert "/" not in copy[copy.index(".kvfs-conflict-") :]
        assert copy not in occupied
        occupied.add(copy)
