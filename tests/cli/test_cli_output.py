"""Texts of the command line for people."""

import pytest

from kvfs.cli.output import counted, duration_text, json_line, printable, size_text
from kvfs.cli.sending import Rate, Sending, SendingProgress


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (26_214_400, "25.0 MiB"),
        (10 * 2**30, "10.0 GiB"),
        (2**50, "1048576.0 GiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    """Sizes use powers of 1024 and have one decimal."""
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (200_000, "2 d")]
)
def test_durations(seconds: float, text: str) -> None:
    """Durations are shown in the biggest unit that fits."""
    assert duration_text(seconds) == text


def test_what_a_terminal_would_obey_is_escaped() -> None:
    """Escape sequences, line breaks, text direction and undecodable bytes are escaped; ordinary text is not touched."""
    assert printable("größe 🦊 a b") == "größe 🦊 a b"
    assert printable("\x1b]0;x\x07\r\n\u202e\udcff") == "\\x1b]0;x\\x07\\r\\n\\u202e\\udcff"


def test_a_line_of_json_can_always_be_written() -> None:
    """Half of a surrogate pair, which metadata may hold, stays an escape; other text is as it is."""
    assert json_line({"a": "ü"}) == '{"a": "ü"}'
    assert json_line({"a": "ü\ud800"}).encode() == b'{"a": "\\u00fc\\ud800"}'


def test_counts_have_their_plural() -> None:
    """One has none; thousands are parted."""
    assert counted(1, "change") == "1 change"
    assert counted(2000, "change is", "changes are") == "2,000 changes are"


def test_progress_without_a_terminal_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal progress is a line now and then, so that a log stays short."""
    with SendingProgress() as progress:
        progress.update(Sending(1, 3))
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(SendingProgress, "LINE_SECONDS", 0.0)
        progress.update(Sending(0, 0))
        assert capsys.readouterr().err == "", "never of nothing"
        progress.update(Sending(2, 3, 1024, "the limit of 1,200 requests in 5 minutes", 142.4))
        progress.finish(20_002, 3)
    assert capsys.readouterr().err == (
        "sent 2 of 3 changes, 1.0 KiB left; waiting for the limit of 1,200 requests in 5 minutes:"
        " goes on in 142 s\nsent 20,002 changes in 3 requests\n"
    )


def test_what_is_done_at_once_or_quietly_has_no_word(capsys: pytest.CaptureFixture[str]) -> None:
    """Work that is done at once, or quietly, prints nothing: a script that syncs often should not fill its log."""
    for quiet in (False, True):
        with SendingProgress(quiet=quiet) as progress:
            progress.update(Sending(1, 3))
            progress.finish(3, 1)
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal progress is a bar that counts, and is gone in the end."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with SendingProgress() as progress:
        monkeypatch.setattr(SendingProgress, "SHORT_SECONDS", 0.0)
        progress.update(Sending(1, 3, 5, "the server", 3.0))
        progress.update(Sending(3, 3))
        progress.finish(3, 1)
    shown = capsys.readouterr().err
    assert "sent 3 changes in 1 request" in shown
    assert "sending" in shown
    assert "3/3" in shown


def test_a_rate_is_of_the_last_seconds_and_says_how_long_it_takes() -> None:
    """A rate counts the last seconds only, so a burst at the start is forgotten.

    Without progress there is no number.
    """
    rate = Rate()
    assert rate.text(Sending(0, 1000), 100.0) == ""
    assert rate.text(Sending(500, 1000), 105.0) == "100/s, 5 s left"
    for second in range(106, 130):
        text = rate.text(Sending(500 + second - 105, 1000), float(second))
    assert text == "1/s, 8 min left"


def test_what_comes_before_has_no_numbers(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """Before the first change there is no count, so that nobody reads `0 of 0`."""
    monkeypatch.setattr(SendingProgress, "LINE_SECONDS", 0.0)
    with SendingProgress() as progress:
        progress.update(Sending(0, 0, doing="waiting until open files are closed"))
        progress.finish(0, 0)
    assert capsys.readouterr().err == "waiting until open files are closed\n"
