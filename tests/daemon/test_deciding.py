"""`kvfs rejected retry` and `discard` of thousands of changes: others have their turn, and lose nothing by it."""

import pytest
import trio
from support.journals import put
from support.rig import open_rig

from kvfs.core.model import Key
from kvfs.sender.chunks import CHUNK


@pytest.mark.parametrize("what", ["retry", "discard"])
async def test_a_write_in_between_is_kept(tmp_path, what):
    """The loop is not held for all of them, and a key that is written anew meanwhile is not discarded."""
    async with open_rig(tmp_path) as rig:
        for number in range(4 * CHUNK):
            rig.journal.reject(put(rig.journal, f"{number:05}", namespace=rig.namespace), "never")
        last = f"{4 * CHUNK - 1:05}"
        left, most = 4 * CHUNK, 0

        async def watch():
            nonlocal left, most
            while True:
                found = rig.journal.totals.rejected_count
                if left == 4 * CHUNK > found:
                    put(rig.journal, last, b"anew", namespace=rig.namespace)
                left, most = found, max(most, left - found)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await rig.decide(what)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert most <= 2 * CHUNK + 1
        assert rig.journal.value(rig.journal.get(rig.namespace, Key(last))) == b"anew"
