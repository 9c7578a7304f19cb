"""`kvfs rejected retry` and `discard` of thousands of changes: others have their turn, and lose nothing by it."""

import pytest
import trio
from support.journals import put
from support.rig import open_rig

from kvfs.core.model import Key
from kvfs.daemon.controls import Controls
from kvfs.daemon.status import Reporter
from kvfs.host.requests import handlers_of
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


@pytest.mark.parametrize("request_", ["pending", "pending_list", "rejected_list"])
async def test_others_have_their_turn_while_many_changes_are_listed(tmp_path, request_):
    """A list of thousands of changes holds the loop for a few of them at a time, and names all of them."""
    async with open_rig(tmp_path) as rig:
        for number in range(6 * CHUNK):
            change = put(rig.journal, f"{number:05}", namespace=rig.namespace)
            if request_ == "rejected_list":
                rig.journal.reject(change, "never")
        reporter = Reporter(rig.fs, rig.journal, rig.sender, rig.reading, None, None)
        handlers = handlers_of(Controls(rig.fs, rig.journal, rig.sender, reporter, None))
        turns = 0

        async def count():
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            answer = await handlers[request_]({"namespace": rig.namespace}, None)
            nursery.cancel_scope.cancel()
        assert len(answer["items"]) == 6 * CHUNK
        assert turns >= 3
