"""What the harness changes in a daemon before it starts: where it dies, and bugs that must be found.

The product knows nothing of this: everything here replaces its parts from outside, in the forked process only.
"""

import os
import signal
import sqlite3
import types
from collections.abc import Iterable
from functools import partial

from kvfs.core.model import Seq
from kvfs.writeback import opening
from kvfs.writeback.outbox import Outbox
from kvfs.writeback.sending import Sender

CRASH_AT = "KVFS_CRASH_AT"


class Counting(sqlite3.Connection):
    """A connection of the journal that counts the moments before and after each statement, and dies at one."""

    left = 0

    def execute(self, *arguments):
        return self._around(super().execute, arguments)

    def executemany(self, *arguments):
        return self._around(super().executemany, arguments)

    def executescript(self, *arguments):
        return self._around(super().executescript, arguments)

    @staticmethod
    def _around(call, arguments):
        _tick()
        result = call(*arguments)
        _tick()
        return result


def _tick() -> None:
    Counting.left -= 1
    if Counting.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: int) -> None:
    """SIGKILL this process at the so many-th moment before or after a statement of the journal."""
    Counting.left = moment
    names = dict(vars(sqlite3))
    names["connect"] = partial(sqlite3.connect, factory=Counting)
    opening.sqlite3 = types.SimpleNamespace(**names)


def acknowledge_by_key() -> None:
    """The bug: an answer acknowledges whatever the key holds by now, not what was sent."""
    places = {}
    mark, ack = Outbox.mark_attempted, Outbox.ack

    def marked(self: Outbox, seqs: Iterable[Seq]) -> None:
        seqs = list(seqs)
        rows = [row for seq in seqs if (row := self.row(seq)) is not None]
        places.update({row.change.seq: (row.change.namespace, row.change.key) for row in rows})
        mark(self, seqs)

    def acknowledged(self: Outbox, seqs: Iterable[Seq], at: float) -> None:
        found = [self.get(*places[seq]) for seq in seqs]
        ack(self, [change.seq for change in found if change is not None], at)

    Outbox.mark_attempted, Outbox.ack = marked, acknowledged


def delete_before_put() -> None:
    """The bug: deletions leave first, without waiting for the puts they depend on."""
    send = Sender.send
    Outbox.blocker = lambda self, change: None
    Sender._unblocked = lambda self, tombstones: list(tombstones)

    async def sent(self: Sender, changes):
        deletions = [change for change in changes if change.is_tombstone]
        if deletions:
            outcome = await send(self, deletions)
            if outcome.failure is not None or len(deletions) == len(changes):
                return outcome
        return await send(self, [change for change in changes if not change.is_tombstone])

    Sender.send = sent


PLANTS = {"ack-by-key": acknowledge_by_key, "delete-before-put": delete_before_put}


def apply(environ: dict[str, str], plant: str | None) -> None:
    """What one daemon is to be, before it starts."""
    if CRASH_AT in environ:
        die_at(int(environ[CRASH_AT]))
    if plant is not None:
        PLANTS[plant]()
