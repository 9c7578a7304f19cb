"""Words of the command line and the environment become a `Config`, or one clear line."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.config import (
    CloudflareSource,
    Config,
    LocalSource,
    journal_path,
    parse_base_url,
    parse_source,
    source_identity,
)
from kvfs.core.errors import UserError

ACCOUNT = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("local:/tmp/a.sqlite", {}, LocalSource(Path("/tmp/a.sqlite"))),
        ("local:/tmp/../tmp/a.sqlite", {}, LocalSource(Path("/tmp/a.sqlite"))),
        (f"cloudflare:{ACCOUNT}", {}, CloudflareSource(ACCOUNT)),
        ("cloudflare:", {"CLOUDFLARE_ACCOUNT_ID": "acc"}, CloudflareSource("acc")),
        ("cloudflare:a/ns", {}, CloudflareSource("a", "ns")),
        ("cloudflare:/ns", {"CLOUDFLARE_ACCOUNT_ID": "acc"}, CloudflareSource("acc", "ns")),
        ("cloudflare:a/", {}, CloudflareSource("a")),
        ("cloudflare:a/ns/users/", {}, CloudflareSource("a", "ns", "users/")),
        ("cloudflare:a/ns/a//b c", {}, CloudflareSource("a", "ns", "a//b c")),
        (
            "cloudflare:a",
            {"CLOUDFLARE_API_BASE_URL": "http://127.0.0.1:8787/client/v4/"},
            CloudflareSource("a", base_url="http://127.0.0.1:8787/client/v4"),
        ),
        ("cloudflare:b", {"CLOUDFLARE_ACCOUNT_ID": "acc"}, CloudflareSource("b")),
    ],
)
def test_a_source_is_read(text: str, environ: dict[str, str], expected: object) -> None:
    """The documented forms of SOURCE, with what the environment adds."""
    assert parse_source(text, environ) == expected


def test_a_bare_local_is_below_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`local:` means the store in $XDG_DATA_HOME/kvfs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert parse_source("local:", {}) == LocalSource(tmp_path / "kvfs" / "store.sqlite")


def test_a_relative_store_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The daemon works in another directory than the shell."""
    monkeypatch.chdir(tmp_path)
    assert parse_source("local:a.sqlite", {}) == LocalSource(tmp_path / "a.sqlite")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "SOURCE is local:"),
        ("somewhere", "SOURCE is local:"),
        ("s3:bucket", "SOURCE is local:"),
        ("local", "SOURCE is local:"),
        ("local:/tmp", "is a directory"),
        ("local:/no/such/place/a.sqlite", "does not exist"),
        ("cloudflare:../x", "is not an account id"),
        ("cloudflare:a b", "is not an account id"),
        ("cloudflare:a//prefix", "a prefix needs a namespace"),
        ("cloudflare:a/ns/" + "x" * 513, "longer than a key"),
    ],
)
def test_a_wrong_source_says_how_it_is_written(text: str, message: str) -> None:
    """A wrong source is refused with one line, and no request is ever made of it."""
    with pytest.raises(UserError, match=message):
        parse_source(text, {})


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/", "not https://HOST/PATH"),
        ("api.cloudflare.com/client/v4", "not https://HOST/PATH"),
        ("https://", "not https://HOST/PATH"),
        ("https://host:port/", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("https://host/?a=b", "not https://HOST/PATH"),
        ("https://ada:secret@host/", "holds a user name"),
        ("http://api.example/client/v4", "unencrypted to api.example"),
        ("http://127.0.0.1.example/", "unencrypted"),
        ("http://localhost.example/", "unencrypted"),
    ],
)
def test_a_base_url_that_would_betray_the_token_is_refused(url: str, message: str) -> None:
    """A malformed URL and plain http to another machine are refused. A password in the URL is not repeated."""
    with pytest.raises(UserError, match=message) as caught:
        parse_base_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1:8787", "127.1.2.3", "localhost:1", "[::1]:8787"])
def test_plain_http_to_this_machine_is_fine(host: str) -> None:
    """Plain http to this machine is accepted, because a test server has no certificate."""
    assert parse_base_url(f"http://{host}/client/v4/") == f"http://{host}/client/v4"


def test_insecure_allows_plain_http_elsewhere() -> None:
    """Plain http to another machine is accepted if the user asks for it with `--insecure`."""
    assert parse_base_url("http://api.example", insecure=True) == "http://api.example"


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    """Any text gives a value or a `UserError`, never another exception."""
    for parse in (lambda: parse_source(text, {}), lambda: parse_base_url(text)):
        with suppress(UserError):
            parse()


def test_the_same_data_has_the_same_journal(tmp_path: Path) -> None:
    """A store has one journal, however it is named; other data has another one."""
    real = tmp_path / "real.sqlite"
    real.touch()
    (tmp_path / "link.sqlite").symlink_to(real)
    one = config(LocalSource(real), tmp_path)
    same = config(LocalSource(tmp_path / "link.sqlite"), tmp_path)
    assert journal_path(one) == journal_path(same) == one.journal_path
    assert journal_path(config(LocalSource(tmp_path / "x"), tmp_path)) != journal_path(one)


def test_every_part_of_a_source_counts_in_its_identity(tmp_path: Path) -> None:
    """Two accounts, namespaces, prefixes or servers never share a journal."""
    sources = [
        CloudflareSource("a"),
        CloudflareSource("b"),
        CloudflareSource("a", "ns"),
        CloudflareSource("a", "ns", "p"),
        CloudflareSource("a", base_url="http://localhost/"),
    ]
    assert len({source_identity(config(source, tmp_path)) for source in sources}) == len(sources)


@pytest.mark.parametrize(
    "text", ["local:/tmp/kvfs-none.sqlite", f"cloudflare:{ACCOUNT}", "cloudflare:a/n", "cloudflare:a/n/p/q/"]
)
def test_a_source_is_written_as_it_is_read(text: str) -> None:
    """The daemon is given the source again as text."""
    assert str(parse_source(text, {})) == text


def config(source: LocalSource | CloudflareSource, state: Path) -> Config:
    return Config(source=source, mountpoint=Path("/mnt"), state_dir=state)


def private_file(folder: Path, content: str) -> Path:
    file = folder / "token"
    file.touch(mode=0o600)
    file.write_text(content)
    return file
