"""A command loads only the libraries and rooms that it needs: each of the others costs every start of it."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.mounted import KVFS, environment, mounted
from support.serving import Served

COSTLY = {
    *("trio", "httpx", "h2", "rich", "prometheus_client", "sqlite3", "starlette", "hypercorn"),
    *("pyfuse3", "json5", "zstandard", "matplotlib", "asyncio"),
    *("kvfs.cache", "kvfs.daemon", "kvfs.data", "kvfs.fuse", "kvfs.journal", "kvfs.kept", "kvfs.sender"),
    *("kvfs.server", "kvfs.store.embedded", "kvfs.store.miniflare.database", "kvfs.store.rest"),
    *("kvfs.verify", "kvfs.vfs"),
}
"""Libraries, rooms and modules that most commands can do without."""

SOURCES = {"json5"}  # a word may name a binding of a project
READING = {"trio", "sqlite3", "kvfs.data", "kvfs.store.embedded", *SOURCES}

COMMANDS: dict[str, set[str]] = {
    "--version": set(),
    "--help": set(),
    "status": SOURCES,
    "sync": SOURCES,
    "log /nowhere": SOURCES,
    "umount /nowhere": SOURCES,
    "mount --help": SOURCES,
    "serve --help": SOURCES,
    "config show": SOURCES,
    "ls local:": READING,
    "cat local:/shop/absent": READING,
}
"""Commands with the costly modules that each may load."""

KERNEL = {"pyfuse3", "kvfs.cache", "kvfs.daemon", "kvfs.fuse", "kvfs.journal", "kvfs.kept", "kvfs.sender"}
MOUNT = {"trio", "sqlite3", "kvfs.vfs", *KERNEL, *SOURCES}


def loaded(log: str) -> set[str]:
    """Return the costly modules in the words that `PYTHONPROFILEIMPORTTIME` makes Python write."""
    names = re.findall(r"^import time: .*\| +(\S+)$", log, re.MULTILINE)
    return {one for one in COSTLY for name in names if name == one or name.startswith(f"{one}.")}


def watched(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which Python says what it imports."""
    return {**env, "PYTHONPROFILEIMPORTTIME": "1"}


def run(words: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command on a machine that knows nothing."""
    env = watched(environment(directory, None))
    return subprocess.run([*KVFS, *words], env=env, capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_loads_only_what_it_needs(line: str, tmp_path: Path) -> None:
    """A command loads no library and no room besides those that it is listed with."""
    done = run(line.split(), tmp_path)
    assert "Traceback" not in done.stderr
    assert loaded(done.stderr) <= COMMANDS[line]


def test_what_is_loaded_is_seen(tmp_path: Path) -> None:
    """The list of what is loaded has what a command does load, so that an empty one means something."""
    assert loaded(run(["ls", "local:"], tmp_path).stderr) >= {"trio", "sqlite3", "kvfs.store.embedded"}


@pytest.mark.fuse
def test_a_mount_of_a_local_store_loads_no_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon of a `local:` mount loads neither HTTP nor what only `.kvfs/metrics` needs."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with mounted(tmp_path, f"local:{tmp_path}/s.sqlite") as mount:
        assert loaded(mount.log.read_text()) <= MOUNT | {"kvfs.store.embedded"}
        assert b"kvfs_mount_info" in (mount.path / ".kvfs" / "metrics").read_bytes()
        assert "prometheus_client" in loaded(mount.log.read_text())


@pytest.mark.fuse
def test_a_mount_of_an_account_loads_no_other_store(
    tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon of a `cloudflare:` mount loads its client, and no other store, and not the look of httpx."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with mounted(tmp_path, "cloudflare:", served=server) as mount:
        assert loaded(mount.log.read_text()) <= MOUNT | {"httpx", "h2", "zstandard", "kvfs.store.rest"}


@pytest.mark.fuse
def test_mount_in_the_background_loads_only_its_checks(tmp_path: Path) -> None:
    """The command that starts a daemon loads neither trio nor pyfuse3: the daemon does, and says what is wrong."""
    env = watched(environment(tmp_path, None))
    (tmp_path / "mnt").mkdir()
    words = [*KVFS, "mount", f"local:{tmp_path}/s.sqlite", str(tmp_path / "mnt")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True, cwd="/")
    subprocess.run([*KVFS, "umount", str(tmp_path / "mnt")], env=env, capture_output=True, check=True)
    assert loaded(done.stderr) <= SOURCES
