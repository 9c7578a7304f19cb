"""The benchmarks themselves: a tiny run against kvfs, memory and disk comes out as JSON, Markdown and plots."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench import page
from bench.clients import Sdk
from bench.filesystems import Kvfs
from bench.material import make
from bench.measuring import Cost, Run, measured
from bench.page import Setting
from bench.reasons import reason
from bench.relay import relaying
from bench.remote import relayed
from bench.report import Report, counted, rows
from bench.suite import Suite
from bench.workloads import MEANING, Phase, phases_of
from support.mounted import REPOSITORY, Api
from support.serving import served_by_process

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def _bench(*words: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bench", *map(str, words)],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


WORKLOADS = ("create", "create, into", "read", "save", "save, unchecked", "rename", "rename files", "delete")
BULK = {
    "create": {"namespaces": 1, "bulk put": 1},
    "create, into": {"bulk put": 1},
    "read": {"list": 1, "bulk get": 1},
    "rename": {"list": 1, "bulk get": 1, "bulk put": 1, "bulk delete": 1},
    "rename files": {"list": 1, "bulk get": 1, "bulk put": 1, "bulk delete": 1},
    "delete": {"list": 1, "bulk delete": 1},
}
"""What the SDK's bulk calls cost: less, no program can do that does not know the names."""


PLOTS = ("wall-10ms.svg", "requests.svg", "cpu.svg", "floor.svg")


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the results of a tiny run: two workloads of every subject that is in Python."""
    out = tmp_path_factory.mktemp("tiny")
    words = ["--workloads", "create", "read", "--only", "kvfs", "sdk", "memfs", "ext4", "--sdk", "bulk"]
    _bench("run", "--quick", "--files", "20", *words, "--delays", "0.01", "--out", out, "--cpu-files", "20")
    return out


def test_a_tiny_run_comes_out_as_json_markdown_and_plots(tiny_run: Path) -> None:
    """Every subject that is in Python does its work, and the numbers of the page are in the JSON."""
    document = json.loads((tiny_run / "results.json").read_text())
    found = {(row["subject"], row["workload"]): row for row in document["rows"]}
    subjects = ("kvfs", "SDK bulk", "memfs", "ext4")
    assert all((name, work) in found for name in subjects for work in ("create", "read"))
    assert all(row["wall"] > 0 for row in document["rows"])
    assert document["sdk_start"] > 0
    assert found["SDK bulk", "create"]["wall"] > found["SDK bulk", "create"]["start"] > 0
    assert found["SDK bulk", "create"]["kinds"] == BULK["create"]
    assert found["kvfs", "create"]["running"] == found["kvfs", "create"]["wall"]
    assert found["kvfs", "read"]["peak"] > 10_000_000
    assert found["ext4", "create"]["requests"] == 0
    assert [row["task"] for row in document["cpu"]], "no distance to the floor"
    page = (tiny_run / "results.md").read_text()
    assert "| grep -r |" in page
    assert "are starting Python and importing it" in page
    assert document["machine"]["kvfs"] in page
    for plot in PLOTS:
        assert f"({plot})" in page
        assert ElementTree.parse(tiny_run / plot).getroot().tag.endswith("svg")
    assert "readme.svg" not in page, "that one is the README's"


def test_charts_are_drawn_again_from_the_results(tiny_run: Path) -> None:
    """Charts that are drawn again from the same numbers are the same files."""
    drawn = [tiny_run / name for name in (*PLOTS, "readme.svg")]
    before = [file.read_bytes() for file in drawn]
    for file in drawn:
        file.unlink()
    _bench("charts", "--out", tiny_run)
    assert [file.read_bytes() for file in drawn] == before


def _requests(
    directory: Path, subject: type[Kvfs | Sdk], works: Sequence[str], *mode: str
) -> dict[str, Counter[str]]:
    """Return the requests of each workload, by kind; every subject must do its work."""
    (directory / "server").mkdir(parents=True)
    material = make(directory / "material", 20)
    with served_by_process(directory / "server") as served, relaying(0.0) as relay:
        suite = Suite(
            material, [subject(material, served, relay, 0.0, *mode)], directory, phases=phases_of(works)
        )
        suite.run(1, time.monotonic() + 100)
    assert not suite.problems
    return {work: runs[0].requests for (_, _, work), runs in suite.found.items()}


def test_the_sdk_makes_the_fewest_requests_there_can_be(tmp_path: Path) -> None:
    """The SDK's bulk calls make the fewest requests, and without them a value saved is a request."""
    assert _requests(tmp_path / "bulk", Sdk, list(BULK), "bulk") == BULK
    found = _requests(tmp_path / "singly", Sdk, ["save, unchecked"], "singly")
    assert found == {"save, unchecked": {"put": 5}}


def test_kvfs_makes_few_requests_more_than_the_fewest(tmp_path: Path) -> None:
    """Requests of kvfs are those of the SDK's bulk calls, and a few by which it learns of other clients' changes."""
    kinds = _requests(tmp_path, Kvfs, WORKLOADS)
    assert kinds["delete"] == BULK["delete"]
    assert kinds["create"] == {**BULK["create"], "bulk get": 1}  # asks if somebody else made one of the names
    for work in (
        "rename",
        "rename files",
    ):  # asks besides if somebody else changed the values that are taken away
        assert kinds[work] == {**BULK[work], "bulk get": 3}
    assert kinds["create, into"] == {"list": 1, "bulk get": 1, "bulk put": 1}
    assert kinds["read"] == {"list": 1, "bulk get": kinds["read"].total() - 1}
    assert kinds["save"] == {"bulk get": 5, "bulk put": 5}
    assert kinds["save, unchecked"] == {"bulk put": 5}


def test_commits_are_measured_in_memory_on_the_disk_and_through_the_api() -> None:
    """Commits are measured beside the floor, with the syncs and requests of each."""
    found = json.loads(_bench("commits", "--commits", "5", "--json"))
    memory, local, disk, api = found
    assert memory["where"] == "memfs"
    assert local["of"] == pytest.approx(local["wall"] / memory["wall"])
    assert 3 <= disk["syncs"] <= 5, "a checkpoint may be among them"
    assert 3 <= api["requests"] <= 9
    assert api["of"] == pytest.approx(api["wall"] / api["requests"] / 0.02)


def test_the_relay_delays_and_counts_each_request(tmp_path: Path) -> None:
    """The relay delays and counts also a second request of a connection, and one with a long body."""
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


def _report(wall: dict[str, list[float]], requests: dict[str, int], start: float = 0.4) -> Report:
    """Return a report of one workload, `read`, at 50 ms; starting the SDK takes `start`."""
    runs = {
        (name, 0.05, "read"): [
            Run(Cost(each, 0.1), Counter(get=requests[name]), start if name.startswith("SDK") else 0.0)
            for each in walls
        ]
        for name, walls in wall.items()
    }
    return Report(rows(runs), [0.05])


WALLS = {
    "kvfs": [1.0, 2.0, 9.0],
    "rclone full": [40.0],
    "rclone writes": [15.0],
    "SDK bulk": [1.5],
    "memfs": [0.1],
}
REQUESTS = {"kvfs": 11, "rclone full": 1022, "rclone writes": 1022, "SDK bulk": 11, "memfs": 0}


def test_the_page_says_where_kvfs_is_behind() -> None:
    """A verdict compares the medians with the best peer: ahead, level, or behind, as is less than ten times."""
    verdicts = _report(WALLS, REQUESTS).verdicts()
    found = {verdict.what: verdict for verdict in verdicts}
    assert found["requests"].standing == "level"
    assert found["requests"].detail == "level with SDK bulk: 11"
    assert found["wall time at 50 ms"].standing == "behind"
    assert found["wall time at 50 ms"].detail == "2.00 s; SDK bulk 1.50 s: 1.33 times behind"
    assert found["ten times rclone at 50 ms"].standing == "behind"
    assert "7.5 times ahead" in found["ten times rclone at 50 ms"].detail
    assert counted([verdict.standing for verdict in verdicts]) == "ahead in 0, level in 1, behind in 2 of 3"
    faster = _report(WALLS | {"kvfs": [1.0]}, REQUESTS)
    assert [verdict.standing for verdict in faster.verdicts()] == ["level", "ahead", "ahead"]


def test_the_page_gives_reasons_only_where_kvfs_is_behind(tmp_path: Path) -> None:
    """The page gives reasons only where kvfs is behind, and with each the least that is possible."""
    how = Setting(n=20, rounds=3, machine={})
    page.write(tmp_path, _report(WALLS, REQUESTS), [], [], how)
    text = (tmp_path / "results.md").read_text()
    assert f"- *grep -r*, time: {reason('read', 'time')}\n" in text
    assert "- *grep -r*, requests:" not in text
    assert "Ahead in 0, level in 1, behind in 2 of 3 comparisons" in text
    assert "| grep -r | 2.00 s | 40.0 s¹ |" in text.replace("15.0 s¹ | ", ""), "measured once is marked"
    page.write(tmp_path, _report(WALLS | {"kvfs": [1.0]}, REQUESTS), [], [], how)
    assert "Where it is behind" not in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("workload", sorted(set(MEANING) - {"mount"}))
def test_there_is_a_reason_for_every_comparison(workload: str) -> None:
    """The page has a reason for every comparison that a run can find."""
    assert all(
        reason(workload, measure).endswith(".") for measure in ("requests", "time", "ten times rclone")
    )


def test_the_sdk_is_shown_running_already_too() -> None:
    """The SDK's times are shown without its start too, beside those of kvfs, from which nothing is taken."""
    report = _report(WALLS, REQUESTS, start=0.4)
    assert report.start == 0.4
    assert "| grep -r | 2.00 s | 1.10 s | behind |" in report.beside_running(0.05)
    assert "Ahead in 1, level in 0" in _report(WALLS | {"kvfs": [1.0]}, REQUESTS).beside_running(0.05)


class _Sleeper:
    """A subject that sleeps, and counts how often."""

    delay, settings, mounting = None, "", None
    working = None
    pids = servers = ()

    def __init__(self, seconds: float) -> None:
        self.name = f"sleeps {seconds} s"
        self.turns = 0
        self._seconds = seconds
        self.work = {"list": self._sleep}
        self.counts = Counter
        self.verify = lambda: None

    def _sleep(self, place: object, material: object) -> None:
        self.turns += 1
        time.sleep(self._seconds)

    @contextmanager
    def place(self, directory: Path, phase: object) -> Iterator["_Sleeper"]:
        yield self


def _turns(directory: Path, *seconds: float, within: float) -> list[int]:
    """Return how often each had its turn of five rounds at most; work of more than 0.7 s is slow."""
    subjects = [_Sleeper(each) for each in seconds]
    suite = Suite(None, subjects, directory, phases=[Phase((), ("list",))], slow=0.7)
    suite.run(5, time.monotonic() + within)
    assert [len(runs) for runs in suite.found.values()] == [subject.turns for subject in subjects]
    assert not suite.problems
    return [subject.turns for subject in subjects]


def test_what_takes_long_has_fewer_turns(tmp_path: Path) -> None:
    """Quick work is done in every round that there is time for, slow work once, and everything at least once."""
    assert _turns(tmp_path, 0.0, 0.2, 0.8, within=60) == [5, 5, 1]
    assert _turns(tmp_path, 0.0, 0.4, within=0.4 + 0.35) == [5, 1], "there is not enough time"
    assert _turns(tmp_path, 0.1, within=0) == [1]


def test_the_material_is_always_the_same(tmp_path: Path) -> None:
    """The material is the same in every run, so that a repeated measurement measures the same bytes."""
    first, second = (make(tmp_path / name, 60, big=2**16) for name in ("first", "second"))
    assert first.names == second.names
    assert first.pairs() == second.pairs()
    assert first.big.read_bytes() == second.big.read_bytes()
    assert {len(pair["value"]) for pair in first.pairs()} == {1024}
    assert sum("needle" in pair["value"] for pair in first.pairs()) == first.needles == 6
