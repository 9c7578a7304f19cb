"""`kvfs conflicts keep`: a conflict that cannot be settled in time stays open, and is reported."""

import trio
from support.rig import open_rig

from kvfs.core.model import Key
from kvfs.daemon.resolving import Resolving
from kvfs.daemon.status import Reporter
from kvfs.host.requests import handlers_of
from kvfs.sender.events import Event, EventKind
from kvfs.vfs.answers import answered


async def test_a_server_that_takes_too_long_leaves_the_conflict_open(tmp_path, autojump_clock) -> None:
    """The answer names the path and the bound; the value and the copy are as they were."""
    async with open_rig(tmp_path, timeout=3.0) as rig:
        await rig.other("page", b"theirs")
        await rig.other("copy", b"mine")
        await answered(rig.fs.tree.lookup(1, b"ns"))
        reporter = Reporter(rig.fs, rig.journal, rig.sender, rig.reading, None, None)
        reporter.conflicts.note(Event(EventKind.CONFLICT, "", rig.namespace, Key("page"), Key("copy")))
        handlers = handlers_of(Resolving(rig.fs, reporter))
        rig.store.delay("*", 2.0)
        answer = await handlers["conflicts_keep"]({"keep": "mine", "copies": ["ns/copy"]}, None)
        assert answer == {"count": 0, "failed": [{"path": "ns/page", "error": "no answer within 3 s"}]}
        assert len(reporter.conflicts.open()) == 1
        assert {key: entry.value for key, entry in (await rig.stored()).items()} == {
            "page": b"theirs", "copy": b"mine"
        }  # fmt: skip


async def test_a_copy_that_is_taken_away_meanwhile_is_not_deleted_again(tmp_path):
    """While many conflicts are settled others have their turn, and what they put there stays."""
    async with open_rig(tmp_path) as rig:
        reporter = Reporter(rig.fs, rig.journal, rig.sender, rig.reading, None, None)
        for number in range(3):
            await rig.kernel.write(f"ns/copy{number}", b"mine")
            reporter.conflicts.note(
                Event(EventKind.CONFLICT, "", rig.namespace, Key(f"page{number}"), Key(f"copy{number}"))
            )
        handlers = handlers_of(Resolving(rig.fs, reporter))

        async def take_away():
            await rig.kernel.unlink("ns/copy2")
            await rig.kernel.write("ns/copy2", b"another")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_away)
            copies = [f"ns/copy{number}" for number in range(3)]
            answer = await handlers["conflicts_keep"]({"keep": "theirs", "copies": copies}, None)
        assert answer == {"count": 3, "failed": []}
        assert await rig.kernel.listdir("ns") == ["copy2"]
        assert await rig.kernel.read("ns/copy2") == b"another"
