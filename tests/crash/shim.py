"""What the harness changes in a daemon before it starts: where it dies, and bugs that must be found.

The product knows nothing of this: everything here replaces its parts from outside, in the forked process only.
"""

import json
import os
import signal
import sqlite3
import sys
import types
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from kvfs.core.model import Seq
from kvfs.writeback import opening
from kvfs.writeback.outbox import Outbox
from kvfs.writeback.sending import Sender

CRASH_AT = "KVFS_CRASH_AT"
NOTES = "KVFS_CRASH_NOTES"


@dataclass(frozen=True)
class Death:
    """When a daemon is to die: at the `nth` moment of all, or of those called `point` if that is given.

    A point is what the journal is at, the statement, and whether that has run: two moments a statement.
    """

    nth: int
    point: str | None = None

    def encode(self) -> str:
        """For the environment."""
        return json.dumps(asdict(self))


class Watched(sqlite3.Connection):
    """A connection of the journal that notes the points it comes to, and dies at one.

    The notes are lines of a file: `seen POINT` the first time, `died POINT` the last.
    """

    death = Death(0)
    left = 0
    notes = -1
    seen: ClassVar[set[str]] = set()

    def execute(self, *arguments):
        return self._around(super().execute, arguments)

    def executemany(self, *arguments):
        return self._around(super().executemany, arguments)

    def executescript(self, *arguments):
        return self._around(super().executescript, arguments)

    @staticmethod
    def _around(call, arguments):
        label = f"{operation()}: {' '.join(arguments[0].split())[:40]}"
        _come_to(f"before {label}")
        result = call(*arguments)
        _come_to(f"after {label}")
        return result


def _come_to(point: str) -> None:
    if point not in Watched.seen:
        Watched.seen.add(point)
        os.write(Watched.notes, f"seen {point}\n".encode())
    if Watched.death.point in (None, point):
        Watched.left -= 1
        if Watched.left == 0:
            os.write(Watched.notes, f"died {point}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


JOURNAL = str(Path(opening.__file__).parent)
SENDER = {"flusher", "sending", "posting", "conflicts"}


def operation() -> str:
    """What the journal is asked for: its outermost function on the stack, or who holds the transaction."""
    frame, found = sys._getframe(2), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if str(path.parent) == JOURNAL and path.stem not in SENDER:
            found = frame.f_code.co_qualname
        elif path.name != "contextlib.py" and found:
            within = found.endswith(".transaction")
            return frame.f_code.co_qualname if within else found
        frame = frame.f_back
    return found


def die(death: Death, notes: str) -> None:
    """SIGKILL this process then; note the points it comes to."""
    Watched.death, Watched.left = death, death.nth
    Watched.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    names = dict(vars(sqlite3))
    names["connect"] = partial(sqlite3.connect, factory=Watched)
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
        die(Death(**json.loads(environ[CRASH_AT])), environ[NOTES])
    if plant is not None:
        PLANTS[plant]()
