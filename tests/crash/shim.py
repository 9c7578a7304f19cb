"""The parts of a daemon that the harness replaces before it starts: where it dies, and bugs that must be found.

The product knows nothing of this: all is replaced from outside, in the forked process only.
"""

import errno
import json
import os
import shutil
import signal
import sqlite3
import sys
import types
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from kvfs.changes import records
from kvfs.core.model import Seq
from kvfs.journal import opener, replay, snapshot
from kvfs.journal.outbox import Outbox
from kvfs.kept import side, sidefile
from kvfs.log import disk, log, reserve, spool, spool_directory
from kvfs.sender.round import Round

CRASH_AT = "KVFS_CRASH_AT"
NOTES = "KVFS_CRASH_NOTES"
TUNE = "KVFS_CRASH_TUNE"
LABEL = (
    100  # characters of a statement in a label; of a longer one also a checksum, so that no two are merged
)


@dataclass(frozen=True)
class Death:
    """The moment at which a daemon is to die: the `nth` of all, or of those called `point` if that is given.

    A point is the operation of the journal, the statement or call, and if that has run: two moments each, three a
    record of the log.
    """

    nth: int
    point: str | None = None

    def encode(self) -> str:
        """Return the text for the environment."""
        return json.dumps(asdict(self))


class Watched(sqlite3.Connection):
    """Watches a connection of the journal, notes the points it comes to, and dies at one.

    The notes are lines of a file: `seen POINT` the first time, `died POINT` the last, `site FILE:LINE` for its place
    in the source, the first time.
    """

    pages = 0  # so many at most may the file have, if not 0: SQLite then answers that the disk is full
    disk = 0  # so many bytes at most may log, snapshots and reserve have together, if not 0
    room = 0  # so many bytes at most may a file of the log have, if not 0: a record is then taken in part
    snapshot_room = (
        0  # so many bytes at most may a record of a snapshot have, if not 0: the disk is full then
    )

    death = Death(0)
    left = 0
    notes = -1
    seen: ClassVar[set[str]] = set()

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        if self.pages:
            super().execute(f"PRAGMA max_page_count = {self.pages}")

    def execute(self, *arguments):
        return self._around(super().execute, arguments)

    def executemany(self, *arguments):
        return self._around(super().executemany, arguments)

    def executescript(self, *arguments):
        return self._around(super().executescript, arguments)

    @staticmethod
    def _around(call, arguments):
        return _around(call, _shown(" ".join(arguments[0].split())), *arguments)


def _around(call, what: str, *arguments, **named):
    """Call a function with a point before it and one after it, where the journal calls it."""
    where = operation()
    if not where:
        return call(*arguments, **named)
    _come_to(f"before {where}: {what}")
    result = call(*arguments, **named)
    _come_to(f"after {where}: {what}")
    return result


def _watched(call, name: str):
    return lambda *arguments, **named: _around(call, name, *arguments, **named)


def _writev(descriptor: int, parts: Sequence[bytes]) -> int:
    """Write as the log does; the process may die before, halfway and after."""
    label, record = f"{operation()}: append", b"".join(parts)
    if Watched.room:
        record = record[: max(0, Watched.room - os.fstat(descriptor).st_size)]
        if not record:
            raise OSError(errno.ENOSPC, "no room is left, says the harness")
    if Watched.disk:
        record = record[: _free(descriptor)]
        if not record:
            raise OSError(errno.ENOSPC, "no room is left, says the harness")
    half = len(record) // 2
    _come_to(f"before {label}")
    written = os.write(descriptor, record[:half])
    _come_to(f"halfway {label}")
    written += os.write(descriptor, record[half:])
    _come_to(f"after {label}")
    return written


def _free(descriptor: int) -> int:
    """Return the room left on a disk that holds the files beside this one."""
    folder = Path(os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")).parent
    files = [*folder.glob("*-log.*"), *folder.glob("*-reserve")]
    return max(0, Watched.disk - sum(file.stat().st_size for file in files))


def _fallocate(descriptor: int, offset: int, size: int) -> None:
    """Allocate as the reserve does."""
    if Watched.disk and size > _free(descriptor):
        raise OSError(errno.ENOSPC, "no room is left, says the harness")
    _around(os.posix_fallocate, "fallocate", descriptor, offset, size)


def _write(descriptor: int, data: bytes) -> int:
    """Write as a snapshot does."""
    if Watched.disk and len(data) > _free(descriptor):
        raise OSError(errno.ENOSPC, "no room is left, says the harness")
    if Watched.snapshot_room and len(data) > Watched.snapshot_room:
        raise OSError(errno.ENOSPC, "no room is left, says the harness")
    return _around(os.write, "write", descriptor, data)


def _shown(statement: str) -> str:
    if len(statement) <= LABEL:
        return statement
    return f"{statement[:LABEL]}… ({zlib.crc32(statement.encode()):08x})"


def _note(word: str, what: str) -> None:
    if (line := f"{word} {what}\n") not in Watched.seen:
        Watched.seen.add(line)
        os.write(Watched.notes, line.encode())


def _come_to(point: str) -> None:
    _note("seen", point)
    if Watched.death.point in (None, point):
        Watched.left -= 1
        if Watched.left == 0:
            os.write(Watched.notes, f"died {point}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


JOURNAL = {str(Path(module.__file__).parent) for module in (opener, log, records, side)}
"""The folders of the journal, of its log and its changes, and of what is kept beside it."""


def operation() -> str:
    """Return the journal's operation: its functions on the stack, the outermost first, and the transaction's holder."""
    frame, found, last = sys._getframe(1), [], ""
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    while frame is not None:
        folder, name = os.path.split(frame.f_code.co_filename)
        inside = folder in JOURNAL
        if found and not inside and last.startswith("Transactions."):
            inside = True  # the caller of `with journal.transaction()`
        if inside:
            if not found:
                _note("site", f"{name}:{frame.f_lineno}")
            last = frame.f_code.co_qualname
            found.append(last)
        else:
            break
        frame = frame.f_back
    return " > ".join(one for one in reversed(found) if not one.startswith("Transactions."))


def _is_ours(frame: types.FrameType) -> bool:
    return frame.f_code.co_filename == __file__


def die(death: Death, notes: str) -> None:
    """Have this process killed by SIGKILL at that moment, and note the points it comes to."""
    Watched.death, Watched.left = death, death.nth
    Watched.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    names = dict(vars(sqlite3))
    names["connect"] = partial(sqlite3.connect, factory=Watched)
    for module in (side, sidefile):
        module.sqlite3 = types.SimpleNamespace(**names)
    calls = {
        name: _watched(getattr(os, name), name) for name in ("ftruncate", "truncate", "fsync", "fdatasync")
    }
    for module in (disk, log, opener, replay, reserve, sidefile, snapshot, spool, spool_directory):
        module.os = types.SimpleNamespace(**vars(os) | calls)
    log.os.writev = _writev
    reserve.os.posix_fallocate = _fallocate
    snapshot.os.write = _write
    replay.shutil = types.SimpleNamespace(copyfile=_watched(shutil.copyfile, "copy"))
    for name in ("rename", "replace", "unlink"):
        setattr(Path, name, _path_method(getattr(Path, name), name))


def _path_method(call, name: str):
    return lambda self, *arguments, **named: _around(call, name, self, *arguments, **named)


def acknowledge_by_key() -> None:
    """Plant a bug: an answer acknowledges the key's present content, and not the content that was sent."""
    places = {}
    mark, ack = Outbox.mark_attempted, Outbox.ack

    def marked(self: Outbox, seqs: Iterable[Seq]) -> None:
        seqs = list(seqs)
        rows = [row for seq in seqs if (row := self.row(seq)) is not None]
        places.update({row.seq: (row.namespace, row.key) for row in rows})
        mark(self, seqs)

    def acknowledged(self: Outbox, seqs: Iterable[Seq], at: float) -> None:
        found = [self._index.get(*places[seq]) for seq in seqs]
        ack(self, [row.seq for row in found if row is not None], at)

    Outbox.mark_attempted, Outbox.ack = marked, acknowledged


def delete_before_put() -> None:
    """Plant a bug: deletions are sent first, without waiting for the puts they depend on."""
    send = Round.send
    Outbox.blocker = lambda self, change: None
    Round._unblocked = lambda self, tombstones, outcome: list(tombstones)

    async def sent(self: Round, changes, **how):
        deletions = [change for change in changes if change.is_tombstone]
        if deletions:
            outcome = await send(self, deletions, **how)
            if outcome.failure is not None or len(deletions) == len(changes):
                return outcome
        return await send(self, [change for change in changes if not change.is_tombstone], **how)

    Round.send = sent


PLANTS = {"ack-by-key": acknowledge_by_key, "delete-before-put": delete_before_put}


def tune(values: dict[str, int]) -> None:
    """Set bounds of the product, by `module.NAME`, so that little work reaches them.

    For `pages`, `disk`, `room` and `snapshot_room` see `Watched`.
    """
    for name, value in values.items():
        if name in ("pages", "disk", "room", "snapshot_room"):
            setattr(Watched, name, value)
            continue
        module, _, constant = name.rpartition(".")
        found = import_module(module)
        if not hasattr(found, constant):
            raise AttributeError(name)
        setattr(found, constant, value)


def apply(environ: dict[str, str], plant: str | None) -> None:
    """Make the changes that one daemon is to have, before it starts."""
    if TUNE in environ:
        tune(json.loads(environ[TUNE]))
    if CRASH_AT in environ:
        die(Death(**json.loads(environ[CRASH_AT])), environ[NOTES])
    if plant is not None:
        PLANTS[plant]()
