"""What talks to the API without a mount: scripts over the official SDK, and wrangler; each as a `Subject`."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.filesystems import namespace, relayed
from bench.material import BIG_NAME, SAVED, TREE, Material
from bench.measuring import Run
from bench.mounts import ended, python_environment
from bench.relay import Relay
from bench.workloads import (
    BIG_READ,
    BIG_WRITE,
    COMMAND_SECONDS,
    CREATE,
    DELETE,
    LIST,
    READ,
    RENAME,
    SAVE,
    SAVED_TEXT,
    Work,
    WrongError,
    expect,
)
from support.mounted import Api
from support.serving import Served

BULK_GET_KEYS = 100


class ClientPlace:
    """A namespace and a process that works on it (pid 0: one for each command)."""

    mounting: Run | None = None

    def __init__(self, relay: Relay, api: Api, number: str, served: Served, pids: Sequence[int]) -> None:
        self.counts: Callable[[], Counter[str]] = relay.counts
        self.pids = pids
        self.servers = [served.pid]
        self.number = number
        self._api = api
        self.done: Callable[[], bool] = lambda: True

    def stored(self) -> Set[str]:
        """Names in the namespace."""
        return self._api.keys(self.number).keys()

    def value(self, name: str) -> bytes | None:
        """One value."""
        return self._api.get(self.number, name)

    def verify(self) -> None:
        """Ask the server itself."""
        if not self.done():
            raise WrongError("what was sent is not at the server")
        self.done = lambda: True


# the official SDK


class _SdkPlace(ClientPlace):
    def __init__(self, process: "subprocess.Popen[str]", *words: Any) -> None:
        super().__init__(*words, [process.pid])
        self._process = process
        self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise WrongError("the script over the SDK ended")
        return dict(json.loads(line))

    def ask(self, what: str, **words: object) -> int:
        """Have it do something; how many keys (or bytes) that was."""
        command = {"do": what, "namespace": self.number, "prefix": f"{TREE}/", **words}
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["count"])


def _sdk_create(place: _SdkPlace, material: Material) -> None:
    count = place.ask("create", directory=str(material.directory), names=material.names)
    place.done = lambda: place.stored() >= set(material.names)
    expect(count, len(material.names), "keys written")


def _sdk_list(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("names"), len(material.names), "keys listed")


def _sdk_read(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("read"), len(material.names), "values read")


def _sdk_rename(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("rename", to="renamed/"), len(material.names), "keys moved")
    place.done = lambda: all(name.startswith("renamed/") for name in place.stored())


def _sdk_delete(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("delete"), len(material.names), "keys deleted")
    place.done = lambda: not place.stored()


def _sdk_save(place: _SdkPlace, material: Material) -> None:
    names = material.names[:SAVED]
    place.ask("save", names=names, text=SAVED_TEXT)
    place.done = lambda: all(place.value(name) == SAVED_TEXT.encode() for name in names)


def _sdk_big_write(place: _SdkPlace, material: Material) -> None:
    place.ask("put_file", name=BIG_NAME, file=str(material.big))
    place.done = lambda: place.value(BIG_NAME) == material.big.read_bytes()


def _sdk_big_read(place: _SdkPlace, material: Material) -> None:
    found = place.ask("get_file", name=BIG_NAME, file=str(material.big))
    expect(found, material.big.stat().st_size, "bytes read")


MANY: dict[str, Work] = {CREATE: _sdk_create, LIST: _sdk_list, READ: _sdk_read, DELETE: _sdk_delete}
ONE: dict[str, Work] = {SAVE: _sdk_save, BIG_WRITE: _sdk_big_write, BIG_READ: _sdk_big_read}
_SETTINGS = {
    "singly": "a script over `cloudflare`, a key at a time",
    "threads": "the same by 16 threads",
    "bulk": "the same by `bulk_get` (100 keys), `bulk_update` and `bulk_delete` (10,000), one after the other",
}


class Sdk:
    """The official SDK in one of its modes; importing it is not measured."""

    def __init__(self, material: Material, served: Served, relay: Relay, delay: float, mode: str) -> None:
        self._material, self._served, self._relay = material, served, relay
        self._mode = mode
        self.delay = delay
        self.name = f"SDK {mode}"
        self.settings = _SETTINGS[mode]
        self.work = MANY | (ONE if mode == "singly" else {RENAME: _sdk_rename})

    @contextmanager
    def place(self, directory: Path, content: Sequence[str]) -> Iterator[_SdkPlace]:
        """A fresh namespace and a fresh process."""
        self._relay.aim(self._served.port)
        environ = python_environment() | _environment(self._served, self._relay)
        with namespace(self._served, self._material, content) as (api, _, number):
            process = subprocess.Popen(
                [sys.executable, "-m", "bench.sdk", self._mode],
                env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            with ended(process), process.stdin, process.stdout:
                yield _SdkPlace(process, self._relay, api, number, self._served)


def _environment(served: Served, relay: Relay) -> dict[str, str]:
    return {
        "CLOUDFLARE_API_BASE_URL": relayed(served, relay).url,
        "CLOUDFLARE_API_TOKEN": served.token,
        "CLOUDFLARE_ACCOUNT_ID": served.account,
    }


# wrangler


class _WranglerPlace(ClientPlace):
    def __init__(self, directory: Path, command: str, environ: Mapping[str, str], *words: Any) -> None:
        super().__init__(*words, [])
        self.directory = directory
        self._command = command
        self._environ = environ

    def prepared(self, name: str, content: object) -> Path:
        """A JSON file for wrangler to read."""
        file = self.directory / name
        file.write_text(json.dumps(content))
        return file

    def bulk(self, what: str, file: Path, *words: str) -> str:
        """`wrangler kv bulk …`; what it printed."""
        done = subprocess.run(
            [self._command, "kv", "bulk", what, str(file), f"--namespace-id={self.number}", "--remote", *words],
            cwd=self.directory, env=self._environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise WrongError(f"wrangler kv bulk {what}: {done.stdout[-300:]}{done.stderr[-300:]}")
        return done.stdout


def _wrangler_create(place: _WranglerPlace, material: Material) -> None:
    place.bulk("put", place.prepared("pairs.json", material.pairs()))
    place.done = lambda: place.stored() >= set(material.names)


def _wrangler_read(place: _WranglerPlace, material: Material) -> None:
    for first in range(0, len(material.names), BULK_GET_KEYS):
        names = material.names[first : first + BULK_GET_KEYS]
        found = place.bulk("get", place.prepared("names.json", names))
        expect(names[-1] in found, True, "values printed")


def _wrangler_delete(place: _WranglerPlace, material: Material) -> None:
    place.bulk("delete", place.prepared("names.json", material.names), "--force")
    place.done = lambda: not place.stored()


class Wrangler:
    """`wrangler kv bulk`, a process for each command, as it is used; it is told the names."""

    name = "wrangler"
    work: Mapping[str, Work] = {CREATE: _wrangler_create, READ: _wrangler_read, DELETE: _wrangler_delete}
    settings = "`wrangler kv bulk put`, `get` (100 keys is all it takes) and `delete`, starting Node included"

    def __init__(self, material: Material, served: Served, relay: Relay, delay: float, command: str) -> None:
        self._material, self._served, self._relay = material, served, relay
        self._command = command
        self.delay = delay

    @contextmanager
    def place(self, directory: Path, content: Sequence[str]) -> Iterator[_WranglerPlace]:
        """A fresh namespace."""
        self._relay.aim(self._served.port)
        environ = python_environment() | _environment(self._served, self._relay)
        environ |= {"WRANGLER_SEND_METRICS": "false", "WRANGLER_HIDE_BANNER": "true", "CI": "1"}
        environ["HOME"] = environ["XDG_CONFIG_HOME"] = str(directory)
        with namespace(self._served, self._material, content) as (api, _, number):
            yield _WranglerPlace(directory, self._command, environ, self._relay, api, number, self._served)


def find_wrangler() -> str | None:
    """Where scripts/bench put it, or None: it is not there, or this Node cannot run it."""
    found = os.environ.get("WRANGLER") or shutil.which("wrangler")
    if not found or not os.access(found, os.X_OK):
        return None
    done = subprocess.run([found, "--version"], capture_output=True, timeout=60, check=False)
    return found if done.returncode == 0 else None
