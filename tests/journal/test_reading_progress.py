"""Progress while a long journal is read at a mount: its log says how far it is, for somebody at the terminal."""

import logging
from pathlib import Path

import pytest

from kvfs.daemon.starting import telling
from kvfs.journal import replay
from kvfs.journal.journal import Journal


def test_reading_a_journal_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The progress has the number of changes so far, and the part of the log."""
    with Journal.open(tmp_path / "journal.db", source="test", now=lambda: 1.0) as journal:
        for number in range(40):
            body = journal.stage(b"x")
            journal.record_put("n", f"{number}", body, metadata=None, expiration=None, base=None)
    monkeypatch.setattr(replay, "_LOOK", 10)
    monkeypatch.setattr(replay, "_TELL", 0.0)
    told: list[str] = []
    logging.getLogger("kvfs").setLevel(logging.INFO)
    with telling(told.append), Journal.open(tmp_path / "journal.db", source="test", now=lambda: 1.0):
        pass
    assert told[0].startswith("reading the journal: 10 changes so far, ")
    assert len(told) == 4
    parts = [int(text.rpartition(", ")[2].rstrip("%")) for text in told]
    assert parts == sorted(parts)
    assert 0 < parts[0] < parts[-1] <= 100


def test_an_attempt_is_told_with_what_is_asked() -> None:
    """A retry is reported with its number and with the host that the mount asks."""
    told: list[str] = []
    log = logging.getLogger("kvfs.store")
    logging.getLogger("kvfs").setLevel(logging.INFO)
    with telling(told.append):
        log.info("asking api.example", extra={"doing": "asking api.example"})
        log.info("failed", extra={"attempt": 2})
        log.info("something else")
    assert told == ["asking api.example", "asking api.example, attempt 2"]
