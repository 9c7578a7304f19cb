"""One budget of requests for an account: mounts and commands of a user share it, over a real server that has one."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

REQUESTS = 30
OPTIONS = (f"--rate-requests={REQUESTS}", "--cache-ttl=60", "--write-back=600", "--timeout=3")


def write(mount: Mounted) -> int:
    """Send a request for each file, until none is possible any more; return how many there were."""
    for number in range(REQUESTS):
        with open(mount.path / f"{number}", "wb", buffering=0) as file:
            file.write(b"x")
            try:
                os.fsync(file.fileno())
            except OSError:
                return number
    return REQUESTS


def test_two_mounts_of_an_account_never_meet_a_429(tmp_path: Path, server: Served) -> None:
    """Two mounts of an account stay within its limit together and both say so.

    A command counts too, and a remount keeps the count.
    """
    with Api(server, direct=True) as api, ThreadPoolExecutor(2) as threads:
        for title in ("one", "two"):
            api.result("POST", "", json={"title": title})
        api.set_faults({"fault": "rate_budget", "count": REQUESTS, "seconds": 300})
        with (
            mounted(tmp_path, "cloudflare:/one", *OPTIONS, served=server, name="a") as first,
            mounted(tmp_path, "cloudflare:/two", *OPTIONS, served=server, name="b") as second,
        ):
            listed = first.kvfs("ls", f"--rate-requests={REQUESTS}", "cloudflare:/one").stdout
            assert listed == ""
            written = list(threads.map(write, (first, second)))
            assert min(written) > 2
            assert sum(written) <= REQUESTS - 4, "two mounts and a command were there before"
            for mount in (first, second):
                status = mount.status()
                assert status["budget"]["left"] <= REQUESTS // 20 + 1
                assert "waiting for the limit of" in status["store"]["text"]
            assert sum(api.requests().values()) <= REQUESTS
            api.set_faults()
            for mount in (first, second):
                mount.kill()
        assert 'status="429"' not in httpx.get(f"{server.root}/metrics", headers=server.headers).text
        with mounted(tmp_path, "cloudflare:/one", "--rate-requests=500", served=server, name="a") as again:
            assert again.status()["budget"]["used"] >= REQUESTS - 2
            again.kill()  # the API said that nothing is left, for five minutes
