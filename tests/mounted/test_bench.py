"""The benchmarks themselves run: a tiny run against kvfs, memory and disk comes out as JSON, Markdown and plots."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench.filesystems import relayed
from bench.material import make
from bench.measuring import Cost, Run, measured
from bench.relay import relaying
from bench.report import Report, rows
from support.mounted import REPOSITORY, Api
from support.serving import served_by_process

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def _bench(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bench", *map(str, words)],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_tiny_run_comes_out_as_json_markdown_and_plots(tmp_path: Path) -> None:
    """Every subject without a peer's program does its work, and what the page says is in the JSON."""
    words = ["--workloads", "create", "read", "--only", "kvfs", "memfs", "ext4", "--delays", "0.01"]
    _bench("run", "--quick", "--files", "20", *words, "--out", tmp_path, "--cpu-files", "20")
    document = json.loads((tmp_path / "results.json").read_text())
    found = {(row["subject"], row["workload"]): row for row in document["rows"]}
    assert {name for name, _ in found} == {"kvfs", "memfs", "ext4"}
    assert {"create", "read", "mount"} <= {workload for _, workload in found}
    assert all(row["wall"] > 0 for row in document["rows"])
    assert found["kvfs", "create"]["kinds"]["bulk put"] == 1
    assert found["kvfs", "read"]["kinds"] == {"list": 1, "bulk get": found["kvfs", "read"]["requests"] - 1}
    assert found["kvfs", "read"]["peak"] > 10_000_000
    assert found["ext4", "create"]["requests"] == 0
    assert [row["task"] for row in document["cpu"]], "no distance to the floor"
    page = (tmp_path / "results.md").read_text()
    assert "| create |" in page
    assert document["machine"]["kvfs"] in page
    for plot in ("wall-10ms.svg", "requests.svg", "cpu.svg", "floor.svg"):
        assert f"({plot})" in page
        assert ElementTree.parse(tmp_path / plot).getroot().tag.endswith("svg")
    assert "`grep -r` through the tree" in _bench("headline", "--out", tmp_path)


def test_the_relay_delays_and_counts_each_request(tmp_path: Path) -> None:
    """Also the second one on a connection, also one with a long body, which arrives whole."""
    body = os.urandom(3 << 20)
    with served_by_process(tmp_path) as served, relaying(0.2) as relay:
        relay.aim(served.port)
        with Api(relayed(served, relay)) as api:
            namespace = api.result("POST", "", json={"title": "ns"})["id"]
            for work in (lambda: api.put(namespace, "a/b", body), lambda: api.get(namespace, "a/b")):
                assert measured(work).wall >= 0.2
            assert api.get(namespace, "a/b") == body
            assert api.keys(namespace).keys() == {"a/b"}
        assert relay.counts() == {"namespaces": 1, "put": 1, "get": 2, "list": 1}


def _report(wall: dict[str, list[float]], requests: dict[str, int]) -> Report:
    """One workload, `read`, at 50 ms."""
    runs = {
        (name, 0.05, "read"): [Run(Cost(each, 0.1), Counter(get=requests[name])) for each in walls]
        for name, walls in wall.items()
    }
    return Report(rows(runs), [0.05])


def test_the_page_says_where_kvfs_is_behind() -> None:
    """A verdict compares the medians with the best peer; being slower, or not ten times faster, is a no."""
    walls = {
        "kvfs": [1.0, 2.0, 9.0],
        "rclone full": [40.0],
        "rclone writes": [15.0],
        "SDK bulk": [1.5],
        "memfs": [0.1],
    }
    requests = {"kvfs": 11, "rclone full": 1022, "rclone writes": 1022, "SDK bulk": 11, "memfs": 0}
    found = {verdict.what: verdict for verdict in _report(walls, requests).verdicts()}
    assert found["requests"].kept
    assert found["requests"].detail == "level with SDK bulk: 11"
    assert not found["wall time at 50 ms"].kept
    assert found["wall time at 50 ms"].detail == "2.00 s; SDK bulk 1.50 s: 1.33 times behind"
    assert not found["ten times rclone at 50 ms"].kept
    assert "7.5 times ahead" in found["ten times rclone at 50 ms"].detail
    walls["kvfs"] = [1.0]
    assert {verdict.what: verdict.kept for verdict in _report(walls, requests).verdicts()} == {
        "requests": True,
        "wall time at 50 ms": True,
        "ten times rclone at 50 ms": True,
    }


def test_the_material_is_always_the_same(tmp_path: Path) -> None:
    """Whoever measures again measures the same bytes."""
    first, second = (make(tmp_path / name, 60, big=2**16) for name in ("first", "second"))
    assert first.names == second.names
    assert first.pairs() == second.pairs()
    assert first.big.read_bytes() == second.big.read_bytes()
    assert {len(pair["value"]) for pair in first.pairs()} == {1024}
    assert sum("needle" in pair["value"] for pair in first.pairs()) == first.needles == 6
