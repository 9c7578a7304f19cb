"""A plugin for pytest: a server of Workers KV for tests of code that uses it. docs/testing.md shows how.

`pip install 'kvfs[pytest]'` is all that a project needs. The server is a process of its own, so that it does not mind
what a test does to time, sockets or threads; it starts with the first test that asks for it.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote
from urllib.request import HTTPErrorProcessor, ProxyHandler, Request, build_opener

import pytest

_OURS: Final = ("metrics", "get_faults", "put_faults", "delete_faults", "none")
_READY: Final = re.compile(r"serving .* at (http://\S+/client/v4) ")

Rules = str | list[dict[str, Any]]


@dataclass(frozen=True)
class KVServer:
    """A server that speaks the REST API of Workers KV. Each test has an account of its own on it.

    base_url    what clients are configured with; it ends in /client/v4
    token       the bearer token that it takes
    account     the id of the account of this test
    """

    base_url: str
    token: str = field(repr=False)
    account: str
    _before: dict[str, dict[str, int]] = field(default_factory=dict, repr=False)

    @property
    def env(self) -> dict[str, str]:
        """Return the environment by which wrangler, the official SDKs and kvfs find this server."""
        return {
            "CLOUDFLARE_API_BASE_URL": self.base_url,
            "CLOUDFLARE_BASE_URL": self.base_url,
            "CLOUDFLARE_API_TOKEN": self.token,
            "CLOUDFLARE_ACCOUNT_ID": self.account,
        }

    @property
    def namespaces_url(self) -> str:
        """Return the URL of the account's namespaces."""
        return f"{self.base_url}/accounts/{self.account}/storage/kv/namespaces"

    def set_faults(self, rules: Rules) -> None:
        """Misbehave from now on: words as `kvfs serve --faults` takes them, or a list of rules.

        Raises `ValueError` that lists the words there are. They end with the test.
        """
        answer = self._ask("PUT", f"{self._root}/_kvfs/faults", rules)
        if not answer["success"]:
            raise ValueError(answer["errors"][0]["message"])

    def clear_faults(self) -> None:
        """Behave again."""
        self._ask("DELETE", f"{self._root}/_kvfs/faults")

    @contextmanager
    def faults(self, rules: Rules) -> Iterator[None]:
        """Misbehave within the context."""
        self.set_faults(rules)
        try:
            yield
        finally:
            self.clear_faults()

    @property
    def requests(self) -> dict[str, int]:
        """The number of requests of this test, by operation, broken connections included."""
        return self._counted("kvfs_requests_total")

    @property
    def billed_keys(self) -> dict[str, int]:
        """The bill by operation: the number of keys read, written, deleted, and of lists."""
        return self._counted("kvfs_keys_total")

    def create_namespace(self, title: str) -> "KVNamespace":
        """Make a namespace of this account, without faults and without being counted."""
        answer = self._ask("POST", self.namespaces_url, {"title": title})
        return KVNamespace(self, answer["result"]["id"], title)

    @property
    def _root(self) -> str:
        return self.base_url.removesuffix("/client/v4")

    def _counted(self, name: str) -> dict[str, int]:
        before = self._before.get(name, {})
        now = _totals(self._send("GET", f"{self._root}/metrics").decode(), name)
        return {key: count - before.get(key, 0) for key, count in now.items() if count > before.get(key, 0)}

    def _ask(self, method: str, url: str, body: object = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        return json.loads(self._send(method, url, sent))

    def _send(self, method: str, url: str, body: bytes | None = None) -> bytes:
        """Send a request of the test itself, which meets no fault and is not counted."""
        headers = {"authorization": f"Bearer {self.token}", "kvfs-direct": "1"}
        request = Request(url, body, headers, method=method)
        opener = build_opener(ProxyHandler({}), _Errors())
        with opener.open(request, timeout=30) as answer:
            found: bytes = answer.read()
        return found


class _Errors(HTTPErrorProcessor):
    """Hands out refusals as answers."""

    def http_response(self, request: Request, response: Any) -> Any:
        return response

    https_response = http_response


@dataclass(frozen=True)
class KVNamespace:
    """A namespace of the test. Its methods meet no fault and are not counted: they prepare and look."""

    server: KVServer
    id: str
    title: str

    @property
    def url(self) -> str:
        """Return the URL of the namespace."""
        return f"{self.server.namespaces_url}/{self.id}"

    def put(self, values: Mapping[str, str], **options: Any) -> None:
        """Store text values; `options` are members of a bulk put: `metadata`, `expiration`, `expiration_ttl`."""
        pairs = [{"key": key, "value": value, **options} for key, value in values.items()]
        answer = self.server._ask("PUT", f"{self.url}/bulk", pairs)
        if not answer["success"]:
            raise ValueError(answer["errors"][0]["message"])

    def get(self, key: str) -> bytes | None:
        """Return the value of a key as it is now; None if there is none."""
        found = self.server._ask("GET", f"{self.url}/keys?limit=1000&prefix={quote(key, safe='')}")
        if key not in (row["name"] for row in found["result"]):
            return None
        return self.server._send("GET", f"{self.url}/values/{quote(key, safe='')}")

    def keys(self) -> dict[str, dict[str, Any]]:
        """Return every key as it is listed now: name, and expiration and metadata where it has them."""
        rows: dict[str, dict[str, Any]] = {}
        cursor = ""
        while True:
            page = self.server._ask("GET", f"{self.url}/keys?cursor={quote(cursor, safe='')}")
            rows |= {row["name"]: row for row in page["result"]}
            cursor = page["result_info"]["cursor"]
            if not cursor:
                return rows


@pytest.fixture(scope="session")
def _kvfs_process() -> Iterator[tuple[str, str]]:
    """Start a server of this session; yield its base URL and its token."""
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="kvfs-") as state:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KVFS_")}
        command = ["serve", "--ephemeral", "--listen=127.0.0.1:0", "--faults=", "--log-level=warning"]
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "kvfs", *command],
            env={**kept, "KVFS_SERVE_TOKEN": token, "KVFS_STATE_DIR": state},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                found = _READY.search(line)
                if found is None:
                    pytest.fail(f"kvfs serve did not start: {line or 'see its error above'}")
                yield found[1], token
            finally:
                process.terminate()


@pytest.fixture
def kv_server(_kvfs_process: tuple[str, str]) -> Iterator[KVServer]:
    """A server of Workers KV with an account of its own for each test; faults end with the test."""
    base_url, token = _kvfs_process
    server = KVServer(base_url, token, secrets.token_hex(16))
    for name in ("kvfs_requests_total", "kvfs_keys_total"):
        server._before[name] = server._counted(name)
    try:
        yield server
    finally:
        server.clear_faults()


@pytest.fixture
def kv_namespace(kv_server: KVServer) -> KVNamespace:
    """An empty namespace on `kv_server`."""
    return kv_server.create_namespace("test")


def _totals(metrics: str, name: str) -> dict[str, int]:
    totals: dict[str, int] = {}
    for operation, count in re.findall(rf'{name}{{operation="(\w+)"[^}}]*}} (\S+)', metrics):
        if operation not in _OURS:
            totals[operation] = totals.get(operation, 0) + int(float(count))
    return totals
