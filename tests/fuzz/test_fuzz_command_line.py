"""The command line with arbitrary words: it answers in its own words, never with "internal error"."""

import os
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kvfs.cli import main
from kvfs.config import parse_base_url, parse_source
from kvfs.core.errors import UserError

NAMES = [
    "separator", "write-back", "cache-ttl", "cache-size", "timeout", "drain-timeout", "uid", "gid", "umask",
    "on-conflict", "max-pending", "sizes", "local-names", "poll-interval", "rate-requests", "rate-seconds",
    "settle", "state-dir", "log-level", "log-file", "token-file",
]  # fmt: skip

WEIRD = [
    "", "~nosuchuser/x", "\udcff\udcfe", "9" * 400, "9" * 400 + "G", "1e400", "nan", "-1", "x" * 5000, "日本",
    "%s", "a\nb", "[", "/dev/null/x", "/proc/1/mem", "::", "9007199254740993", "\x1b[2J", "https://a..b/c",
]  # fmt: skip

typed = st.one_of(
    st.sampled_from(WEIRD), st.binary(max_size=40).map(os.fsdecode), st.text(max_size=40)
).filter(lambda text: "\0" not in text)

COMMANDS = [
    ["mount", "{}", "/nowhere/mnt"],
    ["mount", "local:{}", "/nowhere/mnt"],
    ["mount", "cloudflare:{}", "/nowhere/mnt"],
    ["mount", "cloudflare:/n/{}", "/nowhere/mnt"],
    ["umount", "{}"],
    ["status", "{}"],
    ["sync", "{}"],
    ["refresh", "{}"],
    ["rejected", "list", "{}"],
    ["rejected", "retry", "{}", "1"],
    ["rejected", "retry", "/nowhere", "{}"],
    ["doctor", "--token-file={}"],
    ["serve", "--listen={}", "--faults=?"],
    *([f"--{name}={{}}", "mount", "cloudflare:", "/nowhere/mnt"] for name in NAMES),
]


@pytest.fixture(autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("KVFS_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", "token")
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", "0" * 32)
    monkeypatch.chdir(home)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=typed)
@example(text="~nosuchuser/x")
@example(text="9" * 400)
@example(text="\udcff")
def test_no_word_is_an_internal_error(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing home, a number beyond all bounds, and bytes that are no text are each refused by name."""
    filled = [word.format(text) if "{}" in word else word for word in words]
    if filled[1:2] == ["mount"]:
        filled = ["mount", filled[0], *filled[2:]]
    status = main(filled)
    said = capsys.readouterr()
    assert "internal error" not in said.err, said.err
    assert status in (0, 1, 2)


@given(text=typed)
@example(text="https://a..b/client/v4")
@example(text="https://" + "ü" * 100)
def test_no_base_url_is_an_internal_error(text: str) -> None:
    """A host name that no resolver takes is refused before anybody connects."""
    for url in (text, f"https://{text}/client/v4"):
        with suppress(UserError):
            parse_base_url(url)


@given(text=typed)
def test_what_is_no_utf8_names_no_namespace(text: str) -> None:
    """A title or key that is not UTF-8 is refused by name, and causes no later failure."""
    try:
        source = parse_source(f"cloudflare:a/{text}", {})
    except UserError:
        return
    str(source).encode()
