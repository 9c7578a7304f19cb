"""Reasons of failures: who is at fault, what to do, when it goes on; by status, sync, attribute and log.

One mount serves all tests: its server is made to fail in one way after the other.
"""

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.quick import Done, quick
from support.serving import Served, served_by_process
from support.standing import wait_for

from kvfs.cli.exits import Exit
from kvfs.daemon.outlook import AWAY, DISK, LIMITED, QUOTA, REFUSES, advice_for, kind_of

KINDS = {
    "bulk put: fault (HTTP 400, code 10500)": REFUSES,
    "bulk put: free usage limit for this operation for today (HTTP 429, code 10048)": QUOTA,
    "the journal /s/journal.sqlite cannot be written ([Errno 28] No space left on device)": DISK,
    "bulk put: Authentication error (HTTP 401, code 10000)": REFUSES,
    "bulk put: too many (HTTP 429)": LIMITED,
    "bulk put: bad gateway (HTTP 502)": REFUSES,
    "bulk put: ConnectError all attempts to connect to 127.0.0.1:9 failed": AWAY,
    "bulk put: no answer within 30 s": AWAY,
    "list_namespaces: ConnectError all attempts to connect to 127.0.0.1:9 failed": AWAY,
}


@pytest.mark.parametrize("reason", KINDS)
def test_the_words_of_a_failure_tell_who_is_at_fault_and_what_to_do(reason: str) -> None:
    """A server that answered is never called silent, and each kind of failure has its way out."""
    assert kind_of(reason)[0] == KINDS[reason]
    assert advice_for(reason)


class World:
    """A mount whose server fails in a chosen way."""

    def __init__(self, mount: Mounted, api: Api, served: Served) -> None:
        self.mount, self.api, self.served = mount, api, served
        self.ns = mount.path / "ns"
        self.ns.mkdir()
        self.namespace = api.namespace("ns")

    def kvfs(self, *words: object) -> Done:
        return quick(self.mount.env, *words)

    def row(self, label: str) -> str:
        """Return the text of the status under a label."""
        said = self.kvfs("status", self.mount.path).stdout
        return next((line.strip() for line in said.splitlines() if line.strip().startswith(label)), "")

    def error(self, name: str) -> str:
        return os.getxattr(self.ns / name, "user.kvfs.error").decode()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = Path(f"/var/tmp/kvfs-reasons-{os.getpid()}")
    directory.mkdir()
    options = ("--write-back=600", "--timeout=3", "--settle=0", "--drain-timeout=5")
    try:
        with (
            served_by_process(directory, faults="") as served,
            Api(served, direct=True) as api,
            mounted(directory, "cloudflare:", *options, served=served) as mount,
        ):
            yield World(mount, api, served)
            api.set_faults()
    finally:
        subprocess.run(["rm", "-r", str(directory)], check=False)


@pytest.fixture
def healed(world: World) -> Iterator[World]:
    """Make the server well again after the test, with nothing left."""
    yield world
    world.api.set_faults()
    quick(world.mount.env, "rejected", "discard", "--all", "--yes", world.mount.path)
    assert world.kvfs("sync", world.mount.path).returncode == Exit.OK


REFUSALS = {
    "an error": ({"fault": "status", "status": 503, "method": "PUT"}, "answers with an error: ", "HTTP 503"),
    "a token": (
        {"fault": "code", "code": 10000, "status": 401, "method": "PUT"},
        "answers with an error: ",
        "needs the permission Workers KV Storage: Edit",
    ),
    "a quota": (
        {"fault": "code", "code": 10048, "status": 429, "method": "PUT"},
        "answers, but ",
        "00:00 UTC",
    ),
}


@pytest.mark.fuse
@pytest.mark.parametrize("kind", REFUSALS)
def test_an_answer_that_refuses_is_said_by_status_sync_attribute_and_log(healed: World, kind: str) -> None:
    """Each place shows a refusal with its reason, the way out and the next try, and never as silence."""
    fault, state, words = REFUSALS[kind]
    healed.api.set_faults(fault)
    for name in ("a", "b"):
        (healed.ns / name).write_text("kept")
    done = healed.kvfs("sync", "--timeout=2.5", healed.mount.path)
    assert done.returncode == Exit.LEFT
    [line] = [line for line in done.stdout.splitlines() if line.startswith("  2 changes: ")]
    assert words in line
    assert "tried again in" in line
    assert healed.row("server").removeprefix("server").strip().startswith(state)
    assert "does not answer" not in healed.row("server")
    assert words in healed.row("not sent")
    assert words in healed.error("a")
    assert "tried again in" in healed.error("a")
    with pytest.raises(OSError, match=r"\[Errno") as caught, (healed.ns / "a").open("r+") as file:
        os.fsync(file.fileno())
    name = errno.errorcode[caught.value.errno or 0]
    wait_for(lambda: f"fsync of 'ns/a': {name}: " in healed.mount.log.read_text())


@pytest.mark.fuse
def test_a_refused_value_says_so_on_its_file(healed: World) -> None:
    """A value refused with HTTP 400 is set aside, and its file says so, with the way out."""
    healed.api.set_faults({"fault": "status", "status": 400, "code": 10012, "method": "PUT"})
    (healed.ns / "never").write_text("x")
    assert healed.kvfs("sync", "--timeout=2", healed.mount.path).returncode == Exit.LEFT
    assert "HTTP 400" in healed.error("never")
    assert "kvfs rejected list" in healed.error("never")
    assert "does not answer" not in healed.row("server")


@pytest.mark.fuse
def test_a_server_that_does_not_answer_is_said_to_be_silent(healed: World) -> None:
    """The status calls a server silent while an answer is waited for and afterwards, until it answers again."""
    healed.ns.joinpath("silent").write_text("kept")
    os.kill(healed.served.pid, signal.SIGSTOP)
    try:
        assert healed.kvfs("sync", "--timeout=3.5", healed.mount.path).returncode == Exit.LEFT
        said = healed.row("server").removeprefix("server").strip()
        assert re.match(
            r"has not answered for \d+ s|does not answer: .*: no (progress|answer) within 3 s", said
        ), said
    finally:
        os.kill(healed.served.pid, signal.SIGCONT)
    wait_for(lambda: healed.kvfs("sync", healed.mount.path).returncode == Exit.OK)
    (healed.ns / "again").write_text("x")
    assert healed.kvfs("sync", healed.mount.path).returncode == Exit.OK
    assert healed.row("server") == "server     answers"


@pytest.mark.fuse
def test_a_change_that_nothing_keeps_has_no_error(healed: World) -> None:
    """A change that waits for its turn only has no `user.kvfs.error`, and `why` says that nothing keeps it."""
    (healed.ns / "calm").write_text("x")
    with pytest.raises(OSError, match="No data available"):
        healed.error("calm")
    said = healed.kvfs("why", healed.ns / "calm").stdout
    assert "pending" in said
    assert "reason" not in said


@pytest.mark.fuse
def test_the_rename_of_a_directory_says_how_far_it_is(healed: World) -> None:
    """The status shows the progress of a directory's rename in values read of those there are, because mv cannot."""
    pairs = [{"key": f"d/{number}", "value": "x"} for number in range(250)]
    healed.api.bulk_put(healed.namespace, pairs)
    healed.kvfs("refresh", healed.mount.path)
    os.listdir(healed.ns / "d")
    healed.api.set_faults({"fault": "latency", "seconds": 1.5, "path": "/bulk/get$"})
    with subprocess.Popen(["mv", healed.ns / "d", healed.ns / "e"]) as move:
        wait_for(lambda: re.search(r"renaming +ns/d to ns/e: [\d,]+ of 250", healed.row("renaming")))
        assert move.wait(30) == 0
    assert healed.row("renaming") == ""
    healed.api.set_faults()
    assert len(os.listdir(healed.ns / "e")) == 250


@pytest.mark.fuse
def test_a_used_up_budget_is_said_with_its_countdown(tmp_path: Path, server: Served) -> None:
    """Sync, the status and an attribute show the countdown of a used-up budget.

    Sync ends when the budget is there again.
    """
    options = (
        "--write-back=600",
        "--timeout=2",
        "--rate-requests=4",
        "--rate-seconds=60",
        "--drain-timeout=1",
    )
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        (mount.path / "ns").mkdir()
        for number in range(6):
            (mount.path / "ns" / f"{number}").write_text("x")
            quick(mount.env, "sync", "--timeout=0.5", mount.path)
        done = quick(mount.env, "sync", "--timeout=1", mount.path)
        assert done.returncode == Exit.LEFT
        expected = "waiting for the limit of 4 requests in 60 seconds (--rate-requests)"
        assert expected in done.stdout
        assert "nothing to do: it goes on when the window is over; tried again in" in done.stdout
        status = json.loads(quick(mount.env, "status", "--json", mount.path).stdout)["mounts"][0]
        assert status["store"]["state"] in (LIMITED, "answers")
        assert "does not answer" not in quick(mount.env, "status", mount.path).stdout
        mount.process.kill()
        mount.process.wait()
        subprocess.run(["fusermount3", "-uz", mount.path], check=True)


@pytest.mark.fuse
def test_a_wrong_base_url_is_no_silence(tmp_path: Path, server: Served) -> None:
    """A wrong base URL is not reported as silence: the line says that something answered, and what the URL lacks."""
    (tmp_path / "mnt").mkdir(exist_ok=True)
    env = dict(os.environ, XDG_STATE_HOME=str(tmp_path), CLOUDFLARE_API_TOKEN=server.token,
               CLOUDFLARE_ACCOUNT_ID=server.account, CLOUDFLARE_API_BASE_URL=server.root)  # fmt: skip
    begun = time.monotonic()
    done = quick(env, "mount", "cloudflare:", tmp_path / "mnt")
    assert time.monotonic() - begun < 5 + 2, "five seconds, and the start of an interpreter"
    assert done.returncode == Exit.FAILED
    assert "answers with an error: " in done.stderr
    assert "it should end in /client/v4" in done.stderr
    assert "does not answer" not in done.stderr


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A file that cannot be written is named, because `No space left on device` alone does not say where."""
    code = (
        "import sys, pathlib; from kvfs.cli.exits import describe; from kvfs.host.state import write_whole\n"
        "try: write_whole(pathlib.Path(sys.argv[1]) / 'record.json', b'x')\n"
        "except OSError as exc: print(describe(exc)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        preexec_fn=lambda: (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        ),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}/record.json: File too large\n"
