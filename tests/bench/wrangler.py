"""wrangler, as a `Subject`.

It has no bulk command for a prefix, so the keys are listed first, in a process of its own.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.clients import ClientPlace, environment
from bench.material import TREE, Material
from bench.relay import Relay
from bench.remote import remote
from bench.workloads import (
    CREATE,
    CREATE_INTO,
    DELETE,
    LIST,
    NEW,
    READ,
    Phase,
    Work,
    WrongError,
    expect,
    in_new,
)
from support.serving import Served

_GET_KEYS = 100  # all that its bulk get takes


class _WranglerPlace(ClientPlace):
    def bulk(self, what: str, content: object, *words: str) -> str:
        """Run `wrangler kv bulk …` of a JSON file; return what it printed."""
        file = self.directory / "bulk.json"
        file.write_text(json.dumps(content))
        return self.run("kv", "bulk", what, str(file), f"--namespace-id={self.number}", "--remote", *words)

    def names(self) -> list[str]:
        """Return the keys of the tree."""
        words = (f"--namespace-id={self.number}", f"--prefix={TREE}/", "--remote")
        return [one["name"] for one in json.loads(self.run("kv", "key", "list", *words))]


def _create(place: _WranglerPlace, material: Material) -> None:
    made = re.search(r"\b[0-9a-f]{32}\b", place.run("kv", "namespace", "create", NEW))
    if made is None:
        raise WrongError("wrangler kv namespace create printed no id")
    place.number = made[0]
    place.bulk("put", material.pairs())
    place.done = lambda: place.stored() >= in_new(material.names)


def _create_into(place: _WranglerPlace, material: Material) -> None:
    place.bulk("put", material.pairs())
    place.done = lambda: place.stored() >= set(material.names)


def _list(place: _WranglerPlace, material: Material) -> None:
    expect(len(place.names()), len(material.names), "keys listed")


def _read(place: _WranglerPlace, material: Material) -> None:
    names = place.names()
    expect(len(names), len(material.names), "keys listed")
    for first in range(0, len(names), _GET_KEYS):
        some = names[first : first + _GET_KEYS]
        expect(some[-1] in place.bulk("get", some), True, "values printed")


def _delete(place: _WranglerPlace, material: Material) -> None:
    place.bulk("delete", place.names(), "--force")
    place.done = lambda: not place.stored()


class Wrangler:
    """`wrangler kv`, a process for each command, as it is used."""

    name = "wrangler"
    work: Mapping[str, Work] = {
        CREATE: _create,
        CREATE_INTO: _create_into,
        LIST: _list,
        READ: _read,
        DELETE: _delete,
    }
    settings = (
        "`wrangler kv bulk put`, `get` (100 keys is all it takes) and `delete`, after `kv namespace create` or `kv key "
        "list`; a process for each command"
    )

    def __init__(self, material: Material, served: Served, relay: Relay, delay: float, program: str) -> None:
        self._material, self._served, self._relay = material, served, relay
        self._program = program
        self.delay = delay

    @contextmanager
    def place(self, directory: Path, phase: Phase) -> Iterator[_WranglerPlace]:
        """A fresh namespace."""
        self._relay.aim(self._served.port)
        environ = environment(self._served, self._relay)
        environ |= {"WRANGLER_SEND_METRICS": "false", "WRANGLER_HIDE_BANNER": "true", "CI": "1"}
        environ["HOME"] = environ["XDG_CONFIG_HOME"] = str(directory)
        with remote(self._served, self._material, phase) as there:
            yield _WranglerPlace([self._program], directory, environ, self._relay, there)


def find_wrangler() -> str | None:
    """Return the program that scripts/bench installed, or None if it is missing or this Node cannot run it."""
    found = os.environ.get("WRANGLER") or shutil.which("wrangler")
    if not found or not os.access(found, os.X_OK):
        return None
    done = subprocess.run([found, "--version"], capture_output=True, timeout=60, check=False)
    return found if done.returncode == 0 else None
