"""Options and `Config` are two forms of one thing: the daemon in the background gets all that the user asked for."""

import dataclasses
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.cli.mount import build_config, mount
from kvfs.cli.options import config_arguments, mount_options
from kvfs.cli.serve import parse_listen
from kvfs.config import Config, LocalSource
from kvfs.history.allowance import NONE, Bounds

FIXED = {"source": LocalSource(Path("/s")), "mountpoint": Path("/mnt")}
OWN_OPTIONS = {
    "quiet",
    "tell",
    "preview",
    "profile",
    "in_fstab",
    "source",
    "directory",
    "foreground",
    "token_file",
    "insecure",
    "ready_fd",
    "secret_fd",
    "token_command",
}


def parsed(*words: str) -> Config:
    """Return the `Config` that a command with all mount options makes of some words."""

    @click.command()
    @mount_options
    def command(**values: object) -> Config:
        return build_config(**FIXED, **values)

    result = command.main(list(words), standalone_mode=False)
    assert isinstance(result, Config)
    return result


def test_every_field_of_the_config_has_an_option() -> None:
    """Every field of `Config` has an option, and every option a field."""
    fields = {field.name for field in dataclasses.fields(Config)} - {"source", "mountpoint"}
    assert {param.name for param in mount.params} - OWN_OPTIONS == fields


def test_no_option_gives_the_defaults() -> None:
    """The defaults of `Config`, which help shows as text, read back from that text."""
    assert parsed() == Config(**FIXED)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("KVFS_WRITE_BACK", "1.5", "write_back", 1.5),
        ("KVFS_READ_ONLY", "1", "read_only", True),
        ("KVFS_CACHE_SIZE", "1G", "cache_size", 2**30),
        ("KVFS_HISTORY", "2d,64M", "history", Bounds(172_800.0, 2**26)),
        ("KVFS_HISTORY", "0", "history", NONE),
        ("KVFS_LOCAL_NAMES", "*.tmp  *.bak", "local_names", ("*.tmp", "*.bak")),
        ("KVFS_UMASK", "077", "umask", 0o077),
        ("KVFS_STATE_DIR", "/s", "state_dir", Path("/s")),
    ],
)
def test_the_environment_stands_for_an_option(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: object
) -> None:
    """A variable stands for an option, and the option wins over it."""
    monkeypatch.setenv(variable, text)
    assert getattr(parsed(), field) == value
    if field == "write_back":
        assert parsed("--write-back=2").write_back == 2


SECONDS = st.floats(0.001, 1e6)
SIZES = st.integers(0, 2**50)
IDS = st.integers(0, 2**32 - 2)
PATTERN = st.text("abc*?[]~#.%ü-", min_size=1, max_size=8)
CONFIGS = st.builds(
    Config,
    source=st.just(FIXED["source"]),
    mountpoint=st.just(FIXED["mountpoint"]),
    separator=st.sampled_from(["/", "", ":", "-", "ü"]),
    write_back=SECONDS,
    cache_ttl=SECONDS,
    cache_size=SIZES,
    timeout=SECONDS,
    drain_timeout=SECONDS,
    read_only=st.booleans(),
    allow_other=st.booleans(),
    uid=IDS,
    gid=IDS,
    umask=st.integers(0, 0o777),
    durable_close=st.booleans(),
    on_conflict=st.sampled_from(["keep-both", "overwrite"]),
    max_pending=SIZES,
    sizes=st.sampled_from(["exact", "known"]),
    expiration=st.sampled_from(["mtime", "attribute"]),
    history=st.builds(Bounds, st.floats(0.001, 1e8), st.integers(65536, 1024**4)) | st.just(NONE),
    local_names=st.lists(PATTERN, max_size=4).map(tuple),
    poll_interval=SECONDS,
    rate_requests=st.integers(1, 10**6),
    rate_seconds=SECONDS,
    state_dir=st.sampled_from([Path("/s"), Path("/a b/--ü")]),
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
    log_file=st.sampled_from([None, Path("/l")]),
)


@given(CONFIGS)
def test_a_config_survives_the_way_to_the_daemon(config: Config) -> None:
    """A `Config` written as arguments is read as an equal `Config`."""
    assert parsed(*config_arguments(config)) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8787", ("127.0.0.1", 8787)),
        (":80", ("127.0.0.1", 80)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses_to_listen_at(text: str, expected: tuple[str, int]) -> None:
    """An address to listen at is HOST:PORT, with brackets around IPv6."""
    assert parse_listen(text) == expected
