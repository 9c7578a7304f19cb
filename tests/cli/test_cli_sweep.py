"""The sweep: what earlier mounts left behind, which of it is removed by itself and when, and what never is."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio

from kvfs.cli.doctor import kept
from kvfs.core.errors import JournalLockedError
from kvfs.core.model import Key, NamespaceId
from kvfs.daemon.sweep import DAY, EMPTY_SECONDS, KEPT_SECONDS, keep_used, leftovers, sweep
from kvfs.host.held import STDIN, YOUNG_SECONDS, held_file
from kvfs.host.sources import HISTORY, SourceRecord, last_used, was_used, write_source
from kvfs.host.state import MountRecord, birth, log_path, read_record, record_path, write_record
from kvfs.journal import opener
from kvfs.journal.journal import Journal
from kvfs.journal.worth import Worth
from kvfs.kept.local import DirRow, LocalAttrs
from kvfs.log.segment import segments_of

NS = NamespaceId("n" * 32)
NOW = 1_800_000_000.0


def put(journal: Journal, **options) -> int:
    """Record one change."""
    return journal.record_put(
        NS, Key("a"), journal.stage(b"a"), metadata=None, expiration=None, base=None, **options
    )


def send(journal: Journal) -> None:
    """Acknowledge a change."""
    seqs = [change.seq for change in journal.pending()]
    journal.mark_attempted(seqs)
    journal.ack(seqs, NOW)


def settle(journal: Journal) -> None:
    """Acknowledge a change long ago, so that it settles."""
    send(journal)
    journal.settle(NOW + 90, 90)


def made(state: Path, act: Callable[[Journal], object] = lambda journal: None, idle: float = 0.0) -> Path:
    """Make the journal of a source that was last mounted so long ago."""
    journal = state / "sources" / "abc" / "journal.sqlite"
    with Journal.open(journal, source="local:/x", now=lambda: NOW) as opened:
        act(opened)
    write_source(journal, SourceRecord("local:/x", "local:/x", "/mnt/x"))
    for file in (journal.parent / "source.json", *segments_of(journal)):
        os.utime(file, (NOW - idle, NOW - idle))
    return journal


def attributes(journal: Journal) -> None:
    """Record a mode of a file that is at the server."""
    put(journal, attrs=LocalAttrs(mode=0o600))
    settle(journal)


@pytest.mark.parametrize(
    ("act", "worth"),
    [
        (lambda journal: None, Worth.NOTHING),
        (lambda journal: (put(journal), settle(journal)), Worth.NOTHING),
        (attributes, Worth.KEPT),
        (lambda journal: journal.attributes.add_dir(NS, DirRow("d/", 2)), Worth.KEPT),
        (lambda journal: (put(journal), send(journal)), Worth.KEPT),
        (put, Worth.CHANGES),
        (lambda journal: put(journal, local=True), Worth.CHANGES),
        (lambda journal: journal.reject(put(journal), "never"), Worth.CHANGES),
        (lambda journal: journal.record_delete(NS, Key("a"), base=None), Worth.CHANGES),
    ],
)
def test_a_journal_goes_by_what_it_holds(tmp_path: Path, act, worth: Worth) -> None:
    """A journal with changes or local files never goes, one with other data after 90 days, an empty one after 7."""
    seconds = {Worth.NOTHING: EMPTY_SECONDS, Worth.KEPT: KEPT_SECONDS, Worth.CHANGES: 1e9}[worth]
    journal = made(tmp_path, act, seconds - 10)
    assert [one.worth for one in leftovers(tmp_path, NOW)] == [worth]
    sweep(tmp_path, NOW)
    assert journal.exists()
    sweep(tmp_path, NOW + 20)
    assert journal.exists() is (worth is Worth.CHANGES)
    assert os.listdir(tmp_path / "sources") == (["abc"] if worth is Worth.CHANGES else [])


def garbled(journal: Path) -> None:
    """Make the side table unreadable."""
    journal.write_bytes(b"not a journal")


def torn(journal: Path) -> None:
    """Make the log unreadable."""
    segments_of(journal)[0].write_bytes(b"x" * 100)


@pytest.mark.parametrize(
    "alter",
    [
        garbled,
        torn,
        lambda journal: journal.with_name("conflicts.ndjson").write_text("{}"),
        lambda journal: journal.with_name(f"{journal.name}-log.1.damaged-1").write_text("x"),
    ],
)
def test_what_is_not_known_here_is_never_removed(tmp_path: Path, alter) -> None:
    """Open conflicts, the kept rest of a damaged log, and a journal that cannot be read are never removed."""
    journal = made(tmp_path, attributes, 1e9)
    alter(journal)
    sweep(tmp_path, NOW)
    assert journal.exists()
    assert [one.goes_in for one in leftovers(tmp_path, NOW)] == [None]


def test_a_file_that_a_kill_left_half_written_keeps_no_journal(tmp_path: Path) -> None:
    """A journal goes with such a file, as if it were not there."""
    journal = made(tmp_path, idle=EMPTY_SECONDS + 1)
    journal.with_name("source.json12ab_8kk").write_text('{"source')
    sweep(tmp_path, NOW)
    assert not journal.exists()


@pytest.mark.parametrize(("folder", "prefix"), [("told", ""), ("copies", STDIN)])
def test_what_killed_commands_left_goes(tmp_path: Path, folder: str, prefix: str) -> None:
    """A mount that starts removes what they told a mount or read, and so does the next command.

    What a living command has stays.
    """
    with held_file(tmp_path / folder, prefix) as (_, mine):
        for act in (sweep, lambda state, now: held_file(state / folder, prefix).__enter__()):
            left, other = mine.with_name(f"{prefix}left"), mine.with_name("a copy to go on with")
            for file in (mine, left, other):
                file.touch()
                os.utime(file, (time.time() - YOUNG_SECONDS - 1,) * 2)
            act(tmp_path, NOW)
            assert mine.exists()
            assert not left.exists()
            assert other.exists() is bool(prefix)
    assert not mine.exists()


def test_doctor_lists_what_is_kept_and_when_it_goes(tmp_path: Path) -> None:
    """Doctor lists the things that are kept and when they go. Changes are not among them, because they never go."""
    journal = made(tmp_path, attributes)
    was_used(journal)
    assert [(one.level, one.text) for one in kept(tmp_path)] == [
        (
            "note",
            f"local:/x (last on /mnt/x): modes, times, directories or history kept in {journal.parent};"
            " goes after 90 days without a mount",
        )
    ]
    with Journal.open(journal, source="local:/x", now=lambda: NOW) as opened:
        put(opened)
        assert list(kept(tmp_path)) == []
    assert list(kept(tmp_path)) == []


def test_a_history_counts_as_something_kept(tmp_path: Path) -> None:
    """A history counts as something that is kept: it has bounds of its own, and goes with its journal."""
    journal = made(tmp_path, idle=EMPTY_SECONDS + 1)
    directory = journal.with_name(HISTORY)
    (directory / "17").mkdir(parents=True)
    assert [one.worth for one in leftovers(tmp_path, NOW)] == [Worth.KEPT]


def test_an_empty_history_is_nothing(tmp_path: Path) -> None:
    """A mount makes the directory whether anything is overwritten or not: the journal goes after a week."""
    journal = made(tmp_path, idle=EMPTY_SECONDS + 1)
    (journal.with_name(HISTORY) / "incoming").mkdir(parents=True)
    assert [one.worth for one in leftovers(tmp_path, NOW)] == [Worth.NOTHING]
    sweep(tmp_path, NOW)
    assert not journal.parent.exists()


def test_a_journal_that_is_open_is_left_alone(tmp_path: Path) -> None:
    """A journal that is open is left alone, however long ago its mount began; its time begins when the mount ends."""
    journal = made(tmp_path, idle=1e9)
    with Journal.open(journal, source="local:/x", now=lambda: NOW):
        sweep(tmp_path, NOW)
        assert list(leftovers(tmp_path, NOW)) == []
    assert journal.exists()
    was_used(journal)
    assert abs(last_used(journal) - time.time()) < 60


def ended() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_records_and_sockets_of_dead_mounts_go(tmp_path: Path) -> None:
    """Records and sockets of dead mounts go and those of living ones stay, also if a process number was used again."""
    (tmp_path / "mounts").mkdir()
    (tmp_path / "sources").mkdir()
    mine = birth(os.getpid())
    cases = {
        "dead": (ended(), 1),
        "reused": (os.getpid(), mine - 1),
        "old": (os.getpid(), 0),
        "alive": (os.getpid(), mine),
    }
    for name, (pid, born) in cases.items():
        socket = tmp_path / f"{name}.sock"
        socket.touch()
        record = MountRecord(f"/nowhere/{name}", "local:/x", pid, str(socket), NOW, born)
        write_record(record, record_path(Path(record.mountpoint), tmp_path))
    sweep(tmp_path, NOW)
    left = {name for name in cases if read_record(record_path(Path(f"/nowhere/{name}"), tmp_path))}
    assert left == {"old", "alive"}
    assert {file.stem for file in tmp_path.glob("*.sock")} == left


def test_old_logs_go_and_young_ones_stay(tmp_path: Path) -> None:
    """Old logs go, and so do half-written files of a killed process and counts of requests; young ones stay."""
    for folder in ("mounts", "sources/abc", "requests", "kinds"):
        (tmp_path / folder).mkdir(parents=True)
    names = [
        "mounts/mnt-a.log",
        "mounts/mnt-a.log.1",
        "mounts/abc.json4711",
        "kinds/abc.json12ab_8kk",
        "sources/abc/source.json12ab_8kk",
        "requests/abc",
        "mounts/abc.sock",
    ]
    for name in names:
        for age, ending in ((KEPT_SECONDS + DAY, "old"), (DAY, "young")):
            file = tmp_path / Path(name).with_name(f"{ending}-{Path(name).name}")
            file.touch()
            os.utime(file, (NOW - age, NOW - age))
    sweep(tmp_path, NOW)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("old-*")}
    assert left == {"mounts/old-abc.sock"}
    assert len(list(tmp_path.rglob("young-*"))) == len(names)


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("/home/ada/kv", "home-ada-kv.log"),
        ("/mnt/a.b_c", "mnt-a.b_c.log"),
        ("/mnt/ü", "mnt-ü.log"),
    ],
)
def test_a_log_is_named_like_its_mount(tmp_path: Path, directory: str, name: str) -> None:
    """A log is named like its mount, so that people find it in a list of files."""
    assert log_path(Path(directory), tmp_path).name == name


def test_no_two_mounts_have_one_log(tmp_path: Path) -> None:
    """Two mounts never share a log: a hash tells similar and overlong names apart, and every name is a file name."""
    directories = [
        "/a/b",
        "/a-b",
        "/a/b-c",
        "/a-b/c",
        "/a b",
        "/a\tb",
        "/",
        "/.a",
        "/a",
        "/x" * 300,
        "/x" * 301,
    ]
    directories += ["/\udcff", "/\udcfe"]  # names that are not UTF-8
    names = {log_path(Path(directory), tmp_path).name for directory in dict.fromkeys(map(Path, directories))}
    assert len(names) == len({*map(Path, directories)})
    for name in names:
        assert len(os.fsencode(name)) <= 200
        assert not name.startswith(".")
        assert name.endswith(".log")


def test_what_a_killed_sweep_left_goes_too(tmp_path: Path) -> None:
    """The leftovers of a killed sweep are removed, and stop no other removal."""
    journal = made(tmp_path, idle=1e9)
    half = journal.parent.with_name(".abc.gone")
    half.mkdir()
    (half / "journal.sqlite-reserve").touch()
    sweep(tmp_path, NOW)
    assert os.listdir(tmp_path / "sources") == []


def test_a_mount_never_holds_the_lock_of_a_journal_that_was_removed(tmp_path: Path, monkeypatch) -> None:
    """If the sweep removes a journal just before a mount has its lock, the mount waits and makes a new one."""
    journal = made(tmp_path, idle=1e9)

    def flock(descriptor: int, how: int) -> None:
        monkeypatch.setattr(opener, "fcntl", fcntl)
        sweep(tmp_path, NOW)
        fcntl.flock(descriptor, how)

    monkeypatch.setattr(opener, "fcntl", SimpleNamespace(**vars(fcntl) | {"flock": flock}))
    with pytest.raises(JournalLockedError) as caught:
        opener.lock(journal, "/mnt/x")
    assert caught.value.mountpoint == ""
    assert not journal.parent.exists()


def test_the_log_of_a_mount_that_is_there_stays(tmp_path: Path) -> None:
    """The log of a living mount stays though nothing was written for months; its older parts go."""
    mountpoint = Path("/nowhere/quiet")
    (tmp_path / "mounts").mkdir()
    record = MountRecord(
        str(mountpoint), "local:/x", os.getpid(), str(tmp_path / "sock"), NOW, birth(os.getpid())
    )
    write_record(record, record_path(mountpoint, tmp_path))
    log = log_path(mountpoint, tmp_path)
    for file in (log, log.with_name(f"{log.name}.1")):
        file.touch()
        os.utime(file, (NOW - 2 * KEPT_SECONDS,) * 2)
    sweep(tmp_path, NOW)
    assert [file.name for file in (tmp_path / "mounts").glob("*.log*")] == [log.name]


async def test_a_source_counts_as_used_while_it_is_mounted(tmp_path: Path, autojump_clock) -> None:
    """A mounted source counts as used, so its leftovers do not go at once when the mount is killed."""
    journal = made(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_used, journal)
        for _ in range(2):
            for file in (journal.parent / "source.json", *segments_of(journal)):
                os.utime(file, (1, 1))
            await trio.sleep(1.5 * DAY)
            assert time.time() - last_used(journal) < 60
        nursery.cancel_scope.cancel()
