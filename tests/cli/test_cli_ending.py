"""The end of a mount: who asks for it, and how long it may take."""

import trio
import trio.testing
from support.journals import START
from support.rig import Rig

from kvfs.core.model import Key
from kvfs.daemon.shutdown import Ending


async def test_of_several_who_ask_the_most_patient_counts(autojump_clock, tmp_path):
    """A second umount that waits for nothing does not cut short the time that the first was promised."""
    rig = Rig(tmp_path, now=lambda: START)
    rig.open()
    ending = Ending(tmp_path / "mnt", rig.sender, 30.0)
    assert ending.wanted == 30.0

    told = []

    async def send(message):
        told.append(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.finished, 10.0, send)
        await trio.testing.wait_all_tasks_blocked()
        assert ending.wanted == 10.0
        nursery.start_soon(ending.finished, 100.0, send)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ending.finished, 1.0, send)
        await trio.testing.wait_all_tasks_blocked()
        assert ending.wanted == 100.0
        ending.let_go.set()
    assert {(one["doing"], one["total"]) for one in told} == {
        ("waiting until the last open file is closed", 0)
    }
    rig.close()


async def test_an_end_is_told_in_changes_only_where_there_are_some(autojump_clock, tmp_path):
    """The end of a mount first names an open file, without numbers; then it counts changes, never as 0 of 0."""
    rig = Rig(tmp_path, now=lambda: START)
    rig.open()
    namespace = (await rig.backend.create_namespace("ns")).id
    value = rig.journal.stage(b"value")
    rig.journal.record_put(namespace, Key("a"), value, metadata=None, expiration=None, base=None)
    ending = Ending(tmp_path / "mnt", rig.sender, 30.0)
    told = []

    async def send(message):
        told.append((message["doing"], message["done"], message["total"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ending.finished, 10.0, send)
        await trio.testing.wait_all_tasks_blocked()
        ending.let_go.set()
    assert told[0] == ("waiting until the last open file is closed", 0, 0)
    assert [one for one in told if not one[0]][:1] == [("", 0, 1)]
    assert all(total for doing, _, total in told if not doing)
    rig.close()
