"""The state machine through a real mount: real system calls, a real daemon that is killed, a real server.

`KVFS_MOUNT_STEPS=5000` makes that many steps instead of the few of the ordinary run.
"""

import base64
import errno
import json
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from model.draws import DATA, METADATA, PICK, keys
from model.file_steps import FileSteps
from model.name_steps import NameSteps
from model.space import Space
from support.control import call
from support.mounted import Api, Mounted, mounted
from support.serving import served_by_process
from support.standing import wait_for
from support.syscalls import RealKernel

from kvfs.core.errors import KvfsError
from kvfs.core.model import Entry
from kvfs.core.names import Naming
from kvfs.fuse.convert import errno_of, name_of
from kvfs.host.state import control_path

pytestmark = pytest.mark.fuse

STEPS = int(os.environ.get("KVFS_MOUNT_STEPS", "0"))
OPTIONS = ("--settle=0", "--cache-ttl=60", "--write-back=0.5", "--on-conflict=overwrite")


class World:
    """A server, and a mount of it that is killed and made again."""

    def __init__(self, stack: ExitStack) -> None:
        # Not below pytest's directory: a mount there must be gone after each test.
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="kvfs-tests-", dir="/var/tmp"))
        self.directory = Path(name)
        self.served = stack.enter_context(served_by_process(self.directory, faults=""))
        self.api = stack.enter_context(Api(self.served))
        self._stack = stack
        self.namespaces = 0
        self.mount: Mounted
        self.open()

    def open(self) -> None:
        """Mount it."""
        self.mount = self._stack.enter_context(
            mounted(self.directory, "cloudflare:", *OPTIONS, served=self.served)
        )
        self.kernel = RealKernel(self.mount.path)

    def ask(self, request: str, **more: object) -> dict:
        """Return the daemon's answer through its control socket."""
        socket = control_path(self.mount.path, self.mount.state)
        return list(call(socket, {"request": request, **more}))[-1]


class Mounting(FileSteps, NameSteps):
    """Steps of files and names, another client, sending, and kill -9."""

    world: World

    # Cases that need simulated time, several namespaces or open listings stay with the other machine.
    go = make_namespace = remove_namespace = rename_namespace = rename_across = None
    opendir = getdents = seekdir = closedir = as_large_as_can_be = None
    slack, stretch = 2, 100

    @initialize()
    def start(self):
        """Make a namespace for this run."""
        self.shape, self.every, self.steps, self.here, self.outage = "account", 1, 0, 0, None
        self.files, self.streams = [], []
        self.rig = self.world
        self.world.namespaces += 1
        name = f"ns{self.world.namespaces}"
        (self.world.mount.path / name).mkdir()
        space = Space(Naming(), int(time.time()), 0.0, now=time.time(), refused=None)
        space.name, space.namespace = name, self.world.api.namespace(name)
        self.spaces = [space]

    def run_(self, act):
        """Run one system call or more."""
        for space in self.spaces:
            space.now = time.time()
        return trio.run(act)

    def both(self, real, modelled):
        """Run a step on both sides, which must agree by errno."""

        async def act():
            try:
                return await real()
            except OSError as exc:
                return exc

        answer = self.run_(act)
        try:
            expected = modelled()
        except KvfsError as exc:
            expected = exc
        found = errno.errorcode[answer.errno] if isinstance(answer, OSError) else "ok"
        wanted = name_of(errno_of(expected)) if isinstance(expected, KvfsError) else "ok"
        assert found == wanted, f"mount: {answer!r}, model: {expected!r}"
        return None if isinstance(answer, OSError) else (answer, expected)

    async def compare_all(self):
        """Compare the namespace."""
        await self.compare_tree(self.model)

    @rule(data=st.data(), value=DATA, metadata=METADATA, ahead=st.sampled_from([None, None, 10_000]))
    def other_puts(self, data, value, metadata, ahead):
        """Write a key as another client."""
        pair = {"key": data.draw(keys("/", "")), "value": base64.b64encode(value).decode(), "base64": True}
        pair |= {} if metadata is None else {"metadata": json.loads(metadata)}
        pair |= {} if ahead is None else {"expiration": int(time.time()) + ahead}
        self.drain()
        self.world.api.bulk_put(self.model.namespace, [pair])
        self.learn(pair["key"])

    @rule(pick=PICK)
    def other_deletes(self, pick):
        """Delete a key as another client."""
        known = sorted(self.model.server)
        if known:
            key = known[pick % len(known)]
            self.drain()
            self.world.api.delete(self.model.namespace, key)
            self.learn(key)

    def learn(self, key):
        """Tell the model the server's content of a key, and have the mount ask anew."""
        space = self.model
        space.server = self.there()
        if key not in space.changes and key in space.server:
            space.loose.add(key)
        self.world.ask("refresh", path=space.name)

    def value_there(self, space, key):
        """Return the server's value of a key."""
        return self.world.api.get(space.namespace, key)

    def there(self):
        """Return everything that the server has."""
        namespace, api = self.model.namespace, self.world.api
        found = {}
        for key, info in api.keys(namespace).items():
            found[key] = entry_of(api.get(namespace, key), info)
        return found

    @rule()
    def drain(self):
        """Send everything pending: the server has exactly what the model says."""
        assert self.world.ask("sync")["left_count"] == 0
        wait_for(lambda: self.world.ask("status")["settling"]["count"] == 0)
        self.run_(trio.lowlevel.checkpoint)
        self.model.drain()
        found = self.there()
        assert found.keys() == self.model.server.keys()
        for key, entry in self.model.server.items():
            assert found[key] == entry, key

    @precondition(lambda self: self.steps % 6 == 5)
    @rule()
    def crash(self):
        """Kill the daemon with kill -9, and mount again.

        The files are closed before, and the promise of close(2) is kept.
        """
        for file, _, _ in self.files:
            os.close(file.number)
        for _, file, writes in self.files:
            file.space.close(file, writes=writes)
        self.world.mount.kill()
        self.files = []
        self.model.crash()
        self.world.open()

    def last_look(self):
        """Compare the mount, and the server's final content."""
        for file, _, _ in self.files:
            os.close(file.number)
        for _, file, writes in self.files:
            file.space.close(file, writes=writes)
        self.run_(self.compare_all)
        self.drain()
        self.run_(self.compare_all)

    def teardown(self):
        """Compare everything once more."""
        if self.spaces:
            self.last_look()


def entry_of(value, info):
    """Return a key's entry as the API has it, in the form of the stores."""
    metadata = info.get("metadata")
    text = None if metadata is None else json.dumps(metadata, separators=(",", ":"), ensure_ascii=False)
    return Entry(value, None if text is None else text.encode(), info.get("expiration"))


def test_the_mount_is_as_the_model(request: pytest.FixtureRequest) -> None:
    """After each step, kill and change elsewhere, names, contents and attributes are those of the model."""
    with ExitStack() as stack:
        Mounting.world = World(stack)
        Mounting.TestCase.settings = settings(
            max_examples=max(1, STEPS // 50) if STEPS else 5,
            stateful_step_count=50 if STEPS else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
            report_multiple_bugs=False,
        )
        Mounting.TestCase().runTest()
