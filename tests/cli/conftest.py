"""A home for each test of the command line, and a server on an empty store."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import environment
from support.serving import Served, served_by_process
from support.shell import Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    user = Shell(tmp_path, environment(tmp_path, None))
    user.mnt.mkdir()
    yield user
    user.end()


@pytest.fixture
def server(tmp_path: Path, shell: Shell) -> Iterator[Served]:
    with served_by_process(tmp_path, faults="") as ready:
        shell.env = environment(tmp_path, ready)
        yield ready
        shell.end()
