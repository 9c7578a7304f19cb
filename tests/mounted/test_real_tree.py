"""Real input: Python's own standard library, text and binary, in and out without a difference."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from support.mounted import Api, mounted
from support.serving import served_by_process

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def _library(directory: Path) -> Path:
    """Copy the standard library without the parts that other tests or tools may change under us."""
    found = directory / "library"
    ignored = shutil.ignore_patterns(
        "site-packages", "dist-packages", "*.tmp", "libpython*.a"
    )  # the last is over 25 MiB
    shutil.copytree(sysconfig.get_path("stdlib"), found, ignore=ignored, symlinks=False)
    return found


def test_the_standard_library_survives_the_round_trip(tmp_path: Path) -> None:
    """After cp -r, sync, unmount and a mount with empty caches diff -r finds nothing, and rm -rf leaves nothing."""
    library = _library(tmp_path)
    count = sum(1 for path in library.rglob("*") if path.is_file())
    assert count > 2000
    with served_by_process(tmp_path) as served, Api(served) as api:
        with mounted(tmp_path, "cloudflare:", served=served) as mount:
            mount.shell(f"mkdir ns && cp -r {library} ns/library")
            mount.sync()
        namespace = api.namespace("ns")
        assert len(api.keys(namespace)) == count
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        with mounted(elsewhere, "cloudflare:", "--rate-requests=20000", served=served) as mount:
            before = api.requests()
            done = subprocess.run(
                ["diff", "-r", library, mount.path / "ns/library"],
                capture_output=True,
                text=True,
                check=False,
            )
            print({name: n - before.get(name, 0) for name, n in api.requests().items()})
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            mount.shell("rm -rf ns/library")
            mount.sync()
            assert api.keys(namespace) == {}
            assert list((mount.path / "ns").iterdir()) == []
