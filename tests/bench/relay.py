"""A network in between: a process that passes bytes on, each request a fixed time later, and counts requests.

Everything under test that speaks HTTP speaks through one of these, at 0 ms too. A request begins where bytes of
a client follow bytes of the server (or open the connection) and look like a request line: nobody here pipelines.
The delay stands for the round trip of an established connection; that of connecting is not imitated.
Commands are lines on stdin, `target PORT` and `counts`; each is answered by a line of JSON.
"""

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.mounts import ended, python_environment

_REQUEST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]\r\n")
_KINDS = (
    ("GET", r"/namespaces/[^/]+/keys", "list"),
    ("POST", r"/bulk/get$", "bulk get"),
    ("PUT", r"/bulk$", "bulk put"),
    ("POST|DELETE", r"/bulk(/delete)?$", "bulk delete"),
    ("GET", r"/values/", "get"),
    ("PUT", r"/values/", "put"),
    ("DELETE", r"/values/", "delete"),
    ("GET", r"/metadata/", "metadata"),
    (r"\w+", r"/namespaces(/[^/]*)?$", "namespaces"),
)


def kind_of(method: str, path: str) -> str:
    """Return the kind of a request in the words of Workers KV; for other servers its method."""
    path = path.partition("?")[0]
    if "/storage/kv/" in path:
        for methods, pattern, kind in _KINDS:
            if re.fullmatch(methods, method) and re.search(pattern, path):
                return kind
    return method


class _Relay:
    """The target of a relay, its delay, and the requests that came by."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.port = 0
        self.counts: Counter[str] = Counter()


class _Client(asyncio.Protocol):
    """A connection of a client, and its partner to the server."""

    def __init__(self, relay: _Relay) -> None:
        self._relay = relay
        self._partner: _Server | None = None
        self._held: list[bytes] | None = []  # while connecting, or while a request is on its way
        self.answered = True

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, partner = await loop.create_connection(lambda: _Server(self), "127.0.0.1", self._relay.port)
        except OSError:
            self.transport.abort()
            return
        self._partner = partner
        if self.answered:  # nothing was asked yet
            self._pass_on()

    def data_received(self, data: bytes) -> None:
        if self.answered and (found := _REQUEST.match(data)):
            self.answered = False
            self._relay.counts[kind_of(found[1].decode(), found[2].decode(errors="replace"))] += 1
            if self._held is None:
                self._held = []
            self._held.append(data)
            if self._relay.delay:
                asyncio.get_running_loop().call_later(self._relay.delay, self._pass_on)
            else:
                self._pass_on()
        elif self._held is not None:
            self._held.append(data)
        else:
            self._partner.transport.write(data)

    def _pass_on(self) -> None:
        if self._partner is None:  # not connected yet: the delay was shorter than that
            self._connecting.add_done_callback(lambda _: self._partner and self._pass_on())
            return
        held, self._held = self._held, None
        if held and not self._partner.transport.is_closing():
            self._partner.transport.writelines(held)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._partner is not None:
            self._partner.transport.close()

    def pause_writing(self) -> None:
        if self._partner is not None:
            self._partner.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._partner is not None:
            self._partner.transport.resume_reading()


class _Server(asyncio.Protocol):
    """The connection to the server."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.answered = True
        self._client.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.transport.close()

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()


async def _serve(delay: float) -> None:
    relay = _Relay(delay)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(relay), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).split():
        if line[0] == b"target":
            relay.port = int(line[1])
        print(json.dumps(relay.counts), flush=True)


class Relay:
    """A relay that runs; `port` is where clients connect, `pid` its process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid
        self.port: int = json.loads(process.stdout.readline())["port"]

    def _ask(self, line: str) -> Counter[str]:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return Counter(json.loads(self._process.stdout.readline()))

    def aim(self, port: int) -> None:
        """Send connections from now on to this port of this machine."""
        self._ask(f"target {port}")

    def counts(self) -> Counter[str]:
        """Return the requests so far, by kind."""
        return self._ask("counts")


@contextmanager
def relaying(delay: float) -> Iterator[Relay]:
    """Yield a relay as a process of its own; `delay` is in seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.relay", str(delay)],
        env=python_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with ended(process), process.stdin, process.stdout:
        yield Relay(process)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(float(sys.argv[1])))
