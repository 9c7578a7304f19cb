"""A mount of its own for a play, and the promises given to it: the files and directories that must be there."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from crash import shim
from crash.forge import Daemon, Forge
from crash.lane import Violation
from crash.shim import Death
from crash.writer import DEAD
from support.control import call
from support.journals import seen
from support.mounted import Api, environment
from support.serving import Served

from kvfs.host.control import ControlError
from kvfs.host.state import control_path
from kvfs.host.told import ToldWrite, told_file

SECONDS = 8.0  # that a condition is waited for at most
World = dict[str, tuple[bytes, int | None] | None]
"""By path: content and `user.m`, None for a directory."""


class Died(Exception):
    """The daemon died, as it may."""


class Stage:
    """One run of a play: a directory, a namespace, and daemons that follow each other."""

    numbers = count()

    def __init__(self, directory: Path, forge: Forge, served: Served, api: Api) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir(parents=True)
        self.notes = directory / "points.log"
        self._forge, self._served, self._api = forge, served, api
        self._namespace = api.result("POST", "", json={"title": "ns"})["id"]
        self._root = self.mountpoint / "ns"
        self.world: World = {}
        self.maybe: World | None = None
        self.emptied: World | None = None
        self.daemon: Daemon | None = None

    # daemons

    def start(self, *options: str, death: Death, tune: Mapping[str, int] | None = None) -> bool:
        """Mount; return False when the daemon died of it."""
        env = environment(self.directory, self._served)
        env |= {shim.CRASH_AT: death.encode(), shim.NOTES: str(self.notes)}
        env[shim.TUNE] = json.dumps(dict(tune or {}))
        self.unmount()
        options = ("--cache-ttl=1", "--timeout=10", "--rate-requests=1000000", *options)
        log = self.directory / "mnt.log"
        self.daemon = self._forge.start([*options, "cloudflare:", str(self.mountpoint)], env, log)
        return self.daemon.said == "ready"

    def end(self, kind: signal.Signals = signal.SIGKILL) -> None:
        """End the daemon, and wait until it has ended."""
        if self.daemon is not None and not self.daemon.is_dead():
            with suppress(ProcessLookupError):  # it may die of its point this very moment
                os.kill(self.daemon.pid, kind)
            deadline = time.monotonic() + 30
            while not self.daemon.is_dead():
                if time.monotonic() > deadline:
                    self.daemon.kill()
                time.sleep(0.002)

    def unmount(self) -> None:
        """Leave no mount."""
        subprocess.run(["fusermount3", "-uzq", str(self.mountpoint)], check=False, capture_output=True)

    # calls, each with what it promises

    def call(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function; raise `Died` when the daemon's death is why it fails."""
        try:
            return act(*arguments)
        except OSError as exc:
            if exc.errno in DEAD or self.daemon.is_dead():
                raise Died from exc
            raise

    def _promise(
        self, after: World, act: Callable[..., Any], *arguments: Any, may_fail: bool = False
    ) -> None:
        self.maybe = after
        try:
            self.call(act, *arguments)
        except OSError:
            if not may_fail:
                raise
        else:
            self.world = after
        self.maybe = self.emptied = None

    def put(self, name: str, value: bytes, *, may_fail: bool = False) -> None:
        """Write a whole file."""
        old = self.world.get(name)
        m = old[1] if old else None
        after = {**self.world, name: (value, m)}
        # A fork of this process (the other lane's) closes the file in the child: what is not written yet goes then.
        self.emptied = {**self.world, name: (b"", m)}
        self._promise(after, (self._root / name).write_bytes, value, may_fail=may_fail)

    def xattr(self, name: str, number: int) -> None:
        """Set `user.m`."""
        after = {**self.world, name: (self.world[name][0], number)}
        self._promise(after, os.setxattr, self._root / name, "user.m", b"%d" % number)

    def chmod(self, name: str, mode: int) -> None:
        """Set permission bits."""
        self._promise(self.world, os.chmod, self._root / name, mode)

    def touch(self, name: str, ahead: int) -> None:
        """Set the time of change so many seconds ahead."""
        when = int(time.time()) + ahead
        self._promise(self.world, os.utime, self._root / name, (when, when))

    def unlink(self, name: str) -> None:
        """Remove a file."""
        after = {path: one for path, one in self.world.items() if path != name}
        self._promise(after, os.unlink, self._root / name)

    def mkdir(self, name: str, *, may_fail: bool = False) -> None:
        """Make a directory."""
        self._promise({**self.world, name: None}, os.mkdir, self._root / name, may_fail=may_fail)

    def rmdir(self, name: str) -> None:
        """Remove a directory."""
        after = {path: one for path, one in self.world.items() if path != name}
        self._promise(after, os.rmdir, self._root / name)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, or a directory with all below it. A file without `user.m` inherits that of its goal."""
        inside = {path for path in self.world if path == old or path.startswith(old + "/")}
        after = {path: one for path, one in self.world.items() if path not in inside}
        after |= {new + path[len(old) :]: self.world[path] for path in inside}
        if (file := self.world[old]) and (goal := self.world.get(new)):
            after[new] = (file[0], goal[1] if file[1] is None else file[1])
        self._promise(after, os.rename, self._root / old, self._root / new)

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return self.call((self._root / name).read_bytes)

    # the sender, the server, and waiting

    def ask(self, request: str, **fields: Any) -> Any:
        """Send a request to the daemon's control socket."""
        socket = control_path(self.mountpoint, self.state / "kvfs")
        try:
            return list(call(socket, {"request": request, **fields}))[-1]
        except (ControlError, OSError) as exc:
            raise Died from exc

    def sync(self, timeout: float = 20) -> int:
        """Send the pending changes; return how many are left."""
        return self.ask("sync", timeout=timeout)["left_count"]

    def faults(self, *rules: dict[str, Any]) -> None:
        """Set the faults of the server from now on."""
        self._api.set_faults(*rules)

    def api_put(self, name: str, value: bytes) -> None:
        """Write as another client."""
        self._api.put(self._namespace, name, value)

    def command_put(self, name: str, value: bytes | None) -> None:
        """Write, or delete, beside the mount as a command does, which tells the daemon."""
        began = time.time()
        if value is None:
            self._api.delete(self._namespace, name)
        else:
            self._api.put(self._namespace, name, value)
        with told_file(self.state / "kvfs", [ToldWrite(self._namespace, name, began, value)]) as file:
            if self.ask("told", file=str(file))["count"] != 1:
                raise Violation(f"the mount does not take over what a command wrote to {name}")

    def api_drop(self) -> None:
        """Delete the namespace as another client."""
        self._api.result("DELETE", f"/{self._namespace}")

    def drop_all(self) -> None:
        """Leave the server empty."""
        self._api.set_faults()
        for one in self._api.result("GET", "?per_page=1000"):
            self._api.result("DELETE", f"/{one['id']}")

    def journal(self) -> Path:
        """Return the path of the journal."""
        return next(iter(self.state.glob("kvfs/sources/*/journal.sqlite")))

    def gone(self, query: str) -> None:
        """Wait until the journal has no such row."""
        self.until(lambda: not self._row(query))

    def there(self, query: str) -> None:
        """Wait until the journal has such a row."""
        self.until(lambda: self._row(query))

    def _row(self, query: str) -> object:
        with seen(self.journal()) as changes:
            return changes.execute(query).fetchone()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds. Raise `Died`, and `Violation` when it never does."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            if self.daemon.is_dead():
                raise Died
            if time.monotonic() > deadline:
                raise Violation("what the play waits for does not come")
            time.sleep(0.01)

    # looking

    def names(self) -> list[str]:
        """Return the names at the top."""
        return self.call(os.listdir, self._root)

    def look(self) -> World:
        """Return everything that the mount shows."""
        return self.call(self._look)

    def _look(self) -> World:
        found: World = {}
        for directory, folders, names in os.walk(self._root, onerror=_raise):
            for name in folders:
                found[os.path.relpath(os.path.join(directory, name), self._root)] = None
            for name in names:
                path = os.path.join(directory, name)
                m = int(os.getxattr(path, "user.m")) if "user.m" in os.listxattr(path) else None
                found[os.path.relpath(path, self._root)] = (Path(path).read_bytes(), m)
        return found

    def check(self) -> None:
        """Check that everything promised is there, and nothing else.

        Then send it, and check that the server has exactly that.
        """
        shown = self.look()
        if shown not in (self.world, self.maybe, self.emptied):
            raise Violation(
                f"the mount shows {_brief(shown)}, not {_brief(self.world)} or {_brief(self.maybe)}"
            )
        deadline = time.monotonic() + 60
        while self.sync():
            if time.monotonic() > deadline:
                raise Violation("it is not sent")
        files = {name: one for name, one in shown.items() if one is not None}
        keys = self._api.keys(self._namespace)
        theirs = {
            key: (self._api.get(self._namespace, key), (line.get("metadata") or {}).get("m"))
            for key, line in keys.items()
        }
        if theirs != files:
            raise Violation(f"the server has {_brief(theirs)}, not {_brief(files)}")


def _brief(world: Mapping[str, Any] | None) -> str:
    if world is None:
        return "nothing else"
    return repr({name: one and (one[0] and one[0][:12], one[1]) for name, one in sorted(world.items())})


def _raise(error: OSError) -> None:
    raise error
