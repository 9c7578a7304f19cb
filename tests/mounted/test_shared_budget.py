"""One budget of requests for an account: mounts and commands of a user share it, over a real server that has one."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

pytestmark = pytest.mark.fuse

REQUESTS, SECONDS = 30, 3
LIMIT = (f"--rate-requests={REQUESTS}", f"--rate-seconds={SECONDS}")
OPTIONS = (*LIMIT, "--cache-ttl=60", "--write-back=600", "--on-conflict=overwrite")


def write(mount: Mounted, count: int) -> None:
    """So many requests: each file goes by itself."""
    for number in range(count):
        with open(mount.path / f"{mount.path.name} {number}", "wb", buffering=0) as file:
            file.write(b"x")
            os.fsync(file.fileno())


def test_two_mounts_of_an_account_never_meet_a_429(tmp_path: Path, server: Served) -> None:
    """They wait instead, and say how much the account has left; a command takes its turn, a remount keeps the count."""
    with Api(server, direct=True) as api, ThreadPoolExecutor(2) as threads:
        for title in ("one", "two"):
            api.result("POST", "", json={"title": title})
        api.set_faults({"fault": "rate_budget", "count": REQUESTS, "seconds": SECONDS})
        with (
            mounted(tmp_path, "cloudflare:/one", *OPTIONS, served=server, name="a") as first,
            mounted(tmp_path, "cloudflare:/two", *OPTIONS, served=server, name="b") as second,
        ):
            began = time.monotonic()
            work = [threads.submit(write, mount, 20) for mount in (first, second)]
            left: list[int] = []
            while not all(one.done() for one in work):
                left += [mount.status()["budget"]["left"] for mount in (first, second)]
            for one in work:
                one.result()
            assert time.monotonic() - began > SECONDS - 1, "40 requests do not fit into one window"
            assert min(left[::2]) < REQUESTS // 4 > min(left[1::2]), "both know what the account has left"
            listed = first.kvfs("ls", *LIMIT, "cloudflare:/one").stdout
            assert len(listed.splitlines()) == 20
        with mounted(tmp_path, "cloudflare:/one", "--rate-requests=500", served=server, name="a") as again:
            assert again.status()["budget"]["left"] <= 500 - 40
        assert 'status="429"' not in httpx.get(f"{server.root}/metrics", headers=server.headers).text
