"""What is mounted: kvfs, the floor, the local disk; each as a `Subject`. rclone has a file of its own."""

import os
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from bench.material import BIG_NAME, TREE, Material
from bench.measuring import Cost, Run, cpu_seconds, peak_memory
from bench.mounts import kvfs_mount, memory_mount
from bench.relay import Relay
from bench.workloads import FILE_WORK, WrongError
from support.mounted import Api
from support.serving import Served

_BULK_PAIRS = 10_000


class MountedPlace:
    """A directory with a daemon behind it, or none."""

    def __init__(self, path: Path, pids: Sequence[int] = (), servers: Sequence[int] = ()) -> None:
        self.path = path
        self.pids = pids
        self.servers = servers
        self.mounting: Run | None = None
        self._done: Callable[[], bool] = lambda: True

    def ready(self, begun: float, before: Counter[str]) -> None:
        """It can be used; `begun` of `time.perf_counter`, `before` of `counts`."""
        wall = time.perf_counter() - begun
        peak, cpu = (sum(map(of, self.pids)) for of in (peak_memory, cpu_seconds))
        self.mounting = Run(Cost(wall, cpu, peak=int(peak)), self.counts() - before)

    def counts(self) -> Counter[str]:
        """No network."""
        return Counter()

    def stored(self) -> Set[str]:
        """The directory is all there is."""
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()}

    def value(self, name: str) -> bytes | None:
        """The file's content."""
        return (self.path / name).read_bytes()

    def flush(self, done: Callable[[], bool]) -> None:
        """fsync of the directory: with kvfs, all that was changed below is at the server."""
        self._done = done
        self._sync()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def verify(self) -> None:
        """Ask the server itself."""
        if not self._done():
            raise WrongError(f"{self.path}: what was flushed is not at the server")
        self._done = lambda: True


# no network


class Disk:
    """Plain files on the local disk; the kernel has them in its page cache."""

    name = "ext4"
    delay = None
    work = FILE_WORK
    settings = "local disk, page cache warm; `sync -f` at the end of what changes something"

    def __init__(self, material: Material) -> None:
        self._material = material

    @contextmanager
    def place(self, directory: Path, content: Sequence[str]) -> Iterator[MountedPlace]:
        """A directory."""
        self._material.copy(directory / "mnt", content)
        yield _DiskPlace(directory / "mnt")


class _DiskPlace(MountedPlace):
    def _sync(self) -> None:
        subprocess.run(["sync", "-f", str(self.path)], check=True)


class Memory:
    """The floor."""

    name = "memfs"
    delay = None
    work = FILE_WORK
    settings = "a file system in memory, tuned as kvfs is (tests/bench/memfs.py): what pyfuse3 can do at all"

    def __init__(self, material: Material) -> None:
        self._material = material

    @contextmanager
    def place(self, directory: Path, content: Sequence[str]) -> Iterator[MountedPlace]:
        """A fresh mount."""
        self._material.copy(directory / "content", content)
        begun = time.perf_counter()
        with memory_mount(directory / "mount", content=directory / "content") as mount:
            place = MountedPlace(mount.path, [mount.pid])
            place.ready(begun, Counter())
            yield place


# kvfs


class Kvfs:
    """kvfs over `kvfs serve`, with its defaults; a namespace for each place."""

    name = "kvfs"
    work = FILE_WORK
    settings = (
        "`kvfs mount`, its defaults, over `kvfs serve`; `sync DIR` at the end of what changes something"
    )

    def __init__(self, material: Material, served: Served, relay: Relay, delay: float) -> None:
        self._material = material
        self._served = served
        self._relay = relay
        self.delay = delay

    @contextmanager
    def place(self, directory: Path, content: Sequence[str]) -> Iterator[MountedPlace]:
        """A fresh mount of a fresh namespace."""
        self._relay.aim(self._served.port)
        with namespace(self._served, self._material, content) as (api, title, number):
            begun, before = time.perf_counter(), self._relay.counts()
            seen = relayed(self._served, self._relay)
            with kvfs_mount(directory / "mount", seen, f"cloudflare:/{title}") as mount:
                place = _KvfsPlace(mount.path, mount.pid, self._served, self._relay, api, number)
                place.ready(begun, before)
                yield place


class _KvfsPlace(MountedPlace):
    def __init__(self, path: Path, pid: int, served: Served, relay: Relay, api: Api, namespace: str) -> None:
        super().__init__(path, [pid], [served.pid])
        self.counts = relay.counts
        self._api = api
        self._namespace = namespace

    def stored(self) -> Set[str]:
        return self._api.keys(self._namespace).keys()

    def value(self, name: str) -> bytes | None:
        return self._api.get(self._namespace, name)


def relayed(served: Served, relay: Relay) -> Served:
    """The same server seen through a relay."""
    return Served(f"http://127.0.0.1:{relay.port}/client/v4", served.token, served.account, served.pid)


@contextmanager
def namespace(served: Served, material: Material, content: Sequence[str]) -> Iterator[tuple[Api, str, str]]:
    """A namespace with this content, filled past the relay: the API, the title, the id."""
    title = f"bench-{uuid.uuid4().hex[:8]}"
    with Api(served) as api:
        number = api.result("POST", "", json={"title": title})["id"]
        if TREE in content:
            pairs = material.pairs()
            for first in range(0, len(pairs), _BULK_PAIRS):
                api.bulk_put(number, pairs[first : first + _BULK_PAIRS])
        if BIG_NAME in content:
            api.put(number, BIG_NAME, material.big.read_bytes())
        try:
            yield api, title, number
        finally:
            api.result("DELETE", f"/{number}")
