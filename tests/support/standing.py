"""A server and a mount that last for a whole module of tests, each test in a namespace of its own."""

import errno
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served, served_by_process

WRITES = ("bulk_put", "put_value")
DELETES = ("bulk_delete", "bulk_delete_post", "delete_value")


@dataclass
class Namespace:
    """A fresh namespace: its directory in the mount, and its id."""

    path: Path
    id: str


@dataclass
class Standing:
    """A server, its API, a mount of the whole account, and a directory on the local disk."""

    served: Served
    api: Api
    mount: Mounted
    scratch: Path
    _numbers: "count[int]" = field(default_factory=count)

    def namespace(self) -> Namespace:
        """Return a namespace that nobody else uses."""
        title = f"ns{next(self._numbers)}"
        (self.mount.path / title).mkdir()
        return Namespace(self.mount.path / title, self.api.namespace(title))

    def local(self) -> Path:
        """Return a directory on the local disk that nobody else uses."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def counts(self) -> "Counts":
        """Return the counts of requests from here on."""
        return Counts(self.api)


class Counts:
    """Counts the requests to the server since this was made."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._before = api.requests()

    def since(self) -> dict[str, int]:
        """Return requests by operation."""
        return changed(self._before, self._api.requests())

    def writes(self) -> int:
        """Return how many of them wrote values."""
        return sum(self.since().get(name, 0) for name in WRITES)

    def deletes(self) -> int:
        """Return how many of them deleted keys."""
        return sum(self.since().get(name, 0) for name in DELETES)


def changed(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return by how much counts grew, without those that did not."""
    found = {name: number - before.get(name, 0) for name, number in after.items()}
    return {name: number for name, number in found.items() if number}


@contextmanager
def standing(*options: str) -> Iterator[Standing]:
    """Yield both, on a directory outside pytest's, because a mount below pytest's must be gone after each test."""
    # Not below /tmp either: editors make no backups there.
    with tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp") as name:
        directory = Path(name)
        scratch = directory / "scratch"
        scratch.mkdir()
        with (
            served_by_process(directory, faults="") as served,
            Api(served) as api,
            mounted(directory, "cloudflare:", *options, served=served) as mount,
        ):
            yield Standing(served, api, mount, scratch)


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Poll for what time brings to a real kernel and a real server."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not come about in time")
        time.sleep(0.03)


def errno_of(call: Callable[..., object], *args: object) -> str:
    """Return the name of the errno that a call must fail with."""
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        call(*args)
    return errno.errorcode[caught.value.errno or 0]


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Run a command that must succeed; return its output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(os.environ) | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def some_tree(parent: Path) -> Path:
    """Make some three hundred files: text, binaries, an empty one, odd names, an executable, old times."""
    dice, top = random.Random(7), parent / "tree"
    for number in range(240):
        path = top / f"d{number % 7}" / f"e{number % 3}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"line {number}\n" * dice.randrange(1, 300))
    for number in range(40):
        (top / f"d{number % 7}" / f"b{number}.bin").write_bytes(dice.randbytes(dice.randrange(1, 60_000)))
    for name in (
        "empty",
        "with space",
        "über",
        "per%cent",
        "new\nline",
        "-dash",
        "foo%20bar",
        "a:b",
        "x" * 255,
    ):
        (top / name).write_text("" if name == "empty" else f"{name}\n")
    (top / "script.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "script.sh").chmod(0o755)
    for path in top.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000 + dice.randrange(10_000_000)))
    return top
