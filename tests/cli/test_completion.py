"""Completion in real shells: Tab in bash, zsh and fish, without a server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from support.mounted import KVFS, environment
from support.terminal import Terminal, terminal

from kvfs.host.sources import SourceRecord, write_source
from kvfs.host.state import MountRecord, record_path

ACCOUNT = "0123456789abcdef0123456789abcdef"
SHARE = "usr/local/share"

# How each shell is begun without anybody's configuration, and with what `kvfs install` has put in place.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        f"source root/{SHARE}/bash-completion/completions/kvfs",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        f"fpath=($PWD/root/{SHARE}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D",
    ),
    "fish": (["fish", "--no-config", "-i"], f"source root/{SHARE}/fish/vendor_completions.d/kvfs.fish"),
}


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment that remembers a mount, an account with namespaces, and a profile; no server answers."""
    env = environment(tmp_path, None) | {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_BASE_URL": "http://127.0.0.1:9/client/v4",
        "KVFS_CONFIG": str(tmp_path / "config.toml"),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    state = tmp_path / "state" / "kvfs"
    mountpoint = tmp_path / "mnt-of-mine"
    mountpoint.mkdir()
    (tmp_path / "some-directory").mkdir()
    (tmp_path / "shop.sqlite").touch()
    (tmp_path / "config.toml").write_text('[profile.nightly]\nsource = "local:"\n')
    record = record_path(mountpoint, state)
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(asdict(MountRecord(str(mountpoint), f"cloudflare:{ACCOUNT}", 1, "", 0.0))))
    journal = state / "sources" / "0" / "journal.sqlite"
    journal.parent.mkdir(parents=True)
    journal.touch()
    titles = {"a" * 32: "CONFIG", "b" * 32: "two words"}
    write_source(
        journal, SourceRecord(f"cloudflare:{ACCOUNT}", "identity", str(mountpoint), namespaces=titles)
    )
    subprocess.run(
        [*KVFS, "install", "--root", str(tmp_path / "root")], env=env, check=True, capture_output=True
    )
    return env


@contextmanager
def shell(name: str, tmp_path: Path, env: dict[str, str]) -> Iterator[Terminal]:
    """The shell at its prompt, with the completion loaded."""
    command, setup = SHELLS[name]
    command = ["env", f"PATH={env['PATH']}", *command]  # tmux's own shell may change it
    with terminal(tmp_path, command, cwd=tmp_path, **(env | {"TERM": "screen"})) as screen:
        screen.type(f"{setup}; echo re''ady")
        screen.press("Enter")
        screen.wait_for("\nready")
        yield screen


def complete(screen: Terminal, line: str, wanted: str) -> None:
    """Press Tab after a line and check that it becomes the wanted one; the line is then removed again."""
    screen.type(line)
    screen.wait_for_text(line)
    screen.press("Tab")
    screen.wait_for_text(wanted)
    screen.press("C-u")
    screen.press("C-l")
    screen.wait_gone("kvfs ")


@pytest.mark.parametrize("name", SHELLS)
def test_tab_completes_what_this_machine_knows(name: str, tmp_path: Path, machine: dict[str, str]) -> None:
    """Tab completes commands, options, directories, mounts, namespaces, sources, files of stores and profiles."""
    with shell(name, tmp_path, machine) as screen:
        for line, wanted in (
            ("kvfs stat", "kvfs status"),
            ("kvfs mount --cache-t", "kvfs mount --cache-ttl"),
            ("kvfs mount cloudflare:/CON", "kvfs mount cloudflare:/CONFIG"),
            ("kvfs mount --profile nig", "kvfs mount --profile nightly"),
            ("kvfs backup local: ./some-d", "kvfs backup local: ./some-directory"),
            (f"kvfs umount {tmp_path}/mnt", f"{tmp_path}/mnt-of-mine"),
        ):
            complete(screen, line, wanted)


def answers(env: dict[str, str], line: str, fragment: str) -> list[str]:
    """Return the answer to bash's script for a line whose last word is the fragment for bash."""
    asked = env | {
        "_KVFS_COMPLETE": "bash_complete",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
    }
    done = subprocess.run(
        KVFS, env=asked | {"COMP_WORD": fragment}, capture_output=True, text=True, check=False, cwd=env["PWD"]
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [value.removeprefix("plain,") for value in done.stdout.splitlines()]


def test_bash_is_answered_from_where_its_word_begins(tmp_path: Path, machine: dict[str, str]) -> None:
    """Bash ends a word at a colon, an equals sign or an at sign, so the answer begins there.

    A title with a space is one word.
    """
    machine["PWD"] = str(tmp_path)
    assert answers(machine, "kvfs mount cloudflare:/", "/") == ["/CONFIG", "/two words"]
    assert answers(machine, "kvfs mount cloudflare:", ":")[:1] == [ACCOUNT]
    assert answers(machine, "kvfs mount --sizes=k", "k") == ["known"]
    assert answers(machine, f"kvfs ls cloudflare:{ACCOUNT}/CON", f"{ACCOUNT}/CON") == [f"{ACCOUNT}/CONFIG"]
    assert "cloudflare:" in answers(machine, "kvfs mount ", "")
    assert answers(machine, "kvfs du local:sho", "sho") == ["shop.sqlite"]
    assert answers(machine, "kvfs umount ", "") == [str(tmp_path / "mnt-of-mine")]
    assert answers(machine, "kvfs rejected list ", "")[:1] == [f"cloudflare:{ACCOUNT}"]
    assert answers(machine, "kvfs why ", "") == ["file,"]


def test_nothing_that_is_broken_is_told_at_a_prompt(tmp_path: Path, machine: dict[str, str]) -> None:
    """A configuration that cannot be read offers nothing at a prompt, and prints no complaint."""
    (tmp_path / "config.toml").write_text("[broken")
    asked = {"_KVFS_COMPLETE": "zsh_complete", "COMP_WORDS": "kvfs mount --profile n", "COMP_CWORD": "3"}
    done = subprocess.run(
        KVFS, env=machine | asked, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")
