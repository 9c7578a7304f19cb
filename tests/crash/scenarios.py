"""Work that reaches every statement of the journal: short plays for `scripts/crash --every-point`.

A play acts on a `Stage` (`stage.py`), which follows what was promised. It may have a `prior` part, whose daemon
is killed, and tamper with the state before the part in which the daemon is to die.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio
from crash.lane import Violation
from crash.stage import Stage
from msgspec.structs import replace
from support.journals import alter, logged, open_journal, segments, snapshot, source_of

from kvfs.changes.records import encode
from kvfs.changes.rules import Row
from kvfs.log.segment import Head, read_head, record_head, segments_of

LARGE = b"large " * 60_000  # goes to the spool
INLINE = b"inline " * 16_000  # stays in the journal
CULPRITS, SNAPSHOT, KEPT = "kvfs.sender.culprits", "kvfs.journal.snapshot", "kvfs.kept.facts"


@dataclass(frozen=True, eq=False)
class Play:
    """One play. With `loose` the content of its files is not compared, only that the mount starts and shows them."""

    act: Callable[[Stage], None]
    prior: Callable[[Stage], None] | None = None
    tamper: Callable[[Stage], None] | None = None
    write_back: float = 600
    settle: float = 60
    tune: Mapping[str, int] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    loose: bool = False

    @property
    def name(self) -> str:
        """Return the name for the report."""
        return self.act.__name__


def files(stage: Stage) -> None:
    """Do everything that can be done to a file that is pending."""
    for name in ("a", "b", "c"):
        stage.put(name, name.encode())
    stage.chmod("a", 0o600)
    stage.xattr("a", 7)
    stage.touch("b", 3600)
    stage.touch("b", -3600)
    stage.put("c", b"again")
    stage.rename("a", "d")
    stage.rename("c", "d")
    stage.unlink("b")
    stage.put("large", LARGE)
    stage.rename("large", "larger")
    stage.put("larger", b"small")
    stage.unlink("d")


def sent(stage: Stage) -> None:
    """Send, rename, rewrite and delete files that the store has, and send them again."""
    for name in ("a", "b", "c", "e"):
        stage.put(name, name.encode())
    stage.put("large", LARGE)
    stage.chmod("e", 0o640)
    stage.sync()
    stage.gone("SELECT 1 FROM changes")
    stage.rename("a", "d")
    stage.rename("d", "b")
    stage.rename("e", "f")
    stage.xattr("f", 3)
    stage.touch("f", 3600)
    stage.unlink("c")
    stage.rename("large", "larger")
    stage.sync()
    stage.gone("SELECT 1 FROM changes")


def directories(stage: Stage) -> None:
    """Make, change, move (with their content) and remove directories that are kept here."""
    for name in ("p", "p/q", "p/q/r", "s"):
        stage.mkdir(name)
    stage.put("p/q/f", b"f")
    stage.put("p/g", b"g")
    stage.chmod("p/g", 0o600)
    stage.chmod("p", 0o700)
    stage.touch("p", -3600)
    stage.rename("p", "t")
    stage.rename("t", "s")
    stage.rmdir("s/q/r")
    stage.sync()
    stage.rename("s", "u")
    stage.unlink("u/g")


def in_flight(stage: Stage) -> None:
    """Write over a new name while the request with its first content is on its way."""
    stage.put("a", b"first")
    stage.sync()
    stage.faults({"fault": "latency", "seconds": 0.25, "path": "/bulk"})
    stage.rename("a", "b")
    stage.there("SELECT 1 FROM changes WHERE key = 'b' AND attempted")
    stage.put("b", b"second")
    stage.sync()
    stage.rename("b", "c")
    stage.put("c", b"third")
    stage.rename("c", "d")
    stage.sync()


def torn(stage: Stage) -> None:
    """Send one key again, because the store asks for that."""
    stage.put("a", b"a")
    stage.put("b", b"b")
    stage.faults({"fault": "torn_bulk", "count": 1, "times": 1, "method": "PUT"})
    stage.sync()


def refused(stage: Stage) -> None:
    """Let the store refuse changes; retry them, have them refused again, and discard them."""
    stage.put("kept", b"kept")
    stage.put("old", b"old")
    stage.sync()
    stage.faults({"fault": "status", "status": 400, "code": 10147, "method": "PUT"})
    stage.rename("old", "new")
    stage.put("kept", b"refused")
    stage.chmod("kept", 0o600)
    refusals = "SELECT 1 FROM changes GROUP BY state HAVING state = 'rejected' AND count(*) = 2"
    stage.sync(timeout=0.2)
    stage.there(refusals)
    stage.ask("rejected_retry", all=True)
    stage.sync(timeout=0.2)
    stage.there(refusals)
    stage.put("kept", b"over it")
    stage.sync(timeout=0.2)
    stage.there(refusals)
    stage.ask("rejected_discard", all=True)


def conflict(stage: Stage) -> None:
    """Let another client write a key that was read and changed here, so that our value goes beside it."""
    stage.api_put("theirs", b"theirs")
    stage.until(lambda: "theirs" in stage.names())
    stage.read("theirs")
    stage.put("c", b"ours")
    stage.put("old", b"renamed")
    stage.chmod("c", 0o640)
    stage.sync()
    stage.gone("SELECT 1 FROM changes")
    stage.read("c")
    stage.put("c", b"changed")
    stage.api_put("c", b"theirs")
    stage.sync(timeout=5)
    stage.there("SELECT 1 FROM changes WHERE key LIKE 'c.kvfs%'")
    stage.read("old")
    stage.rename("old", "new")
    stage.api_put("old", b"theirs")
    stage.sync(timeout=5)
    stage.gone("SELECT 1 FROM changes WHERE key = 'old' AND state = 'pending'")


def one_expiring(stage: Stage) -> None:
    """Leave a pending change with an expiration."""
    stage.put("a", b"soon gone")
    stage.touch("a", 3600)
    stage.chmod("a", 0o600)


def pass_time(stage: Stage) -> None:
    """Let its time pass."""
    passed = int(time.time()) - 1
    alter(stage.journal(), lambda row: _changed(row, expiration=passed))


def expired(stage: Stage) -> None:
    """Let the time of a change pass before it is sent."""
    stage.sync()
    stage.gone("SELECT 1 FROM changes WHERE kind = 'put'")


def namespace_gone(stage: Stage) -> None:
    """Delete the namespace elsewhere while changes of it are pending."""
    stage.put("a", b"a")
    stage.api_drop()
    stage.sync(timeout=2)
    stage.there("SELECT 1 FROM changes WHERE state = 'rejected'")


def namespace_removed(stage: Stage) -> None:
    """Make and remove a namespace through the mount, with everything kept of it."""
    stage.call(os.mkdir, stage.mountpoint / "second")
    stage.call(os.mkdir, stage.mountpoint / "second" / "kept")
    stage.call(os.rmdir, stage.mountpoint / "second" / "kept")
    stage.call(os.rmdir, stage.mountpoint / "second")


def side_full(stage: Stage) -> None:
    """Keep the side table from growing: changes settle all the same, and their attributes wait in the log."""
    for number in range(60):
        stage.put(f"f{number}" + "x" * 100, b"small")
        stage.chmod(f"f{number}" + "x" * 100, 0o600)
    stage.sync()
    stage.gone("SELECT 1 FROM changes")


def full_log(stage: Stage) -> None:
    """Keep the log from growing: a record that does not fit is cut off again, and its change did not happen."""
    stage.put("small", b"small")
    stage.put("long", INLINE, may_fail=True)
    stage.put("small", b"still there")
    stage.put("long", INLINE, may_fail=True)
    stage.rename("small", "other")


def full_disk(stage: Stage) -> None:
    """Let the disk take no further change: the pending ones are sent nevertheless, and make room."""
    for number in range(12):
        stage.put(f"f{number}", bytes(7_000), may_fail=True)
    stage.sync()
    stage.gone("SELECT 1 FROM changes")
    stage.until(lambda: _size_of_log(stage) < 20_000)
    stage.put("f0", b"again")
    stage.unlink("f1")
    stage.sync()


def _size_of_log(stage: Stage) -> int:
    """Return the bytes of the segments of the log; a segment may be removed at this very moment."""
    size = 0
    for segment in segments_of(stage.journal()):
        with suppress(FileNotFoundError):
            size += segment.stat().st_size
    return size


def no_log(stage: Stage) -> None:
    """Keep a segment from being begun: nothing is recorded, and nothing is left of it."""
    for _ in range(2):
        stage.put("small", b"small", may_fail=True)


def no_snapshot(stage: Stage) -> None:
    """Keep a snapshot from fitting: the log stays as long as it is."""
    for number in range(20):  # a snapshot is thought of once in 16 commits
        stage.put("small", bytes(1_000 + number))


def adopted(stage: Stage) -> None:
    """Let a command write beside the mount: the mount shows at once what it wrote, and what it deleted."""
    for name in ("a", "b"):
        stage.put(name, b"of the mount")
    stage.sync()
    for value in (b"of a command", LARGE):
        stage.command_put("a", value)
        if stage.read("a") != value:
            raise Violation("the mount does not show what a command wrote")
    stage.command_put("b", None)
    if "b" in stage.names():
        raise Violation("the mount shows what a command deleted")


def durable(stage: Stage) -> None:
    """Force every close to the disk."""
    stage.put("small", b"small")
    stage.put("large", LARGE)
    stage.rename("large", "larger")


def upkeep(stage: Stage) -> None:
    """Write a snapshot after every change, and one when the journal is closed."""
    for number in range(3):
        stage.put(f"f{number}", INLINE)
    stage.put("large", LARGE)
    stage.sync()
    stage.gone("SELECT 1 FROM changes")
    stage.unlink("f0")
    stage.sync()


def snapshots(stage: Stage) -> None:
    """Leave a log that a snapshot begins."""
    for number in range(3):
        stage.put(f"f{number}", b"small")


def after_snapshot(stage: Stage) -> None:
    """Start the mount on a log with a snapshot, and on the rest of the segments before it."""
    stage.put("f0", b"again")


def two_large(stage: Stage) -> None:
    """Leave spooled contents, one sent, one pending, and a small one."""
    stage.put("sent", LARGE)
    stage.put("small", b"small")
    stage.sync()
    stage.put("pending", LARGE + b"2")


def lose_contents(stage: Stage) -> None:
    """Remove files of the spool, as a power cut may."""
    for path in stage.state.glob("kvfs/sources/*/journal.sqlite.spool/*"):
        path.unlink()


def after_loss(stage: Stage) -> None:
    """Start the mount on the files that are left."""
    stage.names()


def after_kill(stage: Stage) -> None:
    """Start the mount on a log as a kill left it."""
    stage.look()


def one_sent(stage: Stage) -> None:
    """Leave an acknowledged change that has not settled."""
    stage.put("a", b"a")
    stage.sync()


def garble(stage: Stage) -> None:
    """Flip a bit in the log, before a segment and in one."""
    segment = stage.journal().with_name(segments(stage.journal())[-1])
    content = bytearray(segment.read_bytes())
    content[-20] ^= 1
    segment.write_bytes(content)
    last = logged(stage.journal()).last
    assert last
    later = segment.with_name(f"{stage.journal().name}-log.9")
    head = Head(read_head(segment).identity, last + 5, is_snapshot=False).encode()
    operations = encode([])
    later.write_bytes(head + record_head(last + 6, operations, []) + operations)


def after_damage(stage: Stage) -> None:
    """Start the mount on the readable part; the rest is kept."""
    stage.names()


def leave_leftovers(stage: Stage) -> None:
    """Leave the files that a kill may leave: half a snapshot, and a segment that a snapshot has replaced."""
    journal = stage.journal()
    with open_journal(journal, source=source_of(journal)) as opened:
        trio.run(snapshot, opened)
    segment = journal.with_name(segments(journal)[0])
    head = read_head(segment)
    operations = encode([])
    for name in ("0", "00"):
        old = Head(head.identity, 0, is_snapshot=False).encode() + record_head(1, operations, []) + operations
        segment.with_name(f"{journal.name}-log.{name}").write_bytes(old)
    segment.with_name(f"{journal.name}-log.77.new").write_bytes(b"half")


def set_clock_back(stage: Stage) -> None:
    """Set the clock back, so that the change was acknowledged in the future."""
    ahead = time.time() + 3600
    alter(stage.journal(), lambda row: _changed(row, acked_at=ahead))


def after_clock(stage: Stage) -> None:
    """Check that it settles nevertheless."""
    stage.look()
    stage.gone(f"SELECT 1 FROM changes WHERE acked_at > {time.time() + 1800}")


def _changed(row: Row, **fields: object) -> Row:
    return replace(row, **fields)


PLAYS = (
    Play(files),
    Play(sent, settle=0.2),
    Play(directories),
    Play(in_flight, write_back=0, settle=0.2),
    Play(torn),
    Play(refused, loose=True),
    Play(conflict, settle=0.2, loose=True),
    Play(expired, one_expiring, pass_time, loose=True),
    Play(namespace_gone, tune={f"{CULPRITS}.GONE_SECONDS": 0}, loose=True),
    Play(namespace_removed),
    Play(adopted, loose=True),
    Play(side_full, settle=0.2, tune={"pages": 8, f"{KEPT}.SAVE_COUNT": 1}),
    Play(full_log, tune={"room": 20_000}),
    Play(full_disk, settle=0.2, tune={"disk": 580_000}),
    Play(no_log, tune={"room": 10}),
    Play(no_snapshot, tune={"snapshot_room": 100, f"{SNAPSHOT}.SNAPSHOT_BYTES": 0}),
    Play(durable, options=("--durable-close",)),
    Play(after_kill, two_large),
    Play(
        upkeep, settle=0.2,
        tune={f"{SNAPSHOT}.SNAPSHOT_BYTES": 0, f"{SNAPSHOT}.END_BYTES": 0, f"{KEPT}.SAVE_COUNT": 1},
    ),
    Play(after_damage, two_large, garble, loose=True),
    Play(after_snapshot, snapshots, leave_leftovers),
    Play(after_loss, two_large, lose_contents, loose=True),
    Play(after_clock, one_sent, set_clock_back, settle=0.2, loose=True),
)  # fmt: skip
