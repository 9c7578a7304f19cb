"""Without pyfuse3 everything works but `kvfs mount`, and that says what is missing."""

import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.moves import dump, fill, sample

ROOT = Path(__file__).parent.parent
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in sorted((ROOT / "kvfs").rglob("*.py"))
    if file.name != "__main__.py"
]

HIDE = "import sys; sys.modules['pyfuse3'] = None\n"
"""An import of it then fails as where it is not installed."""


def python(script: str, *words: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + script, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_all_but_the_room_of_fuse_imports_without_pyfuse3():
    """One process imports every module, in the order of the alphabet."""
    wanted = [name for name in MODULES if not name.startswith("kvfs.fuse.")]
    script = f"import importlib\nfor name in {wanted!r}: importlib.import_module(name)\n"
    done = python(script + "assert sys.modules['pyfuse3'] is None")
    assert done.returncode == 0, done.stderr


LINUX_ONLY = """
import os, select, signal, socket, trio
for module, names in {
    os: "listxattr getxattr setxattr removexattr pidfd_open memfd_create posix_fadvise sched_getaffinity eventfd",
    signal: "pidfd_send_signal",
    socket: "SO_PEERCRED AF_NETLINK AF_PACKET",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""
"""What other systems lack is gone then; trio has chosen its own already."""


@pytest.mark.parametrize("module", ["copy", "diff", "ls", "find", "cat", "put", "rm", "edit", "du"])
def test_nothing_that_only_linux_has_is_needed_at_the_top(module):
    """The data commands import on a system without the modules that only Linux has."""
    done = python(f"{LINUX_ONLY}import kvfs.cli.{module}")
    assert done.returncode == 0, done.stderr


RUN = "from kvfs.cli import main; sys.exit(main(sys.argv[1:]))"


def test_the_data_commands_work_without_pyfuse3(tmp_path):
    """The data commands work on a system without FUSE and without anything that only Linux has."""
    entries = sample(50)
    store = fill(tmp_path / "a.sqlite", entries)
    state = str(tmp_path / "state")
    for words in (
        ("copy", store, "x.ndjson"),
        ("copy", "x.ndjson", "d"),
        ("copy", "d", "local:b.sqlite/shop"),
        ("ls", store),
        ("diff", "--values", store, "local:b.sqlite/shop"),
    ):
        done = python(LINUX_ONLY + RUN, *words, cwd=tmp_path, KVFS_STATE_DIR=state)
        assert done.returncode == 0, done.stderr
    assert dump(tmp_path / "b.sqlite") == entries


def test_the_server_works_without_pyfuse3_and_compilers(tmp_path):
    """The server starts and is copied to and from, with nothing on PATH and no module of FUSE to import."""
    entries, state = sample(20), str(tmp_path / "state")
    store = fill(tmp_path / "a.sqlite", entries)
    served = python(
        RUN, "serve", "--listen=127.0.0.1:0", "--ephemeral", "--print-env", KVFS_STATE_DIR=state, PATH=""
    )
    assert served.returncode == 0, served.stderr
    env = dict(re.findall(r"^export (\w+)=(\S+)$", served.stdout, re.MULTILINE))
    try:
        for words in (("copy", store, "cloudflare:/shop"), ("diff", "--values", store, "cloudflare:/shop")):
            done = python(RUN, *words, cwd=tmp_path, PATH="", **env, KVFS_STATE_DIR=state)
            assert (done.returncode, "differ" in done.stdout) == (0, False), done.stderr
    finally:
        os.kill(int(env["KVFS_SERVE_PID"]), signal.SIGTERM)


def test_nothing_but_mounting_needs_more_than_pip_install():
    """A plain installation has the server's libraries and not pyfuse3, which needs a compiler."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    assert {"httpx", "starlette", "hypercorn"} <= plain
    assert "pyfuse3" not in plain
    assert project["optional-dependencies"]["mount"] == ["pyfuse3>=3.4,<4"]


def test_mount_says_what_is_missing_and_how_to_mend_it(tmp_path):
    """`kvfs mount` says in one line what is missing and how to mend it, before anything is made."""
    (tmp_path / "mnt").mkdir()
    done = python(
        RUN, "mount", f"local:{tmp_path}/s.sqlite", str(tmp_path / "mnt"), KVFS_STATE_DIR=str(tmp_path / "s")
    )
    assert done.returncode == 1
    assert done.stderr.startswith("kvfs: pyfuse3 is not installed, and kvfs mount needs it")
    assert "pip install '.[mount]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_doctor_names_it_too(tmp_path):
    """doctor names it too, among the findings that stop a mount."""
    done = python(RUN, "doctor", KVFS_STATE_DIR=str(tmp_path / "s"))
    assert done.returncode == 1
    assert "FAIL  pyfuse3 is not installed" in done.stdout
