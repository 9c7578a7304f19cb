"""Clients of the API without a mount: each workload is a command, from the start of its process to its end.

This file has what such places share, and the official SDK as a `Subject`; wrangler has a file of its own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.material import BIG_NAME, FIRST, SAVED, TREE, Material
from bench.measuring import Run
from bench.relay import Relay
from bench.remote import Remote, relayed, remote
from bench.workloads import (
    BIG_READ,
    BIG_WRITE,
    COMMAND_SECONDS,
    CREATE,
    CREATE_INTO,
    DELETE,
    LIST,
    NEW,
    READ,
    RENAME,
    RENAME_FILES,
    SAVE,
    SAVED_TEXT,
    UNCHECKED,
    Phase,
    Work,
    WrongError,
    expect,
    in_new,
    renamed,
)
from support.serving import Served

_SDK = Path(__file__).with_name("sdk.py")


class ClientPlace:
    """A namespace, or an account without any, and the command that works on it."""

    mounting: Run | None = None
    working: float | None = None
    pids: Sequence[int] = ()

    def __init__(
        self, command: Sequence[str], directory: Path, environ: Mapping[str, str], relay: Relay, there: Remote
    ) -> None:
        self.counts = relay.counts
        self.servers = [there.server]
        self.directory = directory
        self.number = there.number
        self.stored = there.stored
        self.value = there.value
        self.done = lambda: True
        self._command = command
        self._environ = environ

    def run(self, *words: str) -> str:
        """Run a command that must succeed; return what it printed."""
        done = subprocess.run(
            [*self._command, *words],
            cwd=self.directory, env=self._environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=COMMAND_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise WrongError(f"{words[:3]}: {done.stdout[-300:]}{done.stderr[-300:]}")
        return done.stdout

    def verify(self) -> None:
        """Ask the server itself."""
        if not self.done():
            raise WrongError("what was sent is not at the server")
        self.done = lambda: True


def environment(served: Served, relay: Relay) -> dict[str, str]:
    """Return the variables by which the SDK and wrangler find the server."""
    return os.environ | {
        "CLOUDFLARE_API_BASE_URL": relayed(served, relay).url,
        "CLOUDFLARE_API_TOKEN": served.token,
        "CLOUDFLARE_ACCOUNT_ID": served.account,
    }


# the official SDK


class _SdkPlace(ClientPlace):
    def ask(self, what: str, **words: object) -> int:
        """Have the command do something; return how many keys (or bytes) that was."""
        command = {"do": what, "namespace": self.number, "prefix": f"{TREE}/", **words}
        answer = json.loads(self.run(json.dumps(command)))
        self.working = float(answer["seconds"])
        return int(answer["count"])


def _create(place: _SdkPlace, material: Material) -> None:
    count = place.ask("create", title=NEW, directory=str(material.tree))
    place.done = lambda: place.stored() >= in_new(material.names)
    expect(count, len(material.names), "keys written")


def _create_into(place: _SdkPlace, material: Material) -> None:
    count = place.ask("write", directory=str(material.tree))
    place.done = lambda: place.stored() >= set(material.names)
    expect(count, len(material.names), "keys written")


def _list(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("names"), len(material.names), "keys listed")


def _read(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("read"), len(material.names), "values read")


def _rename(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("rename", to="renamed/"), len(material.names), "keys moved")
    place.done = lambda: all(name.startswith("renamed/") for name in place.stored())


def _rename_files(place: _SdkPlace, material: Material) -> None:
    count = place.ask("rename_files", prefix=f"{FIRST}/", ending=".bak")
    place.done = lambda: (
        place.stored() == {*map(renamed, material.first), *material.names} - {*material.first}
    )
    expect(count, len(material.first), "keys moved")


def _delete(place: _SdkPlace, material: Material) -> None:
    expect(place.ask("delete"), len(material.names), "keys deleted")
    place.done = lambda: not place.stored()


def _save(place: _SdkPlace, material: Material) -> None:
    names = material.names[:SAVED]
    place.ask("save", names=names, text=SAVED_TEXT)
    place.done = lambda: all(place.value(name) == SAVED_TEXT.encode() for name in names)


def _big_write(place: _SdkPlace, material: Material) -> None:
    place.ask("put_file", name=BIG_NAME, file=str(material.big))
    place.done = lambda: place.value(BIG_NAME) == material.big.read_bytes()


def _big_read(place: _SdkPlace, material: Material) -> None:
    found = place.ask("get_file", name=BIG_NAME, file=str(material.big))
    expect(found, material.big.stat().st_size, "bytes read")


_MANY: dict[str, Work] = {
    CREATE: _create,
    CREATE_INTO: _create_into,
    LIST: _list,
    READ: _read,
    DELETE: _delete,
}
_SINGLY: dict[str, Work] = {SAVE: _save, UNCHECKED: _save, BIG_WRITE: _big_write, BIG_READ: _big_read}
_TOGETHER: dict[str, Work] = {RENAME: _rename, RENAME_FILES: _rename_files}
_SETTINGS = {
    "singly": "a script over `cloudflare`, a key at a time; a process for each workload",
    "threads": "the same by 16 threads",
    "bulk": "the same by `bulk_get` (100 keys), `bulk_update` and `bulk_delete` (10,000), one after the other",
}


class Sdk:
    """A script over the official SDK in one of its modes."""

    def __init__(self, material: Material, served: Served, relay: Relay, delay: float, mode: str) -> None:
        self._material, self._served, self._relay = material, served, relay
        self._mode = mode
        self.delay = delay
        self.name = f"SDK {mode}"
        self.settings = _SETTINGS[mode]
        self.work = _MANY | (_SINGLY if mode == "singly" else _TOGETHER)

    @contextmanager
    def place(self, directory: Path, phase: Phase) -> Iterator[_SdkPlace]:
        """A fresh namespace; its processes are fresh anyway."""
        self._relay.aim(self._served.port)
        command = [sys.executable, "-P", str(_SDK), self._mode]
        environ = environment(self._served, self._relay)
        with remote(self._served, self._material, phase) as there:
            yield _SdkPlace(command, directory, environ, self._relay, there)
