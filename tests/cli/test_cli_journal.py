"""`kvfs journal`: it shows pending changes, mounted or not, and alters nothing."""

import json
from pathlib import Path

import pytest
from support.journals import NS, ack_all, delete, open_journal, put, segments_of

from kvfs.cli import main
from kvfs.cli.exits import Exit
from kvfs.config import Config, LocalSource, source_identity
from kvfs.core.digest import digest


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The configuration of a source `local:` whose state is in a directory of its own."""
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "state"))
    return Config(source=LocalSource(tmp_path / "s"), mountpoint=tmp_path, state_dir=tmp_path / "state")


def record(config: Config) -> None:
    """Record a put that was sent, one that was refused, one that waits, and a deletion."""
    with open_journal(config.journal_path, source=source_identity(config)) as journal:
        put(journal, "sent", b"1")
        ack_all(journal)
        journal.reject(put(journal, "re\x1bfused", b"22"), "too odd")
        put(journal, "waits", b"333")
        delete(journal, "gone")


def test_it_lists_what_is_pending_for_people(config, capsys) -> None:
    """The changes of a source are listed for people, and control characters are escaped."""
    record(config)
    assert main(["journal", f"local:{config.source.file}", "--dump"]) == Exit.OK
    out = capsys.readouterr().out
    assert "pending  2 changes, 3 B" in out
    assert "rejected 1 changes, 2 B" in out
    assert f"2  rejected  {NS}  re\\x1bfused  2 B" in out
    assert "too odd" in out
    assert f"4  pending  {NS}  gone  deletion" in out


def test_it_lists_all_for_programs(config, capsys) -> None:
    """The journal is listed by the path of its file, also while a daemon has it open, and not a byte is altered."""
    record(config)
    with open_journal(config.journal_path, source=source_identity(config)):
        before = [file.read_bytes() for file in segments_of(config.journal_path)]
        assert main(["journal", str(config.journal_path), "--json"]) == Exit.OK
        assert [file.read_bytes() for file in segments_of(config.journal_path)] == before
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["damage"]) == (1, None)
    assert [(one["seq"], one["state"], one["kind"]) for one in found["changes"]] == [
        (1, "settling", "put"), (2, "rejected", "put"), (3, "pending", "put"), (4, "pending", "delete"),
    ]  # fmt: skip
    assert found["changes"][2]["digest"] == digest(b"333").hex()
    assert found["segments"][0]["name"] == "journal.sqlite-log.1"


def test_damage_is_told(config, capsys) -> None:
    """A damaged journal is reported with what can be read, and the exit status says so."""
    record(config)
    (segment,) = segments_of(config.journal_path)
    content = bytearray(segment.read_bytes())
    content[-3] ^= 1
    segment.write_bytes(content)
    assert main(["journal", str(config.journal_path)]) == Exit.FAILED
    out = capsys.readouterr().out
    assert "damage   some, from byte" in out
    assert "pending  1 changes" in out


def test_a_source_that_was_never_changed_has_none(config, capsys) -> None:
    """A source without a journal is reported as such, with the place where it was looked for."""
    assert main(["journal", "local:"]) == Exit.FAILED
    assert "has no journal here" in capsys.readouterr().err


def test_a_file_that_is_no_journal_is_refused(config, capsys, tmp_path) -> None:
    """A file that is no journal is refused, as a mount would refuse it."""
    (tmp_path / "other").write_text("somebody's text")
    assert main(["journal", str(tmp_path / "other")]) == Exit.FAILED
    assert "cannot be used" in capsys.readouterr().err
