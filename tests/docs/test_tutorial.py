"""The tutorial is played from its first line to its last, and prints what it says."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import picture
from support.consoles import matches
from support.mounted import REPOSITORY, environment, mounted
from support.pages import Step, parse
from support.serving import served_by_process

pytestmark = pytest.mark.fuse

TUTORIAL = (REPOSITORY / "docs" / "tutorial.md").read_text()
STEPS = [step for session in parse("tutorial.md", TUTORIAL).sessions for step in session.steps]
FIRST = 2  # lines of the first chapter: the mount is made as scripts/run makes it
MARK = "=====step====="


def test_the_tutorial_has_nothing_that_is_not_played() -> None:
    """The blocks of the tutorial are sessions, and all of them are played."""
    assert set(re.findall(r"^```(\w+)$", TUTORIAL, re.MULTILINE)) == {"console"}
    assert [step.command.split()[0] for step in STEPS[:FIRST]] == ["./scripts/run", "export"]
    assert TUTORIAL.count("\n$ ") == len(STEPS)


def test_the_tutorial_can_be_played() -> None:
    """The whole tutorial runs in one shell, in order; the account at its end is a server of kvfs."""
    with tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp") as name:
        home = Path(name)
        with served_by_process(home) as served, mounted(home, "local:", name="kv") as mount:
            picture.make_sample(mount)
            (home / "kv-token").write_text(served.token)
            (home / "kv-token").chmod(0o600)
            env = environment(home, served) | {"HOME": str(home), "LC_ALL": "C.UTF-8"}
            del env["CLOUDFLARE_API_TOKEN"]
            for step, printed in zip(STEPS[FIRST:], _played(STEPS[FIRST:], home, env), strict=True):
                assert matches(step.expected, printed), f"$ {step.command}\n" + "\n".join(printed)
            assert mount.process.wait(30) == 0


def _played(steps: list[Step], directory: Path, env: dict[str, str]) -> list[list[str]]:
    """Return the lines that each command prints, on both outputs."""
    lines = [f'exec 2>&1; kvfs() {{ {sys.executable} -m kvfs "$@"; }}']
    lines += [f"{step.command}\necho '{MARK}'" for step in steps]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=directory, env=env, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return [
        text.rstrip("\n").splitlines() for text in done.stdout.replace(MARK, "\n" + MARK).split(f"\n{MARK}\n")
    ][:-1]
