"""The configuration file: profiles, their order of precedence, and the settings that are refused."""

import json
import os

import click
import pytest
from click.testing import CliRunner

from kvfs.cli import cli, main
from kvfs.cli.mount import mount
from kvfs.core.errors import UserError
from kvfs.host.profiles import settings_of

FILE = """
[mount]
cache-ttl = 900
read-only = true
local-names = ["*.a", "*.b"]

[profile.work]
source = "cloudflare:a/CONFIG"
directory = "/mnt/kv"
cache_ttl = 30
token-file = "/etc/token"
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A configuration file, chosen by its variable."""
    file = tmp_path / "config.toml"
    file.write_text(FILE)
    monkeypatch.setenv("KVFS_CONFIG", str(file))
    return file


def parsed(*words):
    """Return the parameters of `kvfs mount` with these words."""
    return mount.make_context("kvfs mount", list(words)).params


def test_a_profile_names_source_directory_and_options(file):
    """`kvfs mount --profile work` replaces a whole command line."""
    found = parsed("--profile=work")
    assert (found["source"], str(found["directory"])) == ("cloudflare:a/CONFIG", "/mnt/kv")
    assert found["cache_ttl"] == 30
    assert found["read_only"] is True
    assert found["local_names"] == ("*.a", "*.b")
    assert str(found["token_file"]) == "/etc/token"


def test_without_a_profile_the_options_for_every_mount_count(file):
    """Without a profile the options for every mount count, and source and directory are given as usual."""
    assert parsed("local:", "/mnt")["cache_ttl"] == 900


def test_the_command_line_counts_before_the_variable_and_that_before_the_file(file, monkeypatch):
    """The command line wins over the variable, and the variable over the file."""
    monkeypatch.setenv("KVFS_PROFILE", "work")
    assert parsed()["cache_ttl"] == 30
    monkeypatch.setenv("KVFS_CACHE_TTL", "5")
    assert parsed()["cache_ttl"] == 5
    assert parsed("--cache-ttl=7")["cache_ttl"] == 7
    assert parsed("-o", "cache_ttl=8")["cache_ttl"] == 8
    assert str(parsed("local:", "/other")["directory"]) == "/other"


@pytest.mark.parametrize(
    ("text", "profile", "message"),
    [
        ("[mount]\ntoken = 'secret'", None, "a token has no place in this file"),
        ("[profile.a]\napi_key = 'secret'", "a", "a api-key has no place in this file"),
        ("[mount]\nsource = 'local:'", None, "source belongs into a profile"),
        ("[mounts]\n", None, r"unknown section \[mounts\]"),
        ("[profile.a]\n", "b", "no profile 'b': its profiles are a"),
        ("a = = 1", None, r"config\.toml:1"),
        ("mount = 1", None, r"\[mount\] is not a table"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path, text, profile, message):
    """A wrong file is refused with its name, and never with a secret of it."""
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        settings_of(file, profile)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mount]\ncache-tl = 1", "there is no option 'cache-tl'"),
        ("[mount]\nread-only = 'yes'", "read-only is true or false"),
        ("[mount]\ncache-ttl = true", "cache-ttl is no switch"),
    ],
)
def test_an_option_that_there_is_not_is_refused(file, text, message):
    """A misspelt option of a profile is refused, not passed over in silence."""
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        parsed("local:", "/mnt")


def test_a_value_that_is_refused_is_told_with_the_file(file, monkeypatch):
    """Nobody typed the option that the message names, so it says where the value is."""
    file.write_text("[mount]\ncache-ttl = 'banana'")
    with pytest.raises(click.BadParameter, match=rf"'banana' is not a duration.*, in {file}"):
        parsed("local:", "/mnt")
    with pytest.raises(click.BadParameter, match=r"4w$"):
        parsed("local:", "/mnt", "--cache-ttl=banana")


def test_config_show_says_where_each_value_comes_from(file, monkeypatch, capsys):
    """`config show` names the origin of each option: default, file or variable."""
    monkeypatch.setenv("KVFS_SETTLE", "3")
    assert main(["config", "show", "--profile", "work", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    rows = {row["option"]: (row["value"], row["origin"]) for row in shown["options"]}
    assert rows["cache-ttl"] == (30, f"{file} [profile.work]")
    assert rows["read-only"] == (True, f"{file} [mount]")
    assert rows["settle"] == (3, "KVFS_SETTLE")
    assert rows["write-back"] == (5, "default")
    assert shown["profiles"] == ["work"]
    assert main(["config", "show"]) == 0
    assert f"({file} [mount])" in capsys.readouterr().out


def test_no_file_is_no_trouble(tmp_path, monkeypatch):
    """A missing file is no error, because most people have none."""
    monkeypatch.setenv("KVFS_CONFIG", str(tmp_path / "none.toml"))
    assert parsed("local:", "/mnt")["cache_ttl"] == 60
    with pytest.raises(UserError, match=r"no profile .*: add "):
        parsed("--profile=work")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("kvfs mo", "plain,mount"),
        ("kvfs mount loc", "plain,local:"),
        ("kvfs mount --cache-s", "plain,--cache-size"),
        ("kvfs umount ", "dir,"),
        ("kvfs config ", "plain,show"),
    ],
)
def test_the_shell_completes_commands_options_sources_and_directories(words, expected, tmp_path, monkeypatch):
    """The shell completes commands, options, sources and directories, in the form that bash asks for."""
    monkeypatch.chdir(tmp_path)
    count = len(words.split()) - (not words.endswith(" "))
    environ = {"_KVFS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(count)}
    environ["KVFS_STATE_DIR"] = str(tmp_path / "state")  # mounts of this machine are completed as well
    answer = CliRunner().invoke(cli, prog_name="kvfs", env={**os.environ, **environ})
    assert expected in answer.output.splitlines()
