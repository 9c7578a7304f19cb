"""A server, another client and a mount for the examples of the pages."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.calls import OPTIONS
from support.mounted import Api, mounted
from support.serving import served_by_process
from support.standing import Standing


@pytest.fixture(scope="module")
def world() -> Iterator[Standing]:
    """A world in which nothing is sent or forgotten by itself, and whose server can have faults."""
    with tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp") as name:
        directory = Path(name)
        (directory / "scratch").mkdir()
        with (
            served_by_process(directory, faults="") as served,
            Api(served) as api,
            mounted(directory, "cloudflare:", *OPTIONS, served=served) as mount,
        ):
            yield Standing(served, api, mount, directory / "scratch")
