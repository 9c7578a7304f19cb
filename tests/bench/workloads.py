"""The work: what is done to a place, in which phases, and how it is seen that it was done.

A phase begins with a place that knows nothing yet: a fresh mount (fresh state, fresh caches, another machine so to
say) or a fresh process, over a server that has the phase's content already. What changes something ends when the
server has it.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.material import BIG_NAME, SAVED, SMALL, TREE, Material
from bench.measuring import Run

COMMAND_SECONDS = 400
SAVED_TEXT = "saved by an editor\n" * 40


class WrongError(Exception):
    """What was measured did not do what it should: its numbers mean nothing."""


class Place(Protocol):
    """Where work is done: something mounted, or a client."""

    pids: Sequence[int]
    servers: Sequence[int]
    mounting: Run | None
    """What it took to get here, of a mount."""

    def counts(self) -> Counter[str]:
        """Requests so far, by kind."""

    def stored(self) -> Set[str]:
        """Names of what the server has, below the place's root."""

    def value(self, name: str) -> bytes | None:
        """What the server has of one."""

    def verify(self) -> None:
        """What was done last is at the server, or `WrongError`."""


Work = Callable[[Place, Material], object]


class Subject(Protocol):
    """Something that is measured. `delay`: seconds that each request takes longer; None without a network."""

    name: str
    delay: float | None
    work: Mapping[str, Work]
    """By workload: what it can do."""
    settings: str
    """How it was set up, for the page."""

    def place(self, directory: Path, content: Sequence[str]) -> AbstractContextManager[Place]:
        """A fresh place over this content; `directory` is empty, and its own."""


@dataclass(frozen=True)
class Phase:
    """Workloads that follow each other in one place."""

    content: tuple[str, ...]
    workloads: tuple[str, ...]


CREATE, LIST, STAT, STAT_WARM = "create", "list", "stat", "stat, warm"
READ, READ_WARM, TAR, SAVE = "read", "read, warm", "tar", "save"
BIG_WRITE, BIG_READ = "write 25 MiB", "read 25 MiB"
RENAME, RENAME_WARM, DELETE, MOUNT = "rename", "rename, warm", "delete", "mount"

MEANING = {
    MOUNT: "until the mount can be used",
    CREATE: "`cp -r` of the tree in",
    LIST: "`find` over the tree, cold",
    STAT: "`ls -lR` of the tree, cold",
    STAT_WARM: "`ls -lR` again",
    READ: "`grep -r` through the tree, cold",
    READ_WARM: "`grep -r` again",
    TAR: "`tar c` of the tree, cold",
    SAVE: f"{SAVED} small files that were read, each written anew and `fsync`ed",
    BIG_WRITE: "`cp` of one value of 25 MiB in",
    BIG_READ: "reading it, cold",
    RENAME: "`mv` of the tree's directory, cold",
    RENAME_WARM: "`mv` of it after it was read",
    DELETE: "`rm -r` of the tree, cold",
}
"""Every workload, in the order of the tables."""

PHASES = (
    Phase((), (CREATE, BIG_WRITE)),
    Phase((TREE,), (LIST,)),
    Phase((TREE,), (STAT, STAT_WARM)),
    Phase((TREE,), (READ, READ_WARM, RENAME_WARM)),
    Phase((TREE,), (TAR,)),
    Phase((TREE,), (RENAME,)),
    Phase((TREE,), (DELETE,)),
    Phase((TREE, BIG_NAME), (BIG_READ, SAVE)),
)


def phases_of(workloads: Sequence[str]) -> list[Phase]:
    """The phases that have one of them, without the others in them; all of them for none."""
    if not workloads:
        return list(PHASES)
    left = [tuple(name for name in phase.workloads if name in workloads) for phase in PHASES]
    return [Phase(phase.content, kept) for phase, kept in zip(PHASES, left, strict=True) if kept]


class Files(Place, Protocol):
    """A place that is a directory."""

    path: Path

    def flush(self, done: Callable[[], bool]) -> None:
        """Return when all that was changed is where it should be; `done` says whether the server has it."""


def _run(*command: str | Path, cwd: Path) -> str:
    """A command that must succeed; what it printed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        raise WrongError(f"{command}: exit status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def expect(found: object, wanted: object, what: str) -> None:
    """Refuse numbers of work that was not done."""
    if found != wanted:
        raise WrongError(f"{what}: {found}, not {wanted}")


def _has(place: Files, names: Iterable[str]) -> bool:
    return set(names) <= place.stored()


def _lacks(place: Files, prefix: str) -> bool:
    return not any(name.startswith(prefix) for name in place.stored())


def _create(place: Files, material: Material) -> None:
    _run("cp", "-r", material.tree, place.path, cwd=place.path)
    place.flush(lambda: _has(place, material.names))


def _list(place: Files, material: Material) -> None:
    found = _run("find", TREE, "-type", "f", cwd=place.path)
    expect(found.count("\n"), len(material.names), "files found")


def _stat(place: Files, material: Material) -> None:
    found = _run("ls", "-lR", TREE, cwd=place.path)
    expect(found.count(f" {SMALL} "), len(material.names), "files of the right size")


def _read(place: Files, material: Material) -> None:
    found = _run("grep", "-r", "needle", TREE, cwd=place.path)
    expect(found.count("\n"), material.needles, "needles found")


def _tar(place: Files, material: Material) -> None:
    found = _run("tar", "cf", "-", TREE, cwd=place.path)
    expect(found.count(f"{TREE}/d") >= len(material.names), True, "files in the archive")


def _big_write(place: Files, material: Material) -> None:
    _run("cp", material.big, place.path, cwd=place.path)
    place.flush(lambda: place.value(BIG_NAME) == material.big.read_bytes())


def _big_read(place: Files, material: Material) -> None:
    _run("cmp", material.big, BIG_NAME, cwd=place.path)


def _rename(place: Files, material: Material) -> None:
    os.rename(place.path / TREE, place.path / "renamed")
    moved = ["renamed" + name.removeprefix(TREE) for name in material.names]
    place.flush(lambda: _has(place, moved) and _lacks(place, TREE))


def _delete(place: Files, material: Material) -> None:
    _run("rm", "-r", TREE, cwd=place.path)
    place.flush(lambda: _lacks(place, TREE))


def _open_in_editor(place: Files, material: Material) -> None:
    for name in material.names[:SAVED]:
        (place.path / name).read_bytes()


def _save(place: Files, material: Material) -> None:
    for name in material.names[:SAVED]:
        with (place.path / name).open("w") as file:
            file.write(SAVED_TEXT)
            file.flush()
            os.fsync(file.fileno())
        place.flush(lambda name=name: place.value(name) == SAVED_TEXT.encode())


FILE_WORK: Mapping[str, Work] = {
    CREATE: _create,
    LIST: _list,
    STAT: _stat,
    STAT_WARM: _stat,
    READ: _read,
    READ_WARM: _read,
    TAR: _tar,
    SAVE: _save,
    BIG_WRITE: _big_write,
    BIG_READ: _big_read,
    RENAME: _rename,
    RENAME_WARM: _rename,
    DELETE: _delete,
}
BEFORE: Mapping[str, Work] = {SAVE: _open_in_editor}
"""What comes before a workload in a mount, and is not measured."""
