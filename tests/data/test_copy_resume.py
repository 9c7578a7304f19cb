"""Copies that are killed, interrupted or stopped: the next run goes on, and the server counts its cost."""

import math
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from support.mounted import Api, environment
from support.moves import dump_store, fill, fill_store, sample
from support.serving import Served, served_by_process

from kvfs.core.content import is_text
from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key
from kvfs.data.items import Item
from kvfs.data.job import Job
from kvfs.store.embedded.sqlite_store import open_sqlite

READ_BATCH = (
    24  # requests: the namespaces, a page of keys, what is read of a batch of a thousand and ahead of it
)
KEYS = os.environ.get("KVFS_KEYS", "")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with served_by_process(tmp_path, faults="") as ready:
        yield ready


class Moves:
    """Runs `kvfs` as a process of its own against a server that counts requests."""

    def __init__(self, directory: Path, served: Served) -> None:
        self.directory = directory
        self.served = served
        self.api = Api(served)
        self._env = environment(directory, served)

    def store(self, title: str, entries: dict[Key, Entry]) -> str:
        """Make a namespace of the server with entries."""

        async def work() -> None:
            async with open_sqlite(self.directory / "store.sqlite", account=self.served.account) as store:
                await fill_store(store, title, entries)

        trio.run(work)
        return f"cloudflare:/{title}"

    def dump(self, title: str) -> dict[Key, Entry]:
        """Return all entries of one namespace."""

        async def work() -> dict[Key, Entry]:
            async with open_sqlite(self.directory / "store.sqlite", account=self.served.account) as store:
                return await dump_store(store, title)

        return trio.run(work)

    def start(self, *words: object) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [sys.executable, "-m", "kvfs", *map(str, words)],
            env=self._env,
            cwd=self.directory,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *words: object, status: int = 0) -> str:
        """Run a command that must end as expected; return its output."""
        process = self.start(*words)
        said, _ = process.communicate(timeout=900)
        assert process.returncode == status, said
        return said

    def kill_when(self, words: tuple[object, ...], condition: Callable[[], bool]) -> bool:
        """Send kill -9 as soon as a condition holds; return if it did."""
        process = self.start(*words)
        try:
            while process.poll() is None:
                if condition():
                    process.kill()
                    return True
                time.sleep(0.02)
        finally:
            process.kill()
            process.communicate()
        return False

    def requests(self) -> Counter[str]:
        """Return the number of requests so far."""
        return Counter(self.api.requests())


@pytest.fixture
def moves(tmp_path: Path, served: Served) -> Iterator[Moves]:
    found = Moves(tmp_path, served)
    with found.api:
        yield found


def kill_at(moves: Moves, words: tuple[object, ...], operation: str, marks: list[int]) -> Counter[str]:
    """Run a command to its end through a `kill -9` at each mark, a number of requests.

    Return the requests of all runs.
    """
    before = moves.requests()
    for mark in marks:
        assert moves.kill_when(words, lambda mark=mark: (moves.requests() - before)[operation] >= mark), (
            f"it was too quick for {marks}"
        )
    moves.api.set_faults()
    moves.run(*words)
    return moves.requests() - before


@pytest.mark.parametrize("name", ["x.json", "x.ndjson", "x.tar", "directory"])
@pytest.mark.timeout(1800)
def test_a_copy_that_is_killed_is_exact(name, moves):
    """An export and an import through kill -9 leave no difference, and each kill repeats at most one batch.

    KVFS_KEYS=100000 makes it the whole thing: so many keys, a thousandth of them binary, five kills each way.
    """
    keys, kills = (int(KEYS), 5) if KEYS else (3_000, 1)
    entries = sample(keys)
    entries |= {
        Key(f"images/{number:04}.png"): Entry(b"\x89PNG%d" % number) for number in range(keys // 1000)
    }
    texts = sum(is_text(entry.value) for entry in entries.values())
    hidden = len(entries) - texts - keys // 1000  # binaries whose names do not tell
    store, words = moves.store("shop", entries), ("--yes", "--rate-requests", 1_000_000)

    bulk_gets, lists = math.ceil(texts / 100), math.ceil(len(entries) / 1000)
    moves.api.set_faults({"fault": "latency", "seconds": 0.04})
    marks = [bulk_gets * (number + 1) // (kills + 1) for number in range(kills)]
    requests = kill_at(moves, ("export", store, name, *words), "bulk_get", marks)
    floor = lists + bulk_gets + len(entries) - texts
    print(f"\n{name}: {requests.total()} requests for {len(entries)} keys, {floor} at least: {requests}")
    assert requests.total() <= floor + 13 * hidden + (kills + 1) * READ_BATCH

    puts = len(bodies(len(entries)))
    moves.api.set_faults({"fault": "latency", "seconds": 0.4, "method": "PUT"})
    marks = [1 + puts * number // (kills + 1) + number for number in range(kills)]
    requests = kill_at(moves, ("import", name, "cloudflare:/back", *words), "bulk_put", marks)
    print(f"{name}: {requests['bulk_put']} bulk writes, {puts} at least: {requests}")
    assert requests["bulk_put"] <= puts + kills + 1
    assert moves.run("diff", "--values", store, "cloudflare:/back", *words[1:]) == ""


def bodies(keys: int) -> list[int]:
    """Return the bulk writes of so many keys by a server that copes."""
    found = []
    while keys > 0:
        found.append(min(keys, found[-1] * 2 if found else 1_000, 10_000))
        keys -= found[-1]
    return found


def test_a_copy_that_is_out_of_quota_says_so_and_goes_on(moves):
    """A copy that has used up the allowance of the day keeps its progress, and the same command does the rest."""
    entries = sample(3_500)
    source = fill(moves.directory / "a.sqlite", entries)
    moves.api.set_faults({"fault": "quota", "method": "PUT", "after": 1})
    words = ("copy", source, "cloudflare:/new", "--yes")
    said = moves.run(*words, status=3)
    assert "free usage limit" in said
    assert "the same command goes on from there" in said
    moves.api.set_faults()
    assert "going on where it stopped" in moves.run(*words)
    assert moves.dump("new") == entries


MIX = (
    {"fault": "status", "status": 503, "probability": 0.05},
    {"fault": "garbage", "probability": 0.05},
    {"fault": "html", "probability": 0.03},
    {"fault": "html", "status": 200, "probability": 0.02},
    {"fault": "lost_ack", "probability": 0.05},
    {"fault": "truncate", "probability": 0.05},
    {"fault": "reset", "probability": 0.05},
    {"fault": "torn_bulk", "count": 3, "probability": 0.2},
    {"fault": "short_bulk", "count": 3, "probability": 0.2},
)
"""Three of ten requests go wrong, whatever they ask for; of bulk writes two of ten more are done in part."""


def test_a_copy_under_faults_ends_with_the_right_state(moves):
    """A copy through garbage, lost acknowledgements and torn writes, within a budget, ends with the exact state.

    The budget is a twelfth of the API's, its window a hundredth.
    """
    entries = sample(600, binaries=2)
    entries |= {Key(f"{number}.png"): Entry(b"\x89PNG %d" % number) for number in range(60)}
    store = moves.store("shop", entries)
    moves.api.set_faults(*MIX, {"fault": "rate_budget", "count": 100, "seconds": 3})
    moves.run("copy", store, "cloudflare:/other", "--yes", "--rate-requests", 100, "--rate-seconds", 3)
    moves.api.set_faults()
    assert moves.dump("other") == entries


def test_twenty_binaries_are_found_once(moves):
    """The second pass over 20,000 keys knows the binaries, and sends no request beyond those for values and keys."""
    entries = {Key(f"k{n:05}"): Entry(b"v%d" % n) for n in range(20_000)}
    entries |= {Key(f"k{n * 997:05}"): Entry(b"\xff" * 9) for n in range(20)}
    store = moves.store("shop", entries)
    first = moves.requests()
    moves.run("export", store, "one.ndjson", "--yes")
    second = moves.requests()
    moves.run("export", store, "two.ndjson", "--yes")
    third = moves.requests()
    assert (second - first).total() <= 230 + 20 * 14
    lists, bulk_gets, singles = 20, 200, 20
    assert (third - second).total() == 1 + lists + bulk_gets + singles, third - second
    assert (moves.directory / "one.ndjson").read_bytes() == (moves.directory / "two.ndjson").read_bytes()


def test_two_runs_of_one_copy_do_not_meet(moves):
    """A second run of one copy says that the first is at work."""
    store = moves.store("shop", sample(3_000))
    moves.api.set_faults({"fault": "latency", "seconds": 0.3})
    first = moves.start("export", store, "x.ndjson", "--yes")
    states = moves.directory / "state" / "kvfs" / "copies"
    while not list(states.glob("*.sqlite")):
        time.sleep(0.02)
    assert "running already" in moves.run("export", store, "x.ndjson", "--yes", status=1)
    moves.api.set_faults()
    assert first.wait(60) == 0
    first.communicate()


def test_a_file_that_changed_is_not_gone_on_with(moves):
    """Progress counted in one file is not used for another that has taken its place."""
    source = fill(moves.directory / "a.sqlite", sample(3_000))
    moves.run("export", source, "x.ndjson", "--yes")
    moves.api.set_faults({"fault": "quota", "method": "PUT", "after": 1})
    words = ("import", "x.ndjson", "cloudflare:/new", "--yes")
    moves.run(*words, status=3)
    moves.api.set_faults()
    (moves.directory / "x.ndjson").write_text('{"key":"k","value":"v"}\n')
    assert "--restart" in moves.run(*words, status=1)
    moves.run(*words, "--restart")
    assert moves.dump("new")[Key("k")] == Entry(b"v")


def test_progress_is_private(moves):
    """The progress of a copy names keys, so only its owner can read it."""
    source = fill(moves.directory / "a.sqlite", sample(3_000))
    moves.api.set_faults({"fault": "quota", "method": "PUT"})
    moves.run("copy", source, "cloudflare:/new", "--yes", status=3)
    places = [moves.directory / "state" / "kvfs" / "copies"]
    [job] = [path for path in places[0].iterdir() if path.suffix == ".sqlite"]
    assert os.stat(job).st_mode & 0o077 == 0
    assert os.stat(places[0]).st_mode & 0o077 == 0


def test_a_copy_without_room_for_its_notes_says_so(tmp_path):
    """A full state directory is named as such, and the copy can go on when there is room."""
    job = Job.open(tmp_path / "job.sqlite")
    items = [Item(Key(f"{number:0500}"), "") for number in range(100)]
    with closing(job._db) as db:
        [(pages,)] = db.execute("PRAGMA page_count").fetchall()
        db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match=r"job\.sqlite cannot be written \(.*full\)"):
            job.add(items, scanned="x")
        assert job.fact("scanned") == ""
        db.execute("PRAGMA max_page_count = 1000")
        job.add(items, scanned="x")
        assert job.items.counts(0)[0] == len(items)


def no_room(path: Path) -> None:
    """Make every write to a file fail in this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def in_use(path: Path) -> None:
    """Have another process hold the state."""
    locks.append(Job.open(path))


locks: list[Job] = []

TROUBLES = [
    (in_use, "the same command is running already"),
    (
        no_room,
        r"job\.sqlite cannot be written \(disk I/O error\): look after its disk; the same command goes on",
    ),
    (lambda path: path.write_bytes(b"rubbish" * 200), r"cannot be read \(.*\): say --restart"),
]


@pytest.mark.parametrize(("trouble", "said"), TROUBLES)
def test_a_state_that_cannot_be_opened_is_named_with_the_way_out(
    trouble: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    """A copy's state that is in use, damaged, or on a disk that fails is told from the others."""
    path, limit = tmp_path / "job.sqlite", resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        trouble(path)
        with pytest.raises(UserError, match=said):
            Job.open(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        while locks:
            locks.pop().remove()


def test_a_state_that_is_damaged_behind_its_beginning_is_named_with_the_way_out(tmp_path: Path) -> None:
    """Damage that is met in the middle of a copy names the file and the way out, too."""
    path = tmp_path / "job.sqlite"
    with Job.open(path) as job:
        job.add([Item(Key(f"{number:0500}"), "") for number in range(100)])
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"rubbish" * 8000)
    with (
        pytest.raises(UserError, match=r"job\.sqlite cannot be read \(.*\): say --restart"),
        Job.open(path) as job,
    ):
        list(job.items.todo(0, 10))
