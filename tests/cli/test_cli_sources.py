"""Names of sources on the command line, and the journals that a machine keeps of them."""

import os
import time
from pathlib import Path

import pytest
from support.quick import quick

from kvfs.cli.daemons import living_mounts, source_name
from kvfs.cli.unsent import kept_source, kept_sources
from kvfs.core.errors import UserError
from kvfs.core.model import Key, NamespaceId
from kvfs.host.sources import journals
from kvfs.host.state import MountRecord, record_path, write_record
from kvfs.journal.journal import Journal


def journal_of_nobody(state: Path, *, writes: bool) -> Path:
    """A journal of a mount that ended before its source was recorded; `writes`: with a change in it."""
    path = state / "sources" / "abc" / "journal.sqlite"
    path.parent.mkdir(parents=True)
    with Journal.open(path, source="local:/x", now=time.time) as journal:
        if writes:
            body = journal.stage(b"x")
            journal.record_put(NamespaceId("n"), Key("a"), body, metadata=None, expiration=None, base=b"")
    return path


def test_a_mount_that_failed_leaves_nothing_to_see(tmp_path: Path) -> None:
    """Its empty journal is no source that holds changes, and it is not altered."""
    path = journal_of_nobody(tmp_path, writes=False)
    before = path.read_bytes()
    assert kept_sources(tmp_path) == []
    assert path.read_bytes() == before
    assert journals(tmp_path) == [path]


def test_changes_of_a_source_without_a_name_are_seen(tmp_path: Path) -> None:
    """Changes are told though the record of their source is lost, with a command that can be typed."""
    journal_of_nobody(tmp_path, writes=True)
    (kept,) = kept_sources(tmp_path)
    assert "name is not recorded" in kept.error
    assert kept.command == "kvfs mount SOURCE DIR"


def test_a_source_may_be_written_as_it_was_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`local:`, a relative file and the name in full are one source; one that is mounted is said to be."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = {
        f"local:{tmp_path}/kvfs/store.sqlite": ("local:",),
        f"local:{tmp_path}/a": ("local:a", "local:./a"),
    }
    (tmp_path / "mounts").mkdir()
    for number, (full, short) in enumerate(names.items()):
        mountpoint = tmp_path / f"mnt{number}"
        record = MountRecord(str(mountpoint), full, os.getpid(), "", 0.0)
        write_record(record, record_path(mountpoint, tmp_path))
        for text in (full, *short):
            assert [one.mountpoint for one in living_mounts(text, tmp_path)] == [str(mountpoint)]
            with pytest.raises(UserError, match=f"is mounted at {mountpoint}: kvfs sync"):
                kept_source(text, tmp_path)
    assert source_name("no such source") == "no such source"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mount", "local:file/ns", "mnt"), "file is a file: local: takes a whole store"),
        (
            ("ls", "local:a.sqlite/ns"),
            "a.sqlite has none; kvfs copy to it, or mkdir in a mount, makes one",
        ),
        (("log", "nope"), "nothing was mounted on"),
        (("debug-bundle", "nope"), "is not a kvfs mount, and was none before"),
        (("mount", "--profile=nope", "mnt"), "add [profile.nope]"),
        (("put", "local:a.sqlite/ns/k", "v", "--ttl", "10"), "for --ttl: KV keeps nothing"),
        (("put", "local:a.sqlite/ns/k", "v", "--expiration", "9"), "for --expiration: KV keeps nothing"),
    ],
    ids=lambda one: one[0] if isinstance(one, tuple) else None,
)
def test_a_wrong_name_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    """Nothing is made for a mount or a profile that never was, and an option that is refused is named."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    done = quick({"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("kvfs-debug*"))
