"""Kill, remount, look: rounds of a mount whose daemon dies at random moments and at statements of its journal.

Two writers work in folders of their own (`writer.py`), `lane.py` knows what they were promised. After each
kill the server is asked what it has; the next daemon's mount is looked at; now and then everything is sent,
and then a mount with empty caches and the API must have exactly what was promised.
"""

import errno
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crash import shim
from crash.forge import Daemon, Forge, forging
from crash.lane import Lane, State, Violation
from crash.writer import DEAD, FUTURE
from support.mounted import Api, environment
from support.serving import Served, served_by_process

from kvfs.control import ControlError, call
from kvfs.state import control_path

WRITER = Path(__file__).with_name("writer.py")
LANES = ("left", "right")
WINDOW = 0.45  # seconds that a daemon has at most before it is killed
OPERATIONS = 400  # of a writer in a round, more than it comes to
MOMENTS, STRIDE = 450, 137  # before and after statements: every one comes, early and late ones in turn
WRITE_BACK = (0, 0.02, 0.1)
QUIET = 0.05  # seconds after a kill in which the server finishes what it had received
LATENCY = {"fault": "latency", "seconds": 0.02, "path": "/bulk"}  # so that kills meet requests on their way
TOO_MANY = 0.3  # at this share of kills nothing may have been pending
DRAIN_SECONDS = 120

MIXED = [
    {"fault": "status", "status": 500, "probability": 0.05},
    {"fault": "status", "status": 503, "probability": 0.03},
    {"fault": "status", "status": 429, "retry_after": 0.05, "probability": 0.03},
    {"fault": "reset", "probability": 0.05},
    {"fault": "lost_ack", "probability": 0.05},
    {"fault": "truncate", "probability": 0.03},
    {"fault": "html", "probability": 0.02},
    {
        "fault": "garbage",
        "path": "/(bulk|keys|bulk/get|bulk/delete)$",
        "probability": 0.02,
    },  # a raw value may be any
    {"fault": "torn_bulk", "probability": 0.08},
    {"fault": "stall", "seconds": 0.2, "probability": 0.01},
]
"""Some 30 % of all requests meet one of these."""


@dataclass(frozen=True)
class Plan:
    """One run. `stale`: seconds that the server's answers may be old; `plant`: a bug of `shim.PLANTS`."""

    kills: int = 100
    faults: bool = False
    stale: float = 0.0
    seed: int = 0
    plant: str | None = None
    seconds: float = float("inf")
    deep: float = 0.5
    """How often everything is sent and compared."""


@dataclass
class Report:
    """What was done. `idle`: kills at which nothing was pending."""

    kills: int = 0
    idle: int = 0
    pending: int = 0
    promised: int = 0
    drained: int = 0
    seconds: float = 0.0
    statements: int = 0
    early: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        rate = self.kills / self.seconds if self.seconds else 0.0
        return (
            f"{self.kills} kills in {self.seconds:.0f} s ({rate:.2f}/s): {self.statements} at a statement of the "
            f"journal, {self.early} before the mount was ready; {self.promised} promises; pending at a kill: "
            f"{self.pending / max(1, self.kills):.1f} on average, nothing at {self.idle}; everything sent and "
            f"compared {self.drained} times; operations: "
            + ", ".join(f"{kind} {count}" for kind, count in sorted(self.counts.items()))
        )


class Died(Exception):
    """The daemon died while it was looked at, as it may."""


class Harness:
    """One source, one server, and a mount that dies."""

    def __init__(self, directory: Path, plan: Plan, forge: Forge, faulty: Served, plain: Served) -> None:
        self._directory = directory
        self._plan = plan
        self._forge = forge
        self._random = random.Random(plan.seed)
        self._env = environment(directory, faulty)
        self._plain = plain
        self._mountpoint = directory / "mnt"
        self._mountpoint.mkdir()
        self._api = Api(plain)
        self._lanes = {name: Lane() for name in LANES}
        self._moment = 0
        self.report = Report()
        with Api(faulty) as control:
            namespace = control.result("POST", "", json={"title": "ns"})
            self._namespace = namespace["id"]
            stale = [{"fault": "stale", "seconds": plan.stale, "method": "GET"}] if plan.stale else []
            stale += [{**rule, "method": "POST", "path": "/bulk/get"} for rule in stale]
            control.set_faults(*(MIXED if plan.faults else []), LATENCY, *stale)

    def run(self) -> Report:
        """All rounds, and a last look. Raises `Violation`."""
        begun = time.monotonic()
        while self.report.kills < self._plan.kills and time.monotonic() - begun < self._plan.seconds:
            self._round()
            self.report.seconds = time.monotonic() - begun
        daemon = self._start(None)
        self._look(daemon, deep=True)
        self._end(daemon)
        if self.report.idle > TOO_MANY * self.report.kills:
            raise Violation(f"nothing was pending at {self.report.idle} of {self.report.kills} kills")
        return self.report

    # a round

    def _round(self) -> None:
        moment = None
        if self._random.random() < 0.5:
            self._moment = (self._moment + STRIDE) % MOMENTS
            moment = self._moment + 1
        daemon = self._start(moment)
        if daemon.said != "ready":
            if moment is None:
                raise Violation(f"the mount does not start: {daemon.said}\n{self._log()[-2000:]}")
            self.report.early += 1
        writers = []
        try:
            if daemon.said == "ready":
                self._look(daemon, deep=self._random.random() < self._plan.deep)
                writers = [self._write(name) for name in LANES]
                self._wait(daemon, WINDOW if moment else WINDOW * self._random.random() ** 1.5)
        except Died:
            pass
        self.report.statements += daemon.is_dead()
        self._end(daemon)
        for process in writers:
            if process.wait(20):
                raise Violation("a writer failed")
        self._account()

    def _start(self, moment: int | None) -> Daemon:
        if self._random.random() < 0.5:  # else the daemon finds a dead mount, and cleans up
            _unmount(self._mountpoint)
        plan = self._plan
        env = self._env | ({shim.CRASH_AT: str(moment)} if moment else {})
        settle = plan.stale + 1.0
        return self._forge.start(
            [
                f"--settle={settle}", "--cache-ttl=1", "--timeout=20",
                f"--write-back={self._random.choice(WRITE_BACK)}",
                "--rate-requests=1000000", f"--log-file={self._directory}/mnt.log",
                "cloudflare:", str(self._mountpoint),
            ],
            env, self._directory / "mnt.log", plan.plant,
        )  # fmt: skip

    def _log(self) -> str:
        return (self._directory / "mnt.log").read_text(errors="replace")

    def _write(self, name: str) -> "subprocess.Popen[bytes]":
        arguments = [
            self._mountpoint / "ns" / name, self._directory / f"{name}.log", self._random.randrange(2**32),
            self._lanes[name].serial, OPERATIONS,
        ]  # fmt: skip
        return subprocess.Popen([sys.executable, "-I", "-S", WRITER, *map(str, arguments)], cwd="/")

    @staticmethod
    def _wait(daemon: Daemon, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not daemon.is_dead():
            time.sleep(0.005)

    @staticmethod
    def _end(daemon: Daemon) -> None:
        daemon.kill()
        while not daemon.is_dead():
            time.sleep(0.001)

    def _account(self) -> None:
        """After a kill: what was promised, what was pending, and what the server has."""
        for name, lane in self._lanes.items():
            log = self._directory / f"{name}.log"
            lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            with (self._directory / f"{name}.all").open(
                "a"
            ) as everything:  # to see what happened, when it did
                everything.writelines(
                    json.dumps(line) + "\n" for line in [{"kill": self.report.kills}, *lines]
                )
            log.unlink(missing_ok=True)
            before = lane.promised
            lane.replay(lines)
            self.report.promised += lane.promised - before
            self.report.counts.update(line["kind"] for line in lines if "kind" in line)
        self.report.kills += 1
        pending = self._pending()
        self.report.pending += pending
        self.report.idle += pending == 0
        for name, found in self._quiet_server().items():
            with (self._directory / f"{name}.all").open("a") as everything:
                everything.write(f"server {time.time()} {sorted(found.items())}\n")
            with _saying(name):
                self._lanes[name].check_server(found)

    def _pending(self) -> int:
        """Read-only: even the write-ahead log stays as the crash left it."""
        for path in self._directory.glob("state/kvfs/sources/*/journal.sqlite"):
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
                return int(db.execute("SELECT count(*) FROM changes WHERE state = 'pending'").fetchone()[0])
        return 0  # the daemon died before it made one

    # looking

    def _look(self, daemon: Daemon, *, deep: bool) -> None:
        try:
            for name, lane in self._lanes.items():
                with _saying(name):
                    lane.check_mount(self._files(name))
            if deep and self._drain():
                self._compare()
        except OSError as exc:
            if exc.errno not in DEAD and not daemon.is_dead():
                raise
            raise Died from exc

    def _files(self, name: str) -> Mapping[str, State]:
        """A lane as the mount shows it. A read that met too many faults is tried again, a lie never."""
        for _ in range(5):
            try:
                return _files(self._mountpoint / "ns" / name)
            except OSError as exc:
                if exc.errno not in (errno.EIO, errno.ETIMEDOUT) or not self._plan.faults:
                    raise
        raise Violation(f"{name} cannot be read")

    def _drain(self) -> bool:
        """Send everything; False when the daemon died before it was done."""
        socket = control_path(self._mountpoint, self._directory / "state" / "kvfs")
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until:
            try:
                answer = list(call(socket, {"request": "sync", "timeout": 20}))[-1]
            except ControlError as exc:
                raise Died from exc
            if not answer["left_count"]:
                return True
        raise Violation(f"not sent within {DRAIN_SECONDS} s: {answer['left'][:3]}\n{self._log()[-2000:]}")

    def _compare(self) -> None:
        """Through the API, and through a mount that knows nothing yet."""
        self.report.drained += 1
        for name, found in self._server().items():
            with _saying(name):
                self._lanes[name].check_drained(found, "the server")
        with self._fresh_mount() as fresh:
            for name, lane in self._lanes.items():
                with _saying(name):
                    lane.check_drained(_files(fresh / "ns" / name), "a mount with empty caches")

    @contextmanager
    def _fresh_mount(self) -> Iterator[Path]:
        directory = self._directory / f"fresh{self.report.drained}"
        (directory / "mnt").mkdir(parents=True)
        daemon = self._forge.start(
            ["--write-back=600", "cloudflare:", str(directory / "mnt")],
            environment(directory, self._plain), directory / "log",
        )  # fmt: skip
        if daemon.said != "ready":
            raise Violation(f"a fresh mount does not start: {daemon.said}")
        try:
            yield directory / "mnt"
        finally:
            self._end(daemon)
            _unmount(directory / "mnt")
        subprocess.run(["rm", "-rf", directory], check=True)

    def _quiet_server(self) -> dict[str, dict[str, State]]:
        """What it has once it is done with what it had received from a daemon that is dead."""
        time.sleep(QUIET)
        found = self._server()
        while True:
            time.sleep(QUIET / 2)
            again = self._server()
            if again == found:
                return found
            found = again

    def _server(self) -> dict[str, dict[str, State]]:
        """What the server really has, by lane."""
        found: dict[str, dict[str, State]] = {name: {} for name in LANES}
        for key, line in self._api.keys(self._namespace).items():
            lane, _, name = key.partition("/")
            value = self._api.get(self._namespace, key)
            metadata = line.get("metadata") or {}
            if value is None:
                continue  # deleted since it was listed
            if lane not in found:
                raise Violation(f"the server has {key!r}, which nobody wrote")
            found[lane][name] = State(value, metadata.get("m"), frozenset({line.get("expiration")}))
        return found

    def close(self) -> None:
        """Leave no mount."""
        _unmount(self._mountpoint)
        self._api.__exit__()


def _files(root: Path) -> Mapping[str, State]:
    """Every file below a lane's folder, as the kernel shows it."""
    found = {}
    for directory, _, names in os.walk(root, onerror=_not_missing):
        for name in names:
            path = os.path.join(directory, name)
            with open(path, "rb") as file:
                value = file.read()
                mtime = int(os.fstat(file.fileno()).st_mtime)
                size = os.fstat(file.fileno()).st_size
                m = os.getxattr(file.fileno(), "user.m") if os.listxattr(file.fileno()) else None
            if size != len(value):
                raise Violation(f"{path} shows {size} bytes and has {len(value)}")
            exp = mtime if mtime > time.time() + FUTURE / 2 else None
            found[os.path.relpath(path, root)] = State(value, int(m) if m else None, frozenset({exp}))
    return found


def _not_missing(error: OSError) -> None:
    if error.errno != errno.ENOENT:
        raise error


@contextmanager
def _saying(name: str) -> Iterator[None]:
    try:
        yield
    except Violation as exc:
        raise Violation(f"{name}: {exc}") from exc


def _unmount(mountpoint: Path) -> None:
    subprocess.run(["fusermount3", "-uzq", str(mountpoint)], check=False, capture_output=True)


def run(directory: Path, plan: Plan) -> Report:
    """A whole run in an empty directory. Raises `Violation`; the directory is left as it was then."""
    with ExitStack() as stack:
        faulty = stack.enter_context(served_by_process(directory, faults=f"seed={plan.seed}"))
        plain = stack.enter_context(served_by_process(directory))
        harness = Harness(directory, plan, stack.enter_context(forging()), faulty, plain)
        stack.callback(harness.close)
        return harness.run()
