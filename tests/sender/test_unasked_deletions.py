"""Deletions by a rename: each removes only the value it was meant for, while `rm` removes whatever is there."""

import pytest
from support.journals import START, put, stored

from kvfs.core.digest import digest
from kvfs.core.model import Entry, Key
from kvfs.journal.writer import Move
from kvfs.sender.events import EventKind, OnConflict

A, B = Key("a"), Key("b")
ON_CONFLICT = OnConflict.KEEP_BOTH  # for the fixture `setting`


@pytest.fixture
async def theirs(setting):
    """Write `a` as another client."""
    await setting.backend.put(setting.namespace, A, Entry(b"theirs", b'"t"'))


def renamed(setting, value=b"read"):
    """Do `mv a b` of a value that was read from the store."""
    body = setting.journal.stage(value)
    move = Move(A, B, None, None, body=body, base_old=body.digest, base_new=b"")
    setting.journal.move(setting.namespace, [move])


async def test_a_rename_does_not_delete_what_came_meanwhile(autojump_clock, setting, theirs):
    """A rename does not delete a value that another client wrote meanwhile: both names stay, with an event."""
    renamed(setting)
    sender = setting.sender()
    result = await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {
        "a": Entry(b"theirs", b'"t"'),
        "b": Entry(b"read"),
    }
    assert setting.journal.get(setting.namespace, A) is None
    (event,) = setting.events
    assert (event.kind, event.key, event.copy) == (EventKind.CONFLICT, A, None)
    assert sender.statistics().conflicts == 1
    assert result.left == 0


async def test_a_rename_deletes_what_it_moved(autojump_clock, setting):
    """A rename deletes the value that it moved after one look at the new name and one at the old."""
    await setting.backend.put(setting.namespace, A, Entry(b"read"))
    renamed(setting)
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {"b": Entry(b"read")}
    assert setting.operations() == ["bulk_get", "bulk_put", "bulk_get", "bulk_delete"]
    assert setting.events == []


async def test_a_thousand_renames_cost_a_list_and_a_bulk_get_for_a_hundred(autojump_clock, setting):
    """A thousand renames list the new names and read the old values by the hundred."""
    moves = []
    for number in range(1000):
        old, new = Key(f"old/{number:03}"), Key(f"new/{number:03}")
        await setting.backend.put(setting.namespace, old, Entry(b"read"))
        body = setting.journal.stage(b"read")
        moves.append(Move(old, new, None, None, body=body, base_old=body.digest, base_new=b""))
    setting.journal.move(setting.namespace, moves)
    await setting.sender().drain()
    counts = {name: setting.operations().count(name) for name in set(setting.operations())}
    assert counts == {"list_keys": 1, "bulk_put": 1, "bulk_get": 10, "bulk_delete": 1}
    assert len(await stored(setting.backend, setting.namespace)) == 1000


async def test_overwriting_can_be_asked_for(autojump_clock, setting, theirs):
    """With `overwrite` a rename deletes the old name, whatever is there, and reads nothing."""
    renamed(setting)
    await setting.sender(on_conflict=OnConflict.OVERWRITE).drain()
    assert await stored(setting.backend, setting.namespace) == {"b": Entry(b"read")}
    assert setting.operations() == ["bulk_put", "bulk_delete"]


async def test_a_removal_deletes_what_is_there(autojump_clock, setting, theirs):
    """`rm` of a file deletes what is there, without a question or a conflict, also if it was read as something else."""
    setting.journal.record_delete(setting.namespace, A, base=digest(b"read"))
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {}
    assert setting.operations() == ["bulk_delete"]
    assert setting.events == []


async def test_a_name_removed_and_made_anew_is_compared(autojump_clock, setting, theirs):
    """A name removed and made anew, as `install` and git save, is compared with what was read."""
    setting.journal.record_delete(setting.namespace, A, base=digest(b"read"))
    put(setting.journal, "a", b"mine", namespace=setting.namespace, base=digest(b"read"))
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"mine", b"theirs"]
    assert setting.happened() == [EventKind.CONFLICT]


async def test_a_name_removed_unread_and_made_anew_is_not_compared(autojump_clock, setting, theirs):
    """A name removed unread and made anew is not compared, because the removal was of whatever is there."""
    setting.journal.record_delete(setting.namespace, A, base=None)
    put(setting.journal, "a", b"mine", namespace=setting.namespace, base=b"")
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"mine")}
    assert setting.events == []


async def test_what_a_removal_took_may_be_answered_for_a_while(autojump_clock, setting, theirs):
    """A stale store that shows the removed value after the name was made anew is our own doing, and no conflict."""
    setting.journal.record_delete(setting.namespace, A, base=digest(b"read"))
    sender = setting.sender()
    await sender.drain()
    put(setting.journal, "a", b"mine", namespace=setting.namespace, base=b"")
    await setting.backend.put(setting.namespace, A, Entry(b"theirs", b'"t"'))
    await sender.drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"mine")}
    assert setting.events == []


async def test_a_name_renamed_away_and_made_anew_is_compared_with_what_was_read(autojump_clock, setting):
    """A name renamed away and made anew is compared with what the editor read, so another client's value is kept."""
    await setting.backend.put(setting.namespace, A, Entry(b"theirs"))
    renamed(setting, b"theirs")
    put(setting.journal, "a", b"mine", namespace=setting.namespace, base=digest(b"read"))
    await setting.sender().drain()
    found = await stored(setting.backend, setting.namespace)
    assert sorted(entry.value for entry in found.values()) == [b"mine", b"theirs", b"theirs"]


async def test_an_expired_change_does_not_delete_what_came_meanwhile(autojump_clock, setting):
    """An expired change that was never sent deletes no value that came meanwhile."""
    expiration = int(START) - 1
    put(
        setting.journal,
        "a",
        b"mine",
        namespace=setting.namespace,
        base=digest(b"read"),
        expiration=expiration,
    )
    await setting.backend.put(setting.namespace, A, Entry(b"theirs"))
    await setting.sender().drain()
    assert await stored(setting.backend, setting.namespace) == {"a": Entry(b"theirs")}
    assert setting.happened() == [EventKind.EXPIRED, EventKind.CONFLICT]
