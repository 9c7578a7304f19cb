"""`scripts/run` looks before it installs: a user without the right gets the line for an administrator at once."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STRANGER = 54321  # a user without a name, a home or sudo
NEEDED = (
    "bash",
    "env",
    "id",
    "dirname",
    "sed",
    "cat",
    "sha256sum",
    "mktemp",
    "rm",
    "grep",
    "dpkg-query",
    "sudo",
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def clone() -> Iterator[Path]:
    """Make the scripts as in a fresh clone, readable by everybody, owned by the stranger."""
    with tempfile.TemporaryDirectory(prefix="kvfs-scripts-", dir="/var/tmp") as name:
        directory = Path(name)
        shutil.copytree(ROOT / "scripts", directory / "scripts")
        shutil.copy(ROOT / "pyproject.toml", directory)
        subprocess.run(["chown", "-R", str(STRANGER), directory], check=True)
        yield directory


def run_as_stranger(clone: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    command = [
        shutil.which("setpriv"),
        f"--reuid={STRANGER}",
        "--regid=65534",
        "--clear-groups",
        clone / "scripts" / "run",
    ]
    plain = {"PATH": os.environ["PATH"], "HOME": str(clone)} | env
    return subprocess.run(
        command, env=plain, cwd=clone, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def path_without(clone: Path, *missing: str) -> str:
    """Return a PATH with the plain tools, and without these programs."""
    directory = clone / "bin"
    directory.mkdir()
    for name in {*NEEDED, "python3", "gcc", "pkg-config", "setfattr", "fusermount3"} - set(missing):
        if (found := shutil.which(name)) is not None:
            (directory / name).symlink_to(found)
    return str(directory)


def test_a_user_without_sudo_gets_the_line_for_an_administrator(clone: Path) -> None:
    """A user without sudo gets the line within moments, with nothing installed: no .venv, no sudo that asks, no apt."""
    begun = time.monotonic()
    done = run_as_stranger(clone, PATH=path_without(clone, "fusermount3", "setfattr"))
    assert done.returncode == 1
    assert time.monotonic() - begun < 10
    assert "only an administrator can give. Nothing was installed." in done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("  sudo sh -c ")]
    assert "apt-get install" in line
    assert " fuse3" in line
    assert " attr" in line
    assert " gcc" not in line, "what is there is not asked for"
    assert "password" not in done.stderr
    assert not (clone / ".venv").exists()


def test_what_an_installer_says_is_shown_when_it_fails_and_only_then(clone: Path) -> None:
    """An installer's output is shown only when it fails, because forty lines of pip help nobody whose pip succeeds."""
    script = f". {clone}/scripts/setup; quietly sh -c 'echo noise; echo more >&2; exit {{}}'; echo status $?"
    for status in (0, 3):
        done = subprocess.run(
            ["bash", "-c", script.format(status) if status == 0 else "set +e; " + script.format(status)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ("noise\nmore" in done.stderr) == (status == 3)
        assert "noise" not in done.stdout
