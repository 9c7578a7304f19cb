"""Requests of the kernel for everyday commands, counted in the daemon: most of a file system's speed."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import counted
from support import mounted as mounts
from support.mounted import Api, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse
DIRECTORIES, FILES = 12, 5
UNAWAITED = ("forget", "release", "releasedir")  # these come when it suits the kernel

Command = Callable[[str], Counter[str]]


@pytest.fixture
def command(tmp_path: Path, server: Served, api: Api, monkeypatch) -> Iterator[Command]:
    """Return a function that runs a command in a tree of small files, and returns its requests of the kernel."""
    namespace = api.result("POST", "", json={"title": "ns"})["id"]
    names = [f"tree/d{d}/f{f}" for d in range(DIRECTORIES) for f in range(FILES)]
    api.bulk_put(namespace, [{"key": name, "value": name} for name in names])
    log = tmp_path / "requests"
    log.touch()
    monkeypatch.setenv(counted.VARIABLE, str(log))
    monkeypatch.setattr(mounts, "KVFS", [sys.executable, counted.__file__])
    with mounted(tmp_path, "cloudflare:/ns", served=server) as mount:

        def run(line: str) -> Counter[str]:
            counted.requests(log)
            mount.shell(line)
            found = counted.requests(log)
            return Counter({name: n for name, n in found.items() if name not in UNAWAITED})

        yield run


def test_a_second_ls_asks_for_no_file_at_all(command: Command) -> None:
    """A second `ls -lR` reads directories only, because their entries come with everything about the files."""
    command("ls -lR tree")
    again = command("ls -lR tree")
    assert again["opendir"] == DIRECTORIES + 1
    assert again["readdir"] == 2 * again["opendir"], "the entries, and that there are no more"
    assert again["lookup"] == again["open"] == again["listxattr"] == 0
    assert again["getattr"] <= 2, "not one a directory"
    assert again["getxattr"] <= 2, "ls gives up for the whole mount when told that it is not supported"


def test_a_file_read_again_is_opened_and_closed_only(command: Command) -> None:
    """A file read again has its pages in the kernel: neither reads nor attributes are asked of the daemon."""
    for _ in range(2):  # after the first the kernel asks for the attributes once more, for a new atime
        command("cat tree/d1/f1")
    assert command("cat tree/d1/f1") == {"open": 1, "flush": 1}
