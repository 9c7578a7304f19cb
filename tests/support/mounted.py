"""A real mount for tests: the daemon as a process of its own (a file accessed by its server's process deadlocks)."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from support.quick import quick
from support.serving import Served

REPOSITORY = Path(__file__).parents[2]
KVFS = [sys.executable, "-m", "kvfs"]
QUICK = ("--settle=1", "--cache-ttl=1")
"""A server that answers at once what was written, and caches that forget soon."""
ASKING = {"sync", "status", "refresh", "umount"}
"""Commands that only talk with the daemon: tests make so many of them that a process for each takes minutes."""


@dataclass
class Mounted:
    """A mount that is ready, and its daemon."""

    path: Path
    source: str
    state: Path
    process: subprocess.Popen[bytes]
    env: Mapping[str, str]
    log: Path
    expected: list[str] = field(default_factory=list)

    def kvfs(self, *words: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run another command of kvfs against this mount's state; one of `ASKING` without a process."""
        if words[0] in ASKING and threading.current_thread() is threading.main_thread():
            done = quick(self.env, *words)
            if check:
                done.check_returncode()
            return done
        return subprocess.run(
            [*KVFS, *words],
            env=self.env,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
            cwd="/",
        )

    def sync(self, *, conflicts: bool = False, timeout: float = 120) -> None:
        """Send everything, and insist; with `conflicts` it must report some, and all is sent as well."""
        done = self.kvfs("sync", str(self.path), check=False, timeout=timeout)
        assert done.returncode == (3 if conflicts else 0), done.stderr + self.log.read_text()
        assert "could not be sent" not in done.stdout + done.stderr

    def umount(self) -> subprocess.CompletedProcess[str]:
        """Run `kvfs umount`, and insist."""
        done = self.kvfs("umount", str(self.path), check=False)
        assert done.returncode == 0, done.stdout + done.stderr + self.log.read_text()
        assert self.process.wait(30) == 0
        return done

    def kill(self) -> None:
        """Kill the daemon with kill -9, and take the dead mount from the tree."""
        self.process.kill()
        self.process.wait()
        subprocess.run(["fusermount3", "-uz", str(self.path)], check=True)

    def terminate(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def status(self) -> dict[str, Any]:
        """Return this mount's object of `kvfs status --json`."""
        found = json.loads(self.kvfs("status", "--json", str(self.path)).stdout)
        return dict(found["mounts"][0])

    def shell(self, script: str, *, check: bool = True) -> str:
        """Run a script in bash inside the mount; return its output."""
        done = subprocess.run(
            ["bash", "-euc", script], cwd=self.path, capture_output=True, text=True, timeout=300, check=False
        )
        if check:
            assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}\n{self.log.read_text()}"
        return done.stdout + done.stderr


@contextmanager
def mounted(
    directory: Path, source: str, *options: str, served: Served | None = None, name: str = "mnt"
) -> Iterator[Mounted]:
    """Mount `source` on `directory/name`; state in `directory`. However the test ends, the mount is gone."""
    path = directory / name
    path.mkdir(exist_ok=True)
    env = environment(directory, served)
    log = directory / f"{name}.log"
    process = start(path, source, options, env, log)
    mount = Mounted(path, source, directory / "state" / "kvfs", process, env, log)
    try:
        yield mount
        if process.poll() is None:
            mount.umount()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        subprocess.run(["fusermount3", "-uzq", str(path)], check=False, capture_output=True)
    assert "Traceback" not in log.read_text(), log.read_text()


def environment(directory: Path, served: Served | None) -> dict[str, str]:
    """Return everything that kvfs asks the environment for. Python keeps what it compiles, as where it is installed."""
    dropped = ("CLOUDFLARE_", "KVFS_", "XDG_", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    env |= {
        "XDG_STATE_HOME": str(directory / "state"),
        "XDG_DATA_HOME": str(directory / "data"),
        "PYTHONPATH": str(REPOSITORY),
        "NO_COLOR": "1",
    }
    (directory / "state").mkdir(exist_ok=True)
    (directory / "data").mkdir(exist_ok=True)
    if served is not None:
        env |= {
            "CLOUDFLARE_API_TOKEN": served.token,
            "CLOUDFLARE_ACCOUNT_ID": served.account,
            "CLOUDFLARE_API_BASE_URL": served.url,
        }
    return env


def start(
    path: Path, source: str, options: tuple[str, ...], env: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    """Start the daemon in the foreground of a process of ours; return when it is ready."""
    reading, writing = os.pipe()
    with log.open("ab") as output, open(reading, encoding="utf-8") as answers:
        process = subprocess.Popen(
            [*KVFS, "mount", f"--ready-fd={writing}", f"--log-file={log}", *options, source, str(path)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[writing],
            cwd="/",
        )
        os.close(writing)
        line = answers.readline()
    if line != "ready\n":
        process.kill()
        process.wait()
        raise AssertionError(f"{line}\n{log.read_text()}")
    return process


class Api:
    """The server's REST API, asked directly: it shows what is really there.

    A `direct` one meets no fault and is not counted.
    """

    def __init__(self, served: Served, *, direct: bool = False) -> None:
        self._served = served
        headers = {**served.headers, **({"kvfs-direct": "1"} if direct else {})}
        self._client = httpx.Client(headers=headers, trust_env=False, timeout=60)

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def result(self, method: str, path: str, **options: Any) -> Any:
        """Return the `result` of a call below the namespaces' URL."""
        answer = self._client.request(method, self._served.namespaces + path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]

    def namespace(self, title: str) -> str:
        """Return the id of a namespace."""
        found = {one["title"]: one["id"] for one in self.result("GET", "?per_page=1000")}
        return str(found[title])

    def titles(self) -> set[str]:
        """Return all namespaces."""
        return {one["title"] for one in self.result("GET", "?per_page=1000")}

    def keys(self, namespace: str, prefix: str = "") -> dict[str, dict[str, Any]]:
        """Return every key with its row of the listing."""
        found: dict[str, dict[str, Any]] = {}
        cursor = ""
        while True:
            query = {"prefix": prefix} | ({"cursor": cursor} if cursor else {})
            answer = self._client.get(f"{self._served.namespaces}/{namespace}/keys", params=query).json()
            found |= {one["name"]: one for one in answer["result"]}
            cursor = answer["result_info"].get("cursor") or ""
            if not cursor:
                return found

    def get(self, namespace: str, key: str) -> bytes | None:
        """Return a value."""
        url = f"{self._served.namespaces}/{namespace}/values/{_quote(key)}"
        answer = self._client.get(url)
        return answer.content if answer.status_code == 200 else None

    def put(self, namespace: str, key: str, value: bytes, **query: Any) -> None:
        """Write one value, without metadata."""
        self.result("PUT", f"/{namespace}/values/{_quote(key)}", content=value, params=query)

    def delete(self, namespace: str, key: str) -> None:
        """Delete one key."""
        self.result("DELETE", f"/{namespace}/values/{_quote(key)}")

    def bulk_put(self, namespace: str, pairs: list[dict[str, Any]]) -> None:
        """Write many values."""
        self.result("PUT", f"/{namespace}/bulk", json=pairs)

    def set_faults(self, *rules: dict[str, Any]) -> None:
        """Replace the server's fault rules."""
        answer = self._client.put(f"{self._served.root}/_kvfs/faults", json=list(rules))
        assert answer.status_code == 200, answer.text

    def requests(self) -> dict[str, int]:
        """Return requests by operation so far, without those of this class."""
        return self._counted("kvfs_requests_total")

    def keys_counted(self) -> dict[str, int]:
        """Return keys read, written, deleted and listed by operation so far."""
        return self._counted("kvfs_keys_total")

    def _counted(self, metric: str) -> dict[str, int]:
        from support.serving import _totals

        return _totals(self._client.get(f"{self._served.root}/metrics").text, metric)


def _quote(key: str) -> str:
    from urllib.parse import quote

    return quote(key, safe="")
