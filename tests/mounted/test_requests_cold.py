"""Requests of reads, counted at the server: a mount that knows nothing yet, and one that does.

The floor for n keys is n/1000 lists and n/100 bulk gets. Above it comes one list of the namespaces. Where no entries
were read before the first file, it is one bulk get more, for that file alone, because a walk shows only at the second.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served, served_by_process
from support.standing import Counts

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

N = 2000
SIZE = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a namespace of each kind."""
    with served_by_process(tmp_path_factory.mktemp("server"), faults="seed=1") as served, Api(served) as api:
        dice = random.Random(5)
        _fill(api, "text", {f"t/d{n // 200}/f{n:04}.txt": "x" * SIZE for n in range(N)})
        _fill(api, "binary", {f"b/{n:03}.bin": dice.randbytes(SIZE) for n in range(120)})
        _fill(api, "many", {f"d{n // 500:02}/f{n % 500:03}": "" for n in range(20_000)})
        _fill(api, "between", {"a/x": "", **{f"a-{n:04}": "" for n in range(1500)}, "b/y": ""})
        _fill(api, "small", {f"src/{n:03}.py": "pass\n" for n in range(400)})
        yield served


def _fill(api: Api, title: str, values: dict[str, str | bytes]) -> None:
    api.result("POST", "", json={"title": title})
    namespace, items = api.namespace(title), list(values.items())
    if title == "binary":
        for key, value in items:
            api.put(namespace, key, bytes(value))
        return
    for start in range(0, len(items), 10_000):
        api.bulk_put(
            namespace, [{"key": key, "value": value} for key, value in items[start : start + 10_000]]
        )


def _late(api: Api, delay: float, act: Callable[[], object]) -> float:
    """Return how long it takes, in seconds, while each request comes so many seconds late."""
    api.set_faults({"fault": "latency", "seconds": delay})
    begun = time.monotonic()
    try:
        act()
        return time.monotonic() - begun
    finally:
        api.set_faults()


@pytest.fixture
def cold(tmp_path: Path, server: Served, api: Api) -> Callable[..., object]:
    """Yield mounts of machines that never saw the server, each with a count from its beginning."""
    numbers = count()

    @contextmanager
    def mount(*options: str) -> Iterator[tuple[Mounted, Counts]]:
        directory = tmp_path / f"machine{next(numbers)}"
        directory.mkdir()
        with mounted(directory, "cloudflare:", *options, served=server) as found:
            yield found, Counts(api)

    return mount


@pytest.mark.parametrize(
    "command",
    [
        "grep -r nothing-has-this text/t || true",
        "tar c text/t | wc -c",
        "cp -r text/t /dev/shm/$TARGET && rm -r /dev/shm/$TARGET",
        "ls -lR text/t",
        "du --apparent-size text/t",
        "find text/t -type f -size +1k",
        "cat text/t/*/*.txt",
    ],
)
def test_a_cold_walk_costs_its_pages_and_a_bulk_get_per_hundred(cold, command: str) -> None:
    """Every tool that reads values or sizes costs n/1000 lists and n/100 bulk gets, and the second time nothing."""
    with cold() as (mount, counts):
        script = command.replace("$TARGET", f"kvfs-{os.getpid()}")
        mount.shell(script)
        found = counts.since()
        assert found == {"list_keys": N // 1000, "bulk_get": N // 100}
        mount.shell(script)
        assert counts.since() == found


def test_one_file_costs_one_key_and_a_directory_its_own(cold) -> None:
    """`cat` of the first file by its name reads one key, and `ls -l` of a directory no file of the next one."""
    with cold() as (mount, counts):
        mount.shell("cat text/t/d3/f0600.txt > /dev/null")
        assert mount.status()["keys"]["read"] == 1
    with cold() as (mount, counts):
        mount.shell("ls -l text/t/d3")
        assert mount.status()["keys"]["read"] == 200
        assert counts.since() == {"list_keys": 1, "bulk_get": 2}


def test_a_cold_walk_has_several_requests_under_way(cold, api: Api) -> None:
    """With 0.8 s for each request, two thousand files take less time than half of the requests would one by one."""
    delay = 0.8  # long beside what the machine needs for the rest, also a busy one
    with cold() as (mount, counts):
        mount.shell("ls text/t")
        took = _late(api, delay, lambda: mount.shell("grep -r nothing-has-this text/t || true"))
        assert counts.since()["bulk_get"] == N // 100
        assert took < N // 100 * delay / 2


def test_cold_names_alone_cost_their_pages(cold) -> None:
    """find and ls without sizes ask for no value, and afterwards ls costs nothing."""
    with cold() as (mount, counts):
        mount.shell("find text/t; ls text/t/d3")
        assert counts.since() == {"list_keys": N // 1000}
        mount.shell("ls text text/t text/t/d7; test ! -e text/t/d1/none")
        assert counts.since() == {"list_keys": N // 1000}


def test_binaries_come_singly_and_at_the_same_time(cold, api: Api) -> None:
    """Binaries cost one get each, at the same time, and no bulk get to find out."""
    delay = 0.05
    with cold() as (mount, counts):
        mount.shell("ls binary/b")
        took = _late(api, delay, lambda: mount.shell("cat binary/b/* > /dev/null"))
        found = counts.since()
        assert found == {"list_keys": 1, "get_value": 120}
        assert took < 120 * delay / 2


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        ("many/d20/f250", True),
        ("many/d20/none", False),
        ("many/none", False),
        ("between/b/y", True),
    ],
)
def test_a_cold_lookup_in_a_large_namespace_costs_two_requests_a_name(
    cold, path: str, is_there: bool
) -> None:
    """A lookup costs at most two lists for each name on its way in the namespace, however many keys there are."""
    with cold() as (mount, counts):
        assert (mount.path / path).exists() == is_there
        found = counts.since()
        assert found.get("list_keys", 0) <= 2 * path.count("/"), found
        assert found.get("bulk_get", 0) <= 1  # the size of what is there


def test_a_name_far_before_its_directory_costs_two_once_the_first_page_is_known(cold) -> None:
    """`a` costs two lists once the first page is known, while `a-0000` … sort between it and `a/`."""
    with cold() as (mount, counts):
        with os.scandir(mount.path / "between") as entries:
            next(entries)
        before = counts.since()["list_keys"]
        assert (mount.path / "between/a").is_dir()
        assert counts.since()["list_keys"] - before <= 2


def test_the_first_page_of_a_small_directory_answers_every_sibling(cold) -> None:
    """Four hundred names and as many that are absent cost one list."""
    with cold("--sizes=known") as (mount, counts):
        for number in range(400):
            assert (mount.path / f"small/src/{number:03}.py").exists()
            assert not (mount.path / f"small/src/{number:03}.pyc").exists()
        assert counts.since() == {"list_keys": 1}


def test_a_shell_prompt_and_completion_cost_nothing(cold) -> None:
    """Once listed, a prompt with git status in it, completion of names, `ls` and `test` cost nothing."""
    prompt = (
        "cd small/src; compgen -f 1 > /dev/null; compgen -G '3*.py' > /dev/null;"
        " git status > /dev/null 2>&1 || true; git rev-parse --show-toplevel 2> /dev/null || true;"
        " ls > /dev/null; test -e .envrc || test -e package.json || true"
    )
    with cold() as (mount, counts):
        mount.shell("ls . small small/src")
        before = counts.since()
        for _ in range(3):
            mount.shell(prompt)
        assert counts.since() == before
        mount.shell("cd small/src; compgen -d || true")  # bash stats every name: their sizes, once
        sized = counts.since()
        assert sized["bulk_get"] == 400 // 100
        assert sized == before | {"bulk_get": sized["bulk_get"]}
        mount.shell("cd small/src; compgen -d || true")
        assert counts.since() == sized


def test_a_shell_prompt_in_a_repository_costs_nothing(tmp_path: Path, cold) -> None:
    """After the first, git status of a work tree inside the mount costs nothing."""
    with cold("--write-back=600") as (mount, counts):
        mount.shell(
            "cd small && mkdir repo && cd repo && git init -q . && seq 20 | xargs touch && git add . &&"
            " git -c user.name=n -c user.email=e commit -qm first && git status --porcelain"
        )
        before = counts.since()
        assert mount.shell("cd small/repo; git status --porcelain; compgen -f").count("\n") >= 20
        assert counts.since() == before
        mount.shell("rm -rf small/repo")


def test_status_tells_requests_keys_money_and_what_is_left(cold) -> None:
    """The status shows requests by kind, the savings of bulk requests, the list price, and the rest of the budget."""
    with cold() as (mount, counts):
        mount.shell("cat text/t/*/*.txt > /dev/null")
        counted, status = counts.since(), mount.status()
        assert {name: n for name, n in status["requests"].items() if name != "list_namespaces"} == {
            name: n for name, n in counted.items() if name != "list_namespaces"
        }
        keys = status["keys"]
        assert (keys["read"], keys["lists"]) == (N, counted["list_keys"])
        assert keys["requests_saved"] == N - counted["bulk_get"] - status["requests"]["list_namespaces"]
        assert keys["dollars"] == pytest.approx(N * 0.5e-6 + keys["lists"] * 5e-6)
        assert status["budget"]["left"] + status["budget"]["used"] == 1200
        assert status["budget"]["used"] == sum(status["requests"].values())
        told = mount.kvfs("status", str(mount.path)).stdout
        for word in (
            "2,000 read",
            f"bulk_get {counted['bulk_get']}",
            f"{keys['requests_saved']:,} requests",
            "$0.00",
            "requests left",
        ):
            assert word in told, told


def test_a_new_namespace_and_a_tree_in_it_cost_three_requests(tmp_path: Path, cold) -> None:
    """mkdir makes a namespace and knows it is empty, so a tree in it costs one list of the names and one body."""
    source = tmp_path / "tree"
    for number in range(40):
        path = source / f"d{number % 4}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}")
    with cold("--write-back=600") as (mount, counts):
        mount.shell(f"mkdir fresh && cp -r {source} fresh/")
        mount.sync()
        assert counts.since() == {"create_namespace": 1, "bulk_get": 1, "bulk_put": 1}
        mount.shell("rm -r fresh/tree; rmdir fresh")
