"""Runs the console blocks of a page (`support/pages.py`) in bash, each in a namespace of its own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from support.pages import Session
from support.standing import Namespace, Standing

OTHER = Path(__file__).with_name("other_client.py")


def fails(session: Session, world: Standing, home: Path) -> str | None:
    """Run a console block; return None, or the step at which it differs from the page."""
    space = world.namespace()
    printed = _played(session, world, space, home)
    for step, (status, lines) in zip(session.steps, printed, strict=False):
        if not matches(step.expected, lines) or (status and not step.expected):
            shown = "\n".join(lines)
            wanted = "\n".join(step.expected)
            return f"$ {step.command}\nexit status {status}, printed:\n{shown}\nthe page says:\n{wanted}"
    return None if len(printed) == len(session.steps) else "the shell ended early"


def _played(session: Session, world: Standing, space: Namespace, home: Path) -> list[tuple[int, list[str]]]:
    """Return exit status and lines of each step."""
    mark = "=====example====="
    script = "\n".join(f"{step.command}\nprintf '\\n{mark}%s\\n' $?" for step in session.steps)
    env = _environment(world, space, home)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        env=env,
        cwd=space.path,
        capture_output=True,
        timeout=90,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    pieces = re.split(rf"\n{mark}(\d+)\n", done.stdout.decode(errors="replace"))
    texts, statuses = pieces[::2], pieces[1::2]
    return [(int(status), _lines(text)) for text, status in zip(texts, statuses, strict=False)]


def _lines(text: str) -> list[str]:
    """Return the lines without the blank ones at the end, which on the page part the commands."""
    lines = text.splitlines()
    while lines and not lines[-1]:
        lines.pop()
    return lines


def matches(expected: list[str], lines: list[str]) -> bool:
    """Return True if lines are as a page says: `…` alone is any number of them, within a line any text."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else ".*".join(re.escape(part) for part in line.split("…")) + r"\n"
        for line in expected
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _environment(world: Standing, space: Namespace, home: Path) -> dict[str, str]:
    """Return an environment with HOME, the commands `kvfs`, `api` and `asked`, and all that they need."""
    bin_ = home / "bin"
    if not bin_.exists():
        bin_.mkdir(parents=True)
        _command(bin_ / "kvfs", sys.executable, "-m", "kvfs")
        _command(bin_ / "api", sys.executable, str(OTHER))
        _command(bin_ / "asked", sys.executable, str(OTHER), "asked")
    return dict(world.mount.env) | {
        "HOME": str(home),
        "PATH": f"{bin_}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "NS": space.path.name,
        "KVFS_TEST_URL": f"{world.served.namespaces}/{space.id}",
        "KVFS_TEST_ROOT": world.served.root,
    }


def _command(path: Path, *words: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
