"""Daemons under test: started as processes of their own on a fresh directory, ended and unmounted by pid."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from support.mounted import KVFS, REPOSITORY
from support.mounted import environment as surroundings
from support.serving import Served

END_SECONDS = 60


@dataclass(frozen=True)
class Mount:
    """A mounted file system and the process behind it (pid 0: none, as of the local disk)."""

    path: Path
    pid: int


@contextmanager
def kvfs_mount(
    directory: Path,
    served: Served,
    source: str,
    *options: str,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Mount]:
    """kvfs on `directory/mnt`, its state in `directory`: a new directory is a machine that knows nothing yet."""
    path = _mountpoint(directory)
    log = directory / "kvfs.log"
    command = [*KVFS, "mount", f"--log-file={log}", *options]
    environ = surroundings(directory, served) | dict(environment)
    with _daemon(command, [source, str(path)], path, log, environ) as process:
        yield Mount(path, process.pid)


@contextmanager
def memory_mount(directory: Path, *, bare: bool = False, content: Path | None = None) -> Iterator[Mount]:
    """The floor, `memfs`, on `directory/mnt`, beginning with a copy of the directory `content`."""
    path = _mountpoint(directory)
    command = [sys.executable, "-m", "bench.memfs", *(["--bare"] if bare else [])]
    command += [f"--content={content}"] if content is not None else []
    with _daemon(command, [str(path)], path, directory / "memfs.log", python_environment()) as process:
        yield Mount(path, process.pid)


def python_environment() -> dict[str, str]:
    """For processes that run modules of this package."""
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}


def _mountpoint(directory: Path) -> Path:
    path = directory / "mnt"
    path.mkdir(parents=True)
    return path


@contextmanager
def _daemon(
    command: Sequence[str], words: Sequence[str], path: Path, log: Path, environ: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon that says `ready` on a descriptor of its own, until SIGTERM."""
    reading, writing = os.pipe()
    with log.open("ab") as output, open(reading, encoding="utf-8") as answers:
        process = subprocess.Popen(
            [*command, f"--ready-fd={writing}", *words],
            env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[writing], cwd="/",
        )  # fmt: skip
        os.close(writing)
        said = answers.readline()
    with ended(process, path):
        if said != "ready\n":
            raise RuntimeError(f"{' '.join(command)} did not start: {said}\n{log.read_text()}")
        yield process


@contextmanager
def ended(process: "subprocess.Popen[bytes]", path: Path | None = None) -> Iterator[None]:
    """Wait until the process has ended, by SIGTERM if it obeys; afterwards `path` is not mounted."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if path is not None and os.path.ismount(path):
            subprocess.run(["fusermount3", "-uz", str(path)], check=False)
