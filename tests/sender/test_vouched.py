"""Vouched writes: a store that knows its writers spares the comparison, until another one has written."""

import pytest
import trio
from support.inline import open_inline
from support.journals import put, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import OvertakenError
from kvfs.core.model import Entry, Key
from kvfs.sender.dispatch import FEW
from kvfs.sender.events import EventKind, OnConflict
from kvfs.sender.sender import Sender
from kvfs.sender.vouched import REMEMBERED, Vouched

ON_CONFLICT = OnConflict.KEEP_BOTH  # for the fixture `setting`
A, B = Key("a"), Key("b")


@pytest.fixture
def asked(setting, monkeypatch):
    """Return what is asked of the embedded store, in order; the sender has it without any wrapper around it."""
    operations = []
    for name in ("bulk_get", "get"):
        method = getattr(type(setting.backend), name)

        async def told(self, *args, name=name, method=method):
            operations.append(name)
            return await method(self, *args)

        monkeypatch.setattr(type(setting.backend), name, told)
    setting.store = setting.backend
    return operations


@pytest.fixture
def sender(setting, asked) -> Sender:
    """Return a sender at work on the embedded store itself."""
    return setting.sender()


@pytest.fixture
def other(tmp_path):
    """Open the file as another process does."""
    with open_inline(tmp_path / "store.db", now=simulated_now) as backend:
        yield backend


def edit(setting, key, value, read):
    put(setting.journal, key, value, namespace=setting.namespace, base=digest(read) if read else b"")


async def test_what_was_written_here_is_not_compared_again(autojump_clock, setting, sender, asked):
    """The first write of a name is compared, and no later one, nor its deletion."""
    edit(setting, "a", b"1", b"")
    await sender.drain()
    assert asked == ["bulk_get"]
    for number in range(2, 9):
        edit(setting, "a", b"%d" % number, b"%d" % (number - 1))
        await sender.drain()
    setting.journal.record_delete(setting.namespace, A, base=digest(b"8"), guarded=True)
    await sender.drain()
    assert asked == ["bulk_get"]
    assert await stored(setting.backend, setting.namespace) == {}


async def test_somebody_elses_change_is_a_conflict_all_the_same(
    autojump_clock, setting, sender, asked, other
):
    """A write that another process overtook does nothing and is then compared, so both values are kept."""
    edit(setting, "a", b"1", b"")
    await sender.drain()
    await other.put(setting.namespace, A, Entry(b"theirs"))
    edit(setting, "a", b"2", b"1")
    result = await sender.drain()
    assert (result.left, result.error) == (0, None)
    found = await stored(setting.backend, setting.namespace)
    assert found[A] == Entry(b"theirs")
    assert sorted(entry.value for entry in found.values()) == [b"2", b"theirs"]
    assert setting.happened() == [EventKind.CONFLICT]


async def test_somebody_elses_change_of_another_key_costs_a_comparison(
    autojump_clock, setting, sender, asked, other
):
    """Another process's change of another key costs the next write a comparison, and an fsync nothing."""
    edit(setting, "a", b"1", b"")
    await sender.drain()
    await other.put(setting.namespace, B, Entry(b"theirs"))
    edit(setting, "a", b"2", b"1")
    await sender.send_now([(setting.namespace, A)], timeout=5)
    edit(setting, "a", b"3", b"2")
    await sender.send_now([(setting.namespace, A)], timeout=5)
    assert asked == ["bulk_get", "bulk_get"]
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"3"), B: Entry(b"theirs")}
    assert setting.happened() == []


async def test_a_deletion_is_not_done_over_somebody_elses_change(
    autojump_clock, setting, sender, asked, other
):
    """The deletion of a name renamed away here is not done over another process's value."""
    edit(setting, "a", b"1", b"")
    await sender.drain()
    await other.put(setting.namespace, A, Entry(b"theirs"))
    setting.journal.record_delete(setting.namespace, A, base=digest(b"1"), guarded=True)
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {A: Entry(b"theirs")}


async def test_a_store_whose_writers_nobody_knows_is_always_asked(autojump_clock, setting):
    """Any store but the embedded one is always asked, because its writers are unknown."""
    sender = setting.sender()
    edit(setting, "a", b"1", b"")
    await sender.drain()
    edit(setting, "a", b"2", b"1")
    await sender.drain()
    assert setting.operations() == ["bulk_get", "bulk_put", "bulk_get", "bulk_put"]


async def test_an_overtaken_write_does_nothing(setting, other):
    """An overtaken write does nothing at all, and without the condition the store writes."""
    store = setting.backend
    await store.put(setting.namespace, A, Entry(b"1"))
    guarded = store.watch.unless_others(store.watch.others)
    await guarded.bulk_put(setting.namespace, {A: Entry(b"2")})
    await other.put(setting.namespace, B, Entry(b"theirs"))
    for attempt in (
        guarded.bulk_put(setting.namespace, {A: Entry(b"3")}),
        guarded.bulk_delete(setting.namespace, [A]),
        guarded.put(setting.namespace, A, Entry(b"4")),
    ):
        with pytest.raises(OvertakenError):
            await attempt
    assert (await stored(store, setting.namespace))[A] == Entry(b"2")
    await store.put(setting.namespace, A, Entry(b"5"))
    assert (await stored(store, setting.namespace))[A] == Entry(b"5")


async def test_a_write_of_ours_that_finds_somebody_else_does_not_excuse_another(
    autojump_clock, setting, sender, asked, other, monkeypatch
):
    """A change spared the comparison is compared after all when another write of this process met a stranger's."""
    edit(setting, "a", b"1", b"")
    await sender.drain()
    compare = type(setting.backend).bulk_get

    async def overtaken(self, namespace, keys):
        answer = await compare(self, namespace, keys)
        if list(keys) == ["x"]:  # after it was decided that the other key needs no comparison
            await other.put(namespace, A, Entry(b"theirs"))
            await setting.backend.put(namespace, B, Entry(b"an fsync's"))
        return answer

    monkeypatch.setattr(type(setting.backend), "bulk_get", overtaken)
    edit(setting, "x", b"1", b"")
    edit(setting, "a", b"2", b"1")
    await sender.drain()
    found = await stored(setting.backend, setting.namespace)
    assert found[A] == Entry(b"theirs")
    assert setting.happened() == [EventKind.CONFLICT]


async def test_a_list_of_new_names_is_made_anew_once_somebody_else_has_written(
    autojump_clock, setting, sender, asked, other, monkeypatch
):
    """A list of new names is made anew after another process wrote, because a free name may be theirs by then."""
    list_keys = type(setting.backend).list_keys
    lists = []

    async def overtaken(self, namespace, **options):
        page = await list_keys(self, namespace, **options)
        lists.append(options["prefix"])
        if len(lists) == 1:
            await other.put(namespace, Key("n005"), Entry(b"theirs"))
        return page

    monkeypatch.setattr(type(setting.backend), "list_keys", overtaken)
    for number in range(150):
        edit(setting, f"n{number:03}", b"ours", b"")
    await sender.drain()
    monkeypatch.undo()
    found = await stored(setting.backend, setting.namespace)
    assert found[Key("n005")] == Entry(b"theirs")
    assert len(found) == 151
    assert setting.happened() == [EventKind.CONFLICT]


async def test_a_store_that_others_write_to_all_the_time_gets_everything(
    autojump_clock, setting, sender, asked, other, monkeypatch
):
    """On a busy store an overtaken change is compared and then written without the condition."""
    edit(setting, "a", b"1", b"")
    await sender.drain()
    compare = type(setting.backend).bulk_get

    async def overtaken(self, namespace, keys):
        answer = await compare(self, namespace, keys)
        await other.put(namespace, B, Entry(b"theirs"))
        await trio.sleep(0.5)
        return answer

    monkeypatch.setattr(type(setting.backend), "bulk_get", overtaken)
    await other.put(setting.namespace, B, Entry(b"theirs"))
    edit(setting, "a", b"2", b"1")
    result = await sender.drain()
    assert (result.sent, result.left) == (1, 0)
    monkeypatch.undo()
    assert (await stored(setting.backend, setting.namespace))[A] == Entry(b"2")


async def test_so_many_keys_are_remembered(setting):
    """The latest keys are remembered, up to a number, and a forgotten key is compared again."""
    vouched, begun = Vouched(setting.backend), setting.backend.watch.others
    for number in range(REMEMBERED + 10):
        put(setting.journal, f"k{number}", b"", namespace=setting.namespace)
    changes = list(setting.journal.iter_pending())
    vouched.note(changes, begun)
    assert not vouched.has(changes[0])
    assert vouched.has(changes[-1])
    vouched.note(changes[:1], begun - 1)
    assert not vouched.has(changes[0]), "somebody else wrote while it was written"


async def test_an_fsync_of_a_few_changes_sends_them_itself(autojump_clock, setting, sender, monkeypatch):
    """A store on this machine takes them at once; many are sent by a task that outlives a caller who gives up."""
    method, tasks = type(setting.backend).bulk_put, []

    async def told(self, *args, **more):
        tasks.append(trio.lowlevel.current_task())
        return await method(self, *args, **more)

    monkeypatch.setattr(type(setting.backend), "bulk_put", told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.testing.wait_all_tasks_blocked()
        for count, is_own in ((FEW, True), (FEW + 1, False)):
            places = [(setting.namespace, Key(f"{count} {number}")) for number in range(count)]
            for _, key in places:
                put(setting.journal, key, b"1", namespace=setting.namespace, base=b"")
            await sender.send_now(places, 30)
            assert (tasks.pop() is trio.lowlevel.current_task()) is is_own
            assert {key for _, key in places} <= (await stored(setting.backend, setting.namespace)).keys()
        nursery.cancel_scope.cancel()
