"""A server in front of `kvfs serve` that hands requests on, or refuses them and quotes their credentials."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from support.serving import Served

Refuse = Callable[[str, str], tuple[int, int] | None]
"""Of a method and a path: the HTTP status and error code to refuse it with, or None."""


class Echo(ThreadingHTTPServer):
    """The echoing server. `served` is where it listens; a test sets `refuse`."""

    daemon_threads = True

    def __init__(self, behind: Served) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.refuse: Refuse = lambda method, path: None
        self.served = replace(behind, url=f"http://127.0.0.1:{self.server_port}/client/v4")


class _Handler(BaseHTTPRequestHandler):
    server: Echo

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        refused = self.server.refuse(self.command, self.path)
        if refused is None:
            self._hand_on(body)
            return
        status, code = refused
        error = {"code": code, "message": f"refused: {self.headers['authorization']}"}
        self._send(status, "application/json", json.dumps({"success": False, "errors": [error]}).encode())

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def _hand_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind.port, timeout=30)
        headers = {name: text for name, text in self.headers.items() if name.lower() != "accept-encoding"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        self._send(answer.status, answer.headers["content-type"], answer.read(), answer.headers["expiration"])
        connection.close()

    def _send(self, status: int, kind: str | None, body: bytes, expiration: str | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind or "application/json")
        self.send_header("content-length", str(len(body)))
        if expiration is not None:
            self.send_header("expiration", expiration)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing, because the test's output is not its log."""


@contextmanager
def echoing(behind: Served) -> Iterator[Echo]:
    """Yield the server at work in threads of this process."""
    with Echo(behind) as echo:
        thread = threading.Thread(target=echo.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield echo
        finally:
            echo.shutdown()
            thread.join()
