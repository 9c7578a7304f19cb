"""Kill, remount, look: rounds of a mount whose daemon dies at random moments and at statements of its journal.

Two writers work in folders of their own (`writer.py`), `lane.py` knows what they were promised. After each
kill the server is asked what it has; the next daemon's mount is looked at; now and then everything is sent,
and then a mount with empty caches and the API must have exactly what was promised.
"""

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from crash import shim
from crash.forge import Daemon, Forge, forging
from crash.lane import Lane, State, Violation
from crash.plan import LANES, Plan, Report
from crash.points import Points
from crash.shim import Death
from crash.writer import DEAD, FUTURE
from support.control import call
from support.journals import seen
from support.mounted import Api, environment
from support.serving import Served, served_by_process

from kvfs.host.control import ControlError
from kvfs.host.state import control_path

WRITER = Path(__file__).with_name("writer.py")
WINDOW = 0.45  # seconds that a daemon has at most before it is killed
STARTING = 5.0  # seconds that the writers have at most to promise something
OPERATIONS = 400  # of a writer in a round, more than it comes to
QUIET = 0.05  # seconds after a kill in which the server finishes what it had received
TRIES = 20  # of what may meet faults again and again
DRAIN_SECONDS = 600.0  # of faults and lost answers together most tries fail, and pauses grow to a minute
PENDING = """
    SELECT substr(key, 1, instr(key, '/') - 1), count(*) FROM changes WHERE state = 'pending' GROUP BY 1
"""


class Died(Exception):
    """The daemon died while it was looked at, as it may."""


class Harness:
    """One source, one server, and a mount that dies."""

    def __init__(self, directory: Path, plan: Plan, forge: Forge, faulty: Served, plain: Served) -> None:
        self._directory = directory
        self._plan = plan
        self._forge = forge
        self._random = random.Random(plan.seed)
        self._faulty = faulty
        self._plain = plain
        self._mountpoint = directory / "mnt"
        self._mountpoint.mkdir()
        self._api = Api(plain)
        self._lanes = {name: Lane() for name in LANES}
        self._points = Points(directory / "points.log", self._random)
        self.report = Report()
        with Api(faulty) as control:
            namespace = control.result("POST", "", json={"title": "ns"})
            self._namespace = namespace["id"]
            control.set_faults(*plan.rules())

    def run(self) -> Report:
        """Run all rounds, and a last look. Raise `Violation` when a promise is broken."""
        begun = time.monotonic()
        if self._plan.births:
            self._births()
        while self.report.kills < self._plan.kills and time.monotonic() - begun < self._plan.seconds:
            self._round()
            self.report.seconds = time.monotonic() - begun
        daemon = self._start(None)
        self._look(daemon, deep=True)
        self._end(daemon)
        self.report.points = str(self._points)
        self.report.judge()
        return self.report

    def _births(self) -> None:
        """Die at each moment in which a new journal is made; the next daemon copes with the files that are left."""
        for moment in count(1):
            directory = self._directory / f"birth{moment}"
            (directory / "mnt").mkdir(parents=True)
            first = self._mount(directory, self._plain, death=Death(moment))
            lived = first.said == "ready" and self._first_look(directory / "mnt")
            self._end(first)
            second = self._mount(directory, self._plain)
            self._end(second)
            _unmount(directory / "mnt")
            if second.said != "ready":
                raise Violation(f"killed at moment {moment} of a new journal: {second.said}")
            self._points.read()
            subprocess.run(["rm", "-rf", directory], check=True)
            if lived:
                return
            self.report.births += 1

    @staticmethod
    def _first_look(mountpoint: Path) -> bool:
        """Let the journal note when the namespace was seen first; False when the daemon died of it."""
        try:
            os.listdir(mountpoint)
            return (mountpoint / "ns").stat().st_ino > 0
        except OSError as exc:
            if exc.errno not in DEAD:
                raise
            return False

    # a round

    def _round(self) -> None:
        death = self._points.choose() if self._random.random() < 0.6 else None
        daemon = self._start(death)
        for _ in range(TRIES if self._plan.faults and death is None else 0):
            if daemon.said == "ready":
                break
            self._end(daemon)  # the server did not answer in all the time there is
            daemon = self._start(death)
        if daemon.said != "ready":
            if death is None:
                raise Violation(f"the mount does not start: {daemon.said}\n{self._log()[-2000:]}")
            self.report.early += 1
        writers = []
        try:
            if daemon.said == "ready":
                self._look(daemon, deep=self._random.random() < self._plan.deep)
                writers = [self._write(name) for name in LANES]
                self._wait(daemon, WINDOW if death else WINDOW * self._random.random() ** 1.5)
        except Died:
            pass
        self._end(daemon)
        self.report.statements += self._points.read()
        for process in writers:
            if process.wait(20):
                raise Violation("a writer failed")
        self._account()

    def _start(self, death: Death | None) -> Daemon:
        if self._random.random() < 0.5:  # else the daemon finds a dead mount, and cleans up
            _unmount(self._mountpoint)
        options = [
            f"--settle={self._plan.staleness + 1.0}", "--cache-ttl=1", "--timeout=20",
            f"--write-back={self._random.choice(self._plan.write_back)}",
            "--rate-requests=1000000", f"--log-file={self._directory}/mnt.log",
        ]  # fmt: skip
        return self._mount(self._directory, self._faulty, *options, death=death, plant=self._plan.plant)

    def _mount(
        self,
        directory: Path,
        served: Served,
        *options: str,
        death: Death | None = None,
        plant: str | None = None,
    ) -> Daemon:
        env = environment(directory, served) | {shim.TUNE: json.dumps(self._tuning())}
        if death is not None:
            env |= {shim.CRASH_AT: death.encode(), shim.NOTES: str(self._points.notes)}
        arguments = [*options, "cloudflare:", str(directory / "mnt")]
        return self._forge.start(arguments, env, directory / "mnt.log", plant)

    def _tuning(self) -> dict[str, int]:
        """Return bounds with which kills meet snapshots under way, and attributes in log, side table and both."""
        return {
            "kvfs.journal.snapshot.SNAPSHOT_BYTES": self._random.choice([0, 3_000, 30_000, 8_000_000]),
            "kvfs.journal.snapshot.END_BYTES": self._random.choice([0, 64_000]),
            "kvfs.kept.facts.SAVE_COUNT": self._random.choice([1, 20, 1024]),
        }

    def _log(self) -> str:
        return (self._directory / "mnt.log").read_text(errors="replace")

    def _write(self, name: str) -> "subprocess.Popen[bytes]":
        arguments = [
            self._mountpoint / "ns" / name, self._directory / f"{name}.log", self._random.randrange(2**32),
            self._lanes[name].serial, OPERATIONS,
        ]  # fmt: skip
        return subprocess.Popen([sys.executable, "-I", "-S", WRITER, *map(str, arguments)], cwd="/")

    def _wait(self, daemon: Daemon, seconds: float) -> None:
        """Wait until so long after both writers did something, on however busy a machine, or for the daemon's death."""
        logs = [self._directory / f"{name}.log" for name in LANES]
        until = time.monotonic() + STARTING
        while time.monotonic() < until and not daemon.is_dead():
            if all(log.exists() and b"done" in log.read_bytes() for log in logs):
                break
            time.sleep(0.005)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not daemon.is_dead():
            time.sleep(0.005)

    @staticmethod
    def _end(daemon: Daemon) -> None:
        daemon.kill()
        while not daemon.is_dead():
            time.sleep(0.001)

    def _account(self) -> None:
        """Compare, after a kill, the promises, the pending changes, and the content of the server."""
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
        self.report.pending += sum(pending.values())
        self.report.idle += not pending
        self.report.busy.update(pending.keys())
        for name, found in self._quiet_server().items():
            with (self._directory / f"{name}.all").open("a") as everything:
                everything.write(f"server {time.time()} {sorted(found.items())}\n")
            with _saying(name):
                self._lanes[name].check_server(found)

    def _pending(self) -> Mapping[str, int]:
        """Return the pending changes by lane, read from a copy, because the logs must stay as the crash left them."""
        for path in self._directory.glob("state/kvfs/sources/*/journal.sqlite"):
            with seen(path) as db:
                return dict(db.execute(PENDING))
        return {}  # the daemon died before it made one

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
        """Return a lane's files as the mount shows them.

        A read that met too many faults is tried again, a wrong answer never.
        """
        for _ in range(TRIES):
            try:
                return _files(self._mountpoint / "ns" / name)
            except OSError as exc:
                if exc.errno not in (errno.EIO, errno.ETIMEDOUT) or not self._plan.faults:
                    raise
                time.sleep(1)  # after a call that failed the next ones do at once, for some seconds
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
        """Compare the server through the API, and through a mount that knows nothing yet."""
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
        daemon = self._mount(directory, self._plain, "--write-back=600")
        if daemon.said != "ready":
            raise Violation(f"a fresh mount does not start: {daemon.said}")
        try:
            yield directory / "mnt"
        finally:
            self._end(daemon)
            _unmount(directory / "mnt")
        subprocess.run(["rm", "-rf", directory], check=True)

    def _quiet_server(self) -> dict[str, dict[str, State]]:
        """Return the server's content once it has done all that it received from a daemon that is dead."""
        time.sleep(QUIET)
        found = self._server()
        while True:
            time.sleep(QUIET / 2)
            again = self._server()
            if again == found:
                return found
            found = again

    def _server(self) -> dict[str, dict[str, State]]:
        """Return the server's real content, by lane."""
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
    """Return every file below a lane's folder, as the kernel shows it."""
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
    """Do a whole run in an empty directory.

    Raise `Violation` when a promise is broken; the directory then stays as it is.
    """
    with ExitStack() as stack:
        faulty = stack.enter_context(served_by_process(directory, faults=f"seed={plan.seed}"))
        plain = stack.enter_context(served_by_process(directory))
        harness = Harness(directory, plan, stack.enter_context(forging()), faulty, plain)
        stack.callback(harness.close)
        return harness.run()
