"""What the README shows is what its reader gets: its listing, its tour, its file of a sample."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import REPOSITORY, Mounted, mounted
from support.pages import Session, parse

pytestmark = pytest.mark.fuse

README = (REPOSITORY / "README.md").read_text()
RUN = (REPOSITORY / "scripts/run").read_text()


def _section(heading: str) -> str:
    found = re.search(rf"^## {heading}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _console(text: str) -> Session:
    return parse("README.md", re.search(r"```console\n.*?```", text, re.DOTALL)[0]).sessions[0]


@pytest.fixture(scope="module")
def kv() -> Iterator[Mounted]:
    """What `scripts/run` leaves behind: the embedded store on `kv`, with its sample."""
    with (
        tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp") as top,
        mounted(Path(top), "local:", name="kv") as mount,
    ):
        make_sample = re.search(r"^make_sample\(\) \{.*?^\}", RUN, re.MULTILINE | re.DOTALL)[0]
        subprocess.run(["bash", "-euc", f"{make_sample}\nmake_sample kv"], cwd=top, check=True)
        yield mount


def _shell(kv: Mounted, command: str) -> str:
    script = f'kvfs() {{ {sys.executable} -m kvfs "$@"; }}\n{command}'
    done = subprocess.run(
        ["bash", "-euc", script], cwd=kv.path.parent, env=kv.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def _without_owner_and_time(lines: list[str]) -> list[str]:
    """`ls -l` without what differs from reader to reader."""
    return [re.sub(r"^(\S+ +\d+) \S+ +\S+ +(\d+) \w+ +\d+ +[\d:]+", r"\1 \2", line) for line in lines]


def test_the_listing_looks_so(kv: Mounted) -> None:
    """Modes, link counts, sizes and names, and the content of a file."""
    for step in _console(_section("What it looks like")).steps:
        printed = _shell(kv, step.command).splitlines()
        assert _without_owner_and_time(printed) == _without_owner_and_time(step.expected), step.command


def test_the_tour_can_be_walked(kv: Mounted) -> None:
    """Every line of it succeeds, in the order of the page, and the comments say what happens."""
    lines = re.search(r"```sh\n(.*?)```", _section("A tour"), re.DOTALL)[1].splitlines()
    said = {}
    for line in lines[1:]:  # the first sets the PATH
        command, _, comment = line.partition("#")
        said[comment.strip()] = _shell(kv, command)
    assert 'user.colour="red"' in said["metadata"]
    assert 'user.kvfs.key="fruit/apple"' in said["the key itself"]
    assert "kv/sample/fruit/apple:red, round" in said["read by the hundred"]
    assert kv.process.wait(30) == 0
