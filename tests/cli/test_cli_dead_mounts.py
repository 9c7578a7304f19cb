"""Commands beside the record of a mount whose daemon was killed and which was then unmounted."""

import json
from pathlib import Path

import pytest
from support.journals import NS, open_journal

from kvfs.cli import main
from kvfs.cli.exits import Exit
from kvfs.core.model import Key
from kvfs.host.sources import SourceRecord, write_source
from kvfs.host.state import MountRecord, record_path, write_record

SOURCE = "local:/nowhere/s.db"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory, with the record of the dead mount still in it."""
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path))
    (tmp_path / "mounts").mkdir()
    mountpoint = Path("/nowhere/mnt")
    record = MountRecord(
        str(mountpoint), SOURCE, 2**22 + 1, str(tmp_path / "mounts" / "no.sock"), 1.0, born=1
    )
    write_record(record, record_path(mountpoint, tmp_path))
    return tmp_path


def test_refused_changes_are_found_by_the_name_of_the_source(state: Path, capsys) -> None:
    """The refused changes are found in the journal, which nobody has open."""
    journal = state / "sources" / "abc" / "journal.sqlite"
    with open_journal(journal, source=SOURCE) as opened:
        seq = opened.record_put(NS, Key("k"), opened.stage(b"v"), metadata=None, expiration=None, base=None)
        opened.reject(seq, "never")
    write_source(journal, SourceRecord(SOURCE, SOURCE, "/nowhere/mnt", namespaces={NS: "ns"}))
    assert main(["rejected", "list", "--json", SOURCE]) == Exit.OK
    assert [one["path"] for one in json.loads(capsys.readouterr().out)] == ["ns/k"]
    assert main(["rejected", "retry", "--all", SOURCE]) == Exit.OK


@pytest.mark.parametrize("words", [["sync"], ["top", "--once"], ["status"]])
def test_it_is_no_mount_any_more(state: Path, capsys, words: list[str]) -> None:
    """A command that asks all mounts does not ask a mount that has ended."""
    main(words)
    out = capsys.readouterr()
    assert "nothing is mounted" in out.out + out.err
