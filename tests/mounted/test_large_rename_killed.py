"""Kills during the rename of a large directory: every value is under its old name or its new one."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mounted import QUICK, Api, mounted
from support.serving import Served, served_by_process
from support.standing import wait_for

pytestmark = pytest.mark.fuse

MOMENTS = {"reading": 3_000, "recorded": 1_500, "half put": 10_200, "half deleted": 10_200}
"""When the daemon is killed, and of how many keys: ten thousand go into one body."""

Asked = Callable[[str], int]


@pytest.fixture
def whole(moment: str) -> dict[str, str]:
    """Return the content of the directory."""
    return {f"old/{number % 9}/{number:05}": str(number) for number in range(MOMENTS[moment])}


@pytest.fixture
def server(tmp_path: Path, whole: dict[str, str]) -> Iterator[Served]:
    """Yield a server that has it in namespace `ns`."""
    with served_by_process(tmp_path, faults="") as served, Api(served) as api:
        namespace = api.result("POST", "", json={"title": "ns"})["id"]
        pairs = [{"key": key, "value": value} for key, value in whole.items()]
        for start in range(0, len(pairs), 10_000):
            api.bulk_put(namespace, pairs[start : start + 10_000])
        yield served


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_every_value_under_its_old_or_new_name(
    tmp_path: Path, server: Served, whole: dict[str, str], moment: str
) -> None:
    """A kill while values are read, or between bodies of puts or deletions, leaves every value under one name."""
    write_back = "600" if moment in ("reading", "recorded") else "0.1"
    with Api(server) as api:
        namespace = api.namespace("ns")
        first = api.requests()

        def asked(operation: str) -> int:
            return api.requests().get(operation, 0) - first.get(operation, 0)

        with mounted(tmp_path, "cloudflare:", *QUICK, f"--write-back={write_back}", served=server) as mount:
            stop_at(api, moment)
            ns = mount.path / "ns"
            moving = subprocess.Popen(["mv", ns / "old", ns / "new"], stderr=subprocess.PIPE)
            wait_until(moment, moving, asked)
            mount.kill()
            moving.communicate()
        api.set_faults()
        left = values(api, namespace)
        assert renamed(left) == renamed(whole)
        with mounted(tmp_path, "cloudflare:", *QUICK, served=server) as mount:
            mount.sync()
            found = values(api, namespace)
            assert found == (whole if moment == "reading" else renamed(whole))
            shown = sorted(path.name for path in (mount.path / "ns").iterdir())
            assert shown == (["old"] if moment == "reading" else ["new"])


def stop_at(api: Api, moment: str) -> None:
    """Answer the requests before a moment, and none after it."""
    path, method, after = {
        "reading": ("/bulk/get$", "POST", 20),
        "half put": ("/bulk$", "PUT", 1),
        "half deleted": ("/bulk(/delete)?$", "POST|DELETE", 1),
    }.get(moment, ("", "", -1))
    if after >= 0:
        api.set_faults({"fault": "stall", "method": method, "path": path, "after": after})


def wait_until(moment: str, moving: "subprocess.Popen[bytes]", asked: Asked) -> None:
    """Wait until the rename is there."""
    if moment == "reading":
        wait_for(lambda: asked("bulk_get") >= 20, 60)
        assert moving.poll() is None
        return
    assert moving.wait(60) == 0
    if moment == "half put":
        wait_for(lambda: asked("bulk_put") >= 1, 60)
    if moment == "half deleted":
        wait_for(lambda: asked("bulk_delete") + asked("bulk_delete_post") >= 1, 60)


def values(api: Api, namespace: str) -> dict[str, str]:
    """Return everything that the server has."""
    keys, found = list(api.keys(namespace)), {}
    for start in range(0, len(keys), 100):
        answer = api.result("POST", f"/{namespace}/bulk/get", json={"keys": keys[start : start + 100]})
        found |= answer["values"]
    return found


def renamed(values: dict[str, str]) -> dict[str, str]:
    """Return the whole content under the new name."""
    return {key.replace("old/", "new/", 1): value for key, value in values.items()}
