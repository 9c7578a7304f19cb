"""The file systems that are measured: kvfs, the floor, the local disk.

Each as a `Subject`. rclone has a file of its own.
"""

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from bench.material import Material
from bench.measuring import Cost, Run, cpu_seconds, peak_memory
from bench.mounts import kvfs_mount, memory_mount
from bench.relay import Relay
from bench.remote import Remote, relayed, remote
from bench.workloads import FILE_WORK, OVERWRITE, Phase, WrongError
from support.serving import Served


class MountedPlace:
    """A directory with a daemon behind it, or none."""

    working: float | None = None

    def __init__(self, path: Path, pids: Sequence[int] = (), servers: Sequence[int] = ()) -> None:
        self.path = path
        self.pids = pids
        self.servers = servers
        self.mounting: Run | None = None
        self._done: Callable[[], bool] = lambda: True

    def ready(self, begun: float, before: Counter[str]) -> None:
        """Note that the place can be used now. `begun` is of `time.perf_counter`, `before` of `counts`."""
        wall = time.perf_counter() - begun
        peak, cpu = (sum(map(of, self.pids)) for of in (peak_memory, cpu_seconds))
        self.mounting = Run(Cost(wall, cpu, peak=int(peak)), self.counts() - before)

    def counts(self) -> Counter[str]:
        """Return nothing: there is no network."""
        return Counter()

    def stored(self) -> Set[str]:
        """Return the names below the directory: it is all there is."""
        return {str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file()}

    def value(self, name: str) -> bytes | None:
        """Return the file's content."""
        return (self.path / name).read_bytes()

    def flush(self, done: Callable[[], bool], directory: str = "") -> None:
        """Fsync the directory: with kvfs, all that was changed below is then at the server."""
        self._done = done
        self._sync(self.path / directory)

    def _sync(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY)
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
    def place(self, directory: Path, phase: Phase) -> Iterator[MountedPlace]:
        """A directory."""
        self._material.copy(directory / "mnt", phase.content)
        yield _DiskPlace(directory / "mnt")


class _DiskPlace(MountedPlace):
    def _sync(self, directory: Path) -> None:
        subprocess.run(["sync", "-f", str(directory)], check=True)


class Memory:
    """The floor."""

    name = "memfs"
    delay = None
    work = FILE_WORK
    settings = "a file system in memory, tuned as kvfs is (tests/bench/memfs.py): what pyfuse3 can do at all"

    def __init__(self, material: Material) -> None:
        self._material = material

    @contextmanager
    def place(self, directory: Path, phase: Phase) -> Iterator[MountedPlace]:
        """A fresh mount."""
        self._material.copy(directory / "content", phase.content)
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
        "`kvfs mount`, its defaults, over `kvfs serve`; `sync DIR` at the end of what changes something; "
        f"`save, unchecked` with `{OVERWRITE}`"
    )

    def __init__(self, material: Material, served: Served, relay: Relay, delay: float) -> None:
        self._material = material
        self._served = served
        self._relay = relay
        self.delay = delay

    @contextmanager
    def place(self, directory: Path, phase: Phase) -> Iterator[MountedPlace]:
        """A fresh mount of a fresh namespace, or of an account that has none."""
        self._relay.aim(self._served.port)
        with remote(self._served, self._material, phase) as there:
            begun, before = time.perf_counter(), self._relay.counts()
            seen = relayed(self._served, self._relay)
            source = f"cloudflare:{self._served.account}/{there.title}".rstrip("/")
            with kvfs_mount(directory / "mount", seen, source, *phase.options) as mount:
                place = _KvfsPlace(mount.path, mount.pid, self._relay, there)
                place.ready(begun, before)
                yield place


class _KvfsPlace(MountedPlace):
    def __init__(self, path: Path, pid: int, relay: Relay, there: Remote) -> None:
        super().__init__(path, [pid], [there.server])
        self.counts = relay.counts
        self.stored = there.stored
        self.value = there.value
