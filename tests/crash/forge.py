"""Starts daemons quickly: a process that has imported everything forks one for each line it reads.

A request is a line of JSON: `args` of `kvfs`, `env`, `log`, `plant`. The answer is a line: `pid`, and `said`, what the
daemon said through its ready pipe ("" when it died first).
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

TESTS = Path(__file__).parents[1]


@dataclass
class Daemon:
    """A process that was started; `said` is "ready", an error, or "" when it died first."""

    pid: int
    said: str

    def kill(self) -> None:
        """kill -9, if it lives."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def is_dead(self) -> bool:
        """Return True if it has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        return False


class Forge:
    """The side of the forge in the harness."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, args: list[str], env: Mapping[str, str], log: Path, plant: str | None = None) -> Daemon:
        """Fork a daemon and wait until it is ready, or dead."""
        request = {"args": args, "env": dict(env), "log": str(log), "plant": plant}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Daemon(answer["pid"], answer["said"])


@contextmanager
def forging() -> Iterator[Forge]:
    """Yield a forge; its daemons die with it."""
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "crash.forge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        yield Forge(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()


def serve() -> None:
    """Fork a daemon for each request, for ever."""
    from crash import shim  # noqa: F401  imported here once for all

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: no zombies
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            become(json.loads(line), writing)
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            said = pipe.readline().strip()
        print(json.dumps({"pid": pid, "said": said}), flush=True)


def become(request: dict, ready: int) -> NoReturn:
    """Turn this process into the daemon."""
    from crash import shim

    from kvfs.cli import main

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(request["env"])
    shim.apply(request["env"], request["plant"])
    status = main(["mount", f"--ready-fd={ready}", *request["args"]])
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
