"""Who asks for the end of a mount, and how long it may take."""

import trio
import trio.testing
from support.journals import START
from support.rig import Rig

from kvfs.daemon.shutdown import Ending


async def test_of_several_who_ask_the_most_patient_counts(autojump_clock, tmp_path):
    """A second umount that waits for nothing does not cut short what the first was promised."""
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
        ending.served()
    assert {(one["doing"], one["total"]) for one in told} == {
        ("waiting until the last open file is closed", 0)
    }
    rig.close()
