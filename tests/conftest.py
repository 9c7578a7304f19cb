"""Checks around every test: warnings in kvfs's log must be announced, and no mount may be left behind."""

import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from kvfs.host.mounts import MOUNTINFO, parse_mountinfo

ExpectLog = Callable[[str], None]
TESTS = Path(__file__).parent
WAITING = {"mounted", "docs", "cli", "data", "plugin", "test_stateful.py", "test_without_fuse.py"}

# The programs that the tests start keep what they compile: some thousand of them would compile all of kvfs anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("kvfs", deadline=None)  # a busy machine is no failure of a property
settings.load_profile("kvfs")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts with `&` ignore Ctrl-C, and programs that the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of the files: pytest-xdist would begin with those of most tests, which are the quick ones."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what waits for mounts and commands, because the file that ends last decides when a run ends."""
    items.sort(key=lambda item: not set(item.path.relative_to(TESTS).parts[:1]) <= WAITING)


class _Collected(logging.Handler):
    """Keeps the warnings of the kvfs loggers, and the patterns that a test announced."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self.expected: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def unexpected(self) -> list[str]:
        return [line for line in self.lines if not any(re.search(p, line) for p in self.expected)]

    def missing(self) -> list[str]:
        return [p for p in self.expected if not any(re.search(p, line) for line in self.lines)]


@pytest.fixture(autouse=True)
def _warnings_are_announced() -> Iterator[_Collected]:
    """A warning in the log fails the test unless `expect_log` announced it; so does one that never came."""
    collected = _Collected()
    logger = logging.getLogger("kvfs")
    logger.addHandler(collected)
    yield collected
    logger.removeHandler(collected)
    if unexpected := collected.unexpected():
        pytest.fail("unannounced in the log:\n" + "\n".join(unexpected))
    if missing := collected.missing():
        pytest.fail(f"announced, but not in the log: {missing}")


@pytest.fixture
def expect_log(_warnings_are_announced: _Collected) -> ExpectLog:
    """Announce that the log will have a line (`LEVEL logger: message`) matching a regular expression."""
    return _warnings_are_announced.expected.append


@pytest.fixture(autouse=True)
def _no_mount_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A test that leaves a mount below the temporary directory fails, and the mount goes."""
    yield
    base = tmp_path_factory.getbasetemp()
    for mountpoint in _mounts_below(base):
        subprocess.run(["fusermount3", "-uz", mountpoint], check=False)
        pytest.fail(f"left mounted: {mountpoint}")


def _mounts_below(base: Path) -> list[Path]:
    content = MOUNTINFO.read_bytes()
    if b" fuse.kvfs " not in content:
        return []
    mounts = (mount for mount in parse_mountinfo(content) if mount.is_kvfs)
    return [mount.mountpoint for mount in mounts if mount.mountpoint.is_relative_to(base)]
