"""The log of a daemon: its place, and its behaviour when it cannot be written."""

import logging
from contextlib import suppress
from pathlib import Path

import pytest

from kvfs.cli.logs import _PrivateFileHandler


def test_a_line_that_has_no_room_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a full disk a line of the log is lost in silence, and the next lines are written when there is room again."""
    handler = _PrivateFileHandler(Path("/dev/full"))
    logger = logging.Logger("apart")
    logger.addHandler(handler)
    for number in range(3_000):
        logger.warning("line %d", number)
    with suppress(OSError):
        handler.stream.close()
    handler.stream = (tmp_path / "log").open("a")
    logger.warning("there is room")
    assert (tmp_path / "log").read_text() == "there is room\n"
    assert capsys.readouterr().err == ""
    handler.close()
