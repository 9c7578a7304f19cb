"""The work that the event loop has with a status, a look at what waits, or the history of everything."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import trio
from msgspec.structs import replace
from support.rig import open_rig

from kvfs.core.errors import UnavailableError
from kvfs.core.model import Key, KeyInfo, KeyPage
from kvfs.daemon import undo
from kvfs.daemon.build import Stores
from kvfs.daemon.controls import Controls
from kvfs.daemon.outlook import NOT_TRIED, Outlook
from kvfs.daemon.shutdown import Ending
from kvfs.daemon.status import QUEUED, SHOWN, Reporter


def reporter_of(rig) -> Reporter:
    """A reporter of the rig's mount, as the daemon makes it."""
    outlook = Outlook(rig.sender.statistics, None, rig.sender.next_try)
    reporter = Reporter(rig.fs, rig.journal, rig.sender, rig.reading, Stores(rig.store, rig.store), outlook)
    reporter.history = rig.undo.status
    return reporter


def controls_of(rig, reporter: Reporter) -> Controls:
    """The answers of the control socket, as the daemon makes them."""
    ending = Ending(Path("mnt"), rig.sender, 60.0, reporter._outlook)
    return Controls(rig.fs, rig.journal, rig.sender, reporter, ending)


def steps(work: Callable[[], object]) -> int:
    """Count the bytecodes that a call executes."""
    count = 0

    def note(frame: FrameType, event: str, argument: object):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return note

    sys.settrace(note)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def record(rig, numbers: range) -> None:
    """New files that wait; of four one was refused, and of another the last attempt failed."""
    journal, ns = rig.journal, rig.namespace
    with journal.transaction():
        for number in numbers:
            body = journal.stage(b"%d" % number)
            journal.record_put(ns, Key(f"d/{number:05}"), body, metadata=None, expiration=None, base=b"")
    for number in numbers[::4]:
        refused, failed = (journal.get(ns, Key(f"d/{one:05}")) for one in (number, number + 1))
        journal.reject(refused.seq, "too odd")
        journal.set_error([failed.seq], "too slow")


async def test_a_status_costs_the_same_however_much_waits(tmp_path, autojump_clock) -> None:
    """4,000 changes, a quarter of them refused and a quarter with an error, are as quickly told as 400."""
    async with open_rig(tmp_path) as rig:
        reporter, costs = reporter_of(rig), []
        for numbers in (range(400), range(400, 4000)):
            record(rig, numbers)
            costs.append(steps(reporter.status))
            status, most = reporter.status(), numbers.stop
            assert (status.pending.count, status.rejected.count) == (most * 3 // 4, most // 4)
            refused = [change.seq for change in rig.journal.rejected()]
            assert len(refused) == most // 4
            assert refused == sorted(refused)
            assert [one.seq for one in status.rejected.items] == refused[:SHOWN]
            counts = {one.reason: one.count for one in status.reasons}
            assert counts == {"too odd": most // 4, "too slow": most // 4}
            assert reporter._pending_by_namespace()[str(rig.namespace)] == (
                most * 3 // 4, rig.journal.pending_bytes
            )  # fmt: skip
        assert costs[1] < 1.1 * costs[0]
        assert len(reporter.left()) == SHOWN


async def test_the_rest_of_a_sync_costs_the_same_however_much_is_left(tmp_path, autojump_clock) -> None:
    """`kvfs sync` and `.kvfs/queue` tell the rest of 12,000 changes as quickly as that of 4,000."""
    async with open_rig(tmp_path) as rig:
        reporter, costs = reporter_of(rig), []
        controls, before = controls_of(rig, reporter), rig.sender.statistics()
        for numbers in (range(4000), range(4000, 12_000)):
            record(rig, numbers)
            costs.append((steps(lambda: controls._left(before)), steps(lambda: list(reporter._queue()))))
            left, count = controls._left(before), numbers.stop
            assert left.left_count == count
            assert {one.reason: one.count for one in left.reasons} == {
                "too odd": count // 4, "too slow": count // 4, NOT_TRIED: count // 2
            }  # fmt: skip
            lines = list(reporter._queue())
            assert len(lines) == QUEUED + 1
            assert lines[-1] == b"# %d more: kvfs pending\n" % (count - QUEUED)
        assert costs[1][0] < 1.1 * costs[0][0]
        assert costs[1][1] < 1.1 * costs[0][1]


async def test_why_the_last_try_failed_is_counted_for_all(tmp_path, autojump_clock) -> None:
    """After a restart all 200 changes that could not be sent say so, and not only the first hundred."""
    async with open_rig(tmp_path) as rig:
        record(rig, range(400))
        rig.journal.note_failure([one.seq for one in rig.journal.pending()], "away", rig.now())
        rig.restart()
        found = reporter_of(rig).status().reasons
        counts = {one.reason: one.count for one in found}
        assert counts == {"too odd": 100, "too slow": 100, "the last try failed: away": 200}


async def test_reasons_from_counts_are_those_of_all_changes(tmp_path, autojump_clock) -> None:
    """A status says by a few looks all that a look at every change comes to."""
    async with open_rig(tmp_path) as rig:
        reporter = reporter_of(rig)
        record(rig, range(80))
        rig.store.fail("*", UnavailableError("away"))
        await rig.sender.send_once()
        outlook = reporter._outlook
        everything = outlook.reasons([*rig.journal.rejected(), *rig.journal.pending()])
        assert len(everything) == 3
        told = outlook.summary(rig.journal.totals)
        rough = [
            sorted(str(replace(one, next_try_seconds=one.next_try_seconds is not None)) for one in reasons)
            for reasons in (told, everything)
        ]
        assert rough[0] == rough[1]


async def test_the_history_of_everything_lets_the_mount_go_on(tmp_path, autojump_clock, monkeypatch) -> None:
    """2,000 keys that are listed and 1,000 that were written are counted a few at a time."""
    monkeypatch.setattr(undo, "SLICE", 100)
    async with open_rig(tmp_path) as rig:
        ns, turns = rig.namespace, 0
        keys = tuple(KeyInfo(Key(f"listed/{number:05}")) for number in range(2000))
        rig.reading.listings.learn(ns, "", KeyPage(keys, None))
        record(rig, range(1000))
        await rig.undo.history.flush()

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            answer = await rig.undo._count(ns, "")
            nursery.cancel_scope.cancel()
        assert answer == (1000, 2000)
        assert turns >= 25
