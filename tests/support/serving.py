"""A real `kvfs serve` for tests: in this process on a port of its own, or as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from kvfs.server.serving import ServeOptions, serving
from kvfs.store.rest.client import RestStore, open_rest

TOKEN = "test-token-0123456789"
ACCOUNT = "0123456789abcdef0123456789abcdef"
REPOSITORY = Path(__file__).parents[2]

_OURS = ("metrics", "get_faults", "put_faults", "delete_faults")

_RUN = """
import json, sys, pathlib, resource
from kvfs.server.serving import ServeOptions, run_server
given = json.load(sys.stdin)
descriptors = given.pop("descriptors")
if descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
options = ServeOptions(store=pathlib.Path(given.pop("store")), **given)
run_server(options, announce=lambda ready: print(ready.url, flush=True))
"""


@dataclass(frozen=True)
class Served:
    """A server that is ready. `url` ends in /client/v4; `root` is what is before."""

    url: str
    token: str = TOKEN
    account: str = ACCOUNT
    pid: int = 0
    log: Path | None = None

    @property
    def root(self) -> str:
        return self.url.removesuffix("/client/v4")

    @property
    def port(self) -> int:
        return int(self.root.rpartition(":")[2])

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    @property
    def namespaces(self) -> str:
        """Return the URL of the account's namespaces."""
        return f"{self.url}/accounts/{self.account}/storage/kv/namespaces"

    def open_rest(self, **options: object) -> AbstractAsyncContextManager[RestStore]:
        """Return our own client for it."""
        return open_rest(base_url=self.url, account=self.account, token=self.token, **options)

    def client(self) -> httpx.AsyncClient:
        """Return a plain HTTP client that carries the token."""
        return httpx.AsyncClient(headers=self.headers, trust_env=False, timeout=30)

    async def requests(self) -> dict[str, int]:
        """Return how many requests the server has answered so far, by operation, those of this helper left out."""
        return _totals(await self._metrics(), "kvfs_requests_total")

    async def keys(self) -> dict[str, int]:
        """Return how many keys have been read, written, deleted or listed so far, by operation."""
        return _totals(await self._metrics(), "kvfs_keys_total")

    async def set_faults(self, *rules: dict[str, object]) -> None:
        """Replace the fault rules (the server must have been started with `faults`)."""
        async with self.client() as client:
            answer = await client.put(f"{self.root}/_kvfs/faults", json=list(rules))
            assert answer.status_code == 200, answer.text

    async def _metrics(self) -> str:
        async with self.client() as client:
            return (await client.get(f"{self.root}/metrics")).text


@asynccontextmanager
async def served(
    directory: Path,
    *,
    faults: str | None = None,
    strict: bool = False,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[Served]:
    """Yield a server in this process, on a store in `directory`; `now` is its clock."""
    options = ServeOptions(directory / "store.sqlite", port=0, token=TOKEN, faults=faults, strict=strict)
    async with serving(options, now=now) as ready:
        yield Served(ready.url)


@contextmanager
def served_by_process(
    directory: Path,
    *,
    faults: str | None = None,
    stop: signal.Signals = signal.SIGTERM,
    descriptors: int | None = None,
    port: int = 0,
) -> Iterator[Served]:
    """Yield a server as a process of its own, ended by the signal `stop`; a traceback of it fails the test.

    `descriptors` is the most that it may have open. Its log is the file `log`.
    """
    options = {"store": str(directory / "store.sqlite"), "port": port, "token": TOKEN, "faults": faults}
    with tempfile.NamedTemporaryFile(prefix="kvfs-serve-") as log, ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", _RUN],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        )
        stack.callback(process.kill)
        process.stdin.write(json.dumps({**options, "descriptors": descriptors}))
        process.stdin.close()
        announced = process.stdout.readline()
        url = re.search(r"http://\S+", announced)
        assert url, Path(log.name).read_text()
        yield Served(url[0], pid=process.pid, log=Path(log.name))
        process.send_signal(stop)
        assert process.wait(timeout=20) == (-stop if stop is signal.SIGKILL else 0)
        errors = Path(log.name).read_text()
        assert "Traceback" not in errors, errors


def _totals(metrics: str, name: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    for line in metrics.splitlines():
        found = re.match(rf'{name}{{operation="(\w+)"[^}}]*}} (\S+)', line)
        if found and found[1] not in _OURS:
            totals[found[1]] = totals.get(found[1], 0) + int(float(found[2]))
    return totals
