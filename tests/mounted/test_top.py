"""`kvfs top` and `.kvfs/metrics` over a real mount: each process's work, with the server's count as its sum."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from support.mounted import QUICK, REPOSITORY, Api, Mounted, mounted
from support.serving import Served
from support.terminal import terminal

pytestmark = pytest.mark.fuse

HOSTILE = 'a "b" \\ c\nd é 日本\t}'
FILES = 30


@pytest.fixture
def mount(tmp_path: Path, server: Served, api: Api) -> Iterator[Mounted]:
    """Yield an account of two namespaces, one with a name that a parser could stumble over."""
    for title in ("shop", HOSTILE):
        api.result("POST", "", json={"title": title})
    for number in range(FILES):
        api.put(api.namespace("shop"), f"tree/{number:02}", b"value")
    with mounted(tmp_path, "cloudflare:", *QUICK, "--write-back=3600", served=server) as mount:
        yield mount


def billed(api: Api) -> dict[str, int]:
    """Return keys as the server counts them, and requests that list."""
    keys = api.keys_counted()
    kinds = {"read": ("get_value", "get_metadata", "bulk_get"), "written": ("put_value", "bulk_put")}
    found = {kind: sum(keys.get(operation, 0) for operation in names) for kind, names in kinds.items()}
    return found | {"lists": api.requests().get("list_keys", 0)}


def by_command(mount: Mounted) -> dict[str, list[dict[str, Any]]]:
    """Return the callers of `kvfs top --json`."""
    [found] = json.loads(mount.kvfs("top", "--json", str(mount.path)).stdout)["mounts"]
    callers: dict[str, list[dict[str, Any]]] = {}
    for caller in found["callers"]:
        callers.setdefault(caller["command"], []).append(caller)
    return callers


def test_each_process_shows_with_its_own_numbers_and_the_sum_is_the_servers(mount: Mounted, api: Api) -> None:
    """A find that has ended shows with its listing, a loop of cat with the values, and a copy with both sides.

    The sum is the server's.
    """
    before, keys_before = sum(api.requests().values()), billed(api)
    mount.shell("find shop > /dev/null")
    mount.shell("for file in shop/tree/*; do cat $file; done > /dev/null; cp -r shop/tree shop/copy")
    mount.sync()
    callers = by_command(mount)
    [find] = callers["find"]
    assert find["pid"] > 0
    assert find["operations"]["readdir"] >= 2
    assert find["keys"] == {"read": 0, "written": 0, "deleted": 0, "lists": 1}
    assert find["dollars"] == pytest.approx(5e-6)
    assert len(callers["cat"]) == FILES
    assert sum(cat["operations"]["open"] for cat in callers["cat"]) == FILES
    assert sum(cat["keys"]["read"] for cat in callers["cat"]) == FILES
    [copy] = callers["cp"]
    assert copy["operations"]["create"] == FILES
    assert copy["keys"]["written"] == FILES
    assert copy["dollars"] >= FILES * 5e-6
    assert 0 < copy["median_seconds"] <= copy["p99_seconds"]
    everybody = [caller for some in callers.values() for caller in some]
    at_the_start = mount.status()["requests"]["list_namespaces"]
    requests = sum(api.requests().values()) - before + at_the_start
    assert sum(caller["requests"] for caller in everybody) == pytest.approx(requests)
    for kind, found in billed(api).items():
        assert sum(caller["keys"][kind] for caller in everybody) == pytest.approx(found - keys_before[kind])
    assert sum(caller["waited"] for caller in callers["cat"]) < FILES / 2


def test_a_program_that_a_shell_opened_a_file_for_has_its_own_name(mount: Mounted) -> None:
    """A program for which a shell opened a file has its own name, because the shell becomes the program."""
    mount.shell("seq 100000 > shop/numbers")
    [seq] = by_command(mount)["seq"]
    assert seq["operations"]["write"] >= 4


def test_threads_and_users_are_told(mount: Mounted) -> None:
    """A process with many threads is one row, and a row by user has all of its programs."""
    script = (
        "import os, sys, threading\n"
        "for _ in range(8): threading.Thread(target=os.listdir, args=[sys.argv[1]]).start()"
    )
    subprocess.run([sys.executable, "-c", script, str(mount.path / "shop" / "tree")], check=True)
    name = Path("/proc/self/comm").read_text().strip()
    pids = {
        caller["pid"] for caller in by_command(mount)[name] if caller["operations"].get("opendir", 0) >= 8
    }
    assert len(pids) == 1
    lines = mount.kvfs("top", "--once", "--by=user", str(mount.path)).stdout.splitlines()
    assert [line.split()[1] for line in lines[3:]] == ["root", "-"]


def test_a_terminal_shows_it_sorts_it_and_ends_it(mount: Mounted, tmp_path: Path) -> None:
    """In a terminal s sorts by another column, b groups by another one, and q ends."""
    mount.shell("find shop > /dev/null; cat shop/tree/* > /dev/null")
    command = [sys.executable, "-m", "kvfs", "top", "--interval=0.2", str(mount.path)]
    env = {name: value for name, value in mount.env.items() if name != "HOME"}
    with terminal(tmp_path, command, cwd=tmp_path, **env) as screen:
        screen.wait_for("COMMAND")
        screen.wait_for("find")
        screen.wait_for(" cat ")
        screen.type("b")
        screen.wait_for(str(by_command(mount)["find"][0]["pid"]))
        screen.type("b")
        screen.wait_gone("find")
        screen.type("q")
        assert screen.wait_end() == 0


def metrics(mount: Mounted) -> dict[str, Metric]:
    """Return the metrics as Prometheus reads them; the control socket must say the same as the file."""
    text = (mount.path / ".kvfs" / "metrics").read_text()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_metrics_are_what_prometheus_expects(mount: Mounted, api: Api) -> None:
    """Each metric has HELP and TYPE, counters end in _total, histograms add up, and labels take any text."""
    mount.shell(f"cat shop/tree/* > /dev/null; echo hello > {chr(39)}{HOSTILE}{chr(39)}/key")
    text = (mount.path / ".kvfs" / "metrics").read_text()
    found = metrics(mount)
    names = {line.split("{")[0].split()[0] for line in text.splitlines() if not line.startswith("#")}
    for name, family in found.items():
        assert family.documentation, name
        assert family.type in ("gauge", "counter", "histogram"), name
        assert family.type != "counter" or f"{name}_total" in names, name
    assert found["kvfs_operation_duration_seconds"].type == "histogram"
    pending = {one.labels["namespace"]: one.value for one in found["kvfs_pending_changes"].samples}
    assert pending == {HOSTILE: 1, "shop": 0}
    sizes = {one.labels["namespace"]: one.value for one in found["kvfs_pending_bytes"].samples}
    assert sizes == {HOSTILE: 6, "shop": 0}
    requests = {one.labels["operation"]: one.value for one in found["kvfs_requests"].samples}
    assert sum(requests.values()) == mount.status()["budget"]["used"]
    for name, operation in (("operation", "open"), ("request", "bulk_get")):
        samples = [
            one
            for one in found[f"kvfs_{name}_duration_seconds"].samples
            if one.labels["operation"] == operation
        ]
        buckets = [one.value for one in samples if one.name.endswith("_bucket")]
        [count] = [one.value for one in samples if one.name.endswith("_count")]
        [seconds] = [one.value for one in samples if one.name.endswith("_sum")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == count > 0
        assert 0 < seconds < 60
    opened = sum(
        caller["operations"].get("open", 0) for some in by_command(mount).values() for caller in some
    )
    [count] = [
        one.value
        for one in metrics(mount)["kvfs_operation_duration_seconds"].samples
        if one.name.endswith("_count") and one.labels["operation"] == "open"
    ]
    assert opened <= count <= opened + 2  # to read it is an open, too
    mount.sync()


def test_the_page_lists_the_metrics_that_there_are(mount: Mounted) -> None:
    """docs/operating.md lists each metric by name and type, and no other; its rules name existing ones."""
    page = (REPOSITORY / "docs" / "operating.md").read_text()
    listed = dict(re.findall(r"^\| `(kvfs_\w+)(?:\{\w+(?:, \w+)*\})?` \| (\w+) \|", page, re.MULTILINE))
    found = {
        f"{name}_total" if family.type == "counter" else name: family.type
        for name, family in metrics(mount).items()
    }
    assert listed == found
    series = {sample.name for family in metrics(mount).values() for sample in family.samples}
    [rules] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    named = set(re.findall(r"\bkvfs_\w+", rules))
    assert named
    assert named <= series


def test_an_embedded_store_has_no_budget_and_costs_nothing(tmp_path: Path) -> None:
    """For an embedded store budget and cost are left out, or zero."""
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite") as mount:
        mount.shell("mkdir ns; echo 1 > ns/a; cat ns/a; true")  # else the shell becomes cat
        found = metrics(mount)
        assert "kvfs_budget_requests_left" not in found
        assert "kvfs_dollars" not in found
        assert by_command(mount)["cat"][0]["requests"] == 0
