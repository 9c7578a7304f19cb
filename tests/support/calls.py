"""Runs the examples in a page's tables (`support/pages.py`), each in a namespace of its own."""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.control import call
from support.mounted import Api, mounted
from support.pages import Row
from support.standing import DELETES, WRITES, Namespace, Standing, changed, wait_for
from support.vocabulary import key_of, run_code, vocabulary

from kvfs.host.state import control_path

OPTIONS = ("--cache-ttl=600", "--settle=0", "--write-back=600", "--timeout=10")
"""Nothing is sent or forgotten unless the example says so."""


def _ask(world: Standing, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the daemon what the commands of kvfs would ask, without a process for each."""
    return dict(list(call(control_path(world.mount.path, world.mount.state), request))[-1])


def refresh(world: Standing, space: Namespace) -> None:
    """Do `kvfs refresh`."""
    _ask(world, {"request": "refresh", "path": space.path.name})


def sync(world: Standing) -> None:
    """Do `kvfs sync`, and insist that all is sent."""
    answer = _ask(world, {"request": "sync", "timeout": None})
    assert not answer.get("left_count"), answer


class Server:
    """Another client of the same namespace."""

    def __init__(self, api: Api, space: Namespace, world: Standing) -> None:
        self._api, self._space, self._world = api, space, world

    def put(
        self, key: str, value: bytes, *, ttl: int | None = None, metadata: object = None, seen: bool = True
    ) -> None:
        """Write a key; unless it shall not be seen, the mount forgets its knowledge of the namespace."""
        extra = {"expiration_ttl": ttl, "metadata": metadata}
        pair = {"key": key, "value": value.decode()} | {k: v for k, v in extra.items() if v is not None}
        self._api.bulk_put(self._space.id, [pair])
        if seen:
            refresh(self._world, self._space)

    def delete(self, key: str) -> None:
        """Delete a key; the mount forgets its knowledge of the namespace."""
        self._api.delete(self._space.id, key)
        refresh(self._world, self._space)

    def get(self, key: str) -> bytes | None:
        """Return a value, None when there is none."""
        return self._api.get(self._space.id, key)

    def keys(self) -> list[str]:
        """Return all keys."""
        return sorted(self._api.keys(self._space.id))

    def ails(self, fault: str, **how: object) -> None:
        """Let every request for values and keys meet a fault from here on, until the example ends."""
        self._api.set_faults({"fault": fault, "path": "/storage/", **how})

    def metadata(self, key: str) -> object:
        """Return a key's metadata."""
        return self._api.keys(self._space.id, key)[key].get("metadata")


def outcome(row: Row, world: Standing) -> tuple[object, object]:
    """Return the result of a row's example and the one on the page; an errno is given by name."""
    space, before, descriptors = world.namespace(), Path.cwd(), contextlib.ExitStack()
    names = vocabulary() | _helpers(world, space, descriptors)
    names["open"] = lambda *how: _opened(descriptors, *how)
    os.chdir(space.path)
    try:
        _set_up(space.path)
        if re.search(r"\bfd\b", row.code):
            names["fd"] = names["open"]("f", os.O_RDWR)
        wanted = _wanted(row, names)
        try:
            found = run_code(row.code, names)
        except OSError as exc:
            return errno.errorcode[exc.errno or 0], wanted
        return (found, wanted) if row.result is not None else (None, None)
    finally:
        os.chdir(before)
        names.clear()
        if "ails" in row.code:
            world.api.set_faults()
        descriptors.close()
        if "ails" in row.code:  # well again: what was kept goes now
            sync(world)


def _opened(descriptors: contextlib.ExitStack, *how: Any) -> int:
    """Open a file as os.open does, and close it in the end at the latest."""
    number = os.open(*how)
    descriptors.callback(_close, number)
    return number


def _close(number: int) -> None:
    with contextlib.suppress(OSError):
        os.close(number)


def _wanted(row: Row, names: dict[str, Any]) -> object:
    if row.result is None or row.result in errno.errorcode.values():
        return row.result
    return eval(row.result, names)


def _set_up(top: Path) -> None:
    """Make the directory that every row starts with; docs/semantics.md describes it."""
    (top / "f").write_bytes(b"hello")
    (top / "d").mkdir()
    (top / "full").mkdir()
    (top / "full/x").write_bytes(b"x")


def _helpers(world: Standing, space: Namespace, ending: contextlib.ExitStack) -> dict[str, Any]:
    def path_of(key: str) -> str:
        """Return the path at which the mount shows a key that another client wrote."""
        server.put(key, b"x")
        wait_for(lambda: any(key_of(found) == key for found in _walk(space.path)))
        return str(next(found for found in _walk(space.path) if key_of(found) == key).relative_to(space.path))

    def asked(act: Callable[[], object]) -> dict[str, int]:
        before = world.api.requests()
        act()
        return changed(before, world.api.requests())

    def mounted_with(*options: str) -> str:
        """Make another mount of this namespace, with its directory's name; it is gone at the end of the example."""
        mounting = mounted(
            world.local(), f"cloudflare:/{space.path.name}", *OPTIONS, *options, served=world.served
        )
        return str(ending.enter_context(mounting).path)

    def billed(act: Callable[[], object]) -> dict[str, int]:
        before = world.api.keys_counted()
        act()
        grown = changed(before, world.api.keys_counted())
        return {name: number for name, number in grown.items() if name in (*WRITES, *DELETES)}

    server = Server(world.api, space, world)
    other = lambda: str(world.namespace().path)  # noqa: E731
    return {
        "server": server,
        "path_of": path_of,
        "asked": asked,
        "billed": billed,
        "other_namespace": other,
        "mounted_with": mounted_with,
        "kv": str(world.mount.path),
        "sync": lambda: sync(world),
    }


def _walk(top: Path) -> list[Path]:
    return [Path(directory) / name for directory, _, names in os.walk(top) for name in names]
