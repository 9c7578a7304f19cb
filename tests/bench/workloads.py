"""The workloads: the work on a place, its phases, and the check that it was done.

A phase begins with a place that knows nothing yet: a fresh mount (fresh state, fresh caches, as on another machine) or
a fresh process, over a server that has the phase's content already. A workload that changes something ends when the
server has the change.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench import edits
from bench.material import BIG_NAME, FIRST, SAVED, SMALL, TREE, Material
from bench.measuring import Run

COMMAND_SECONDS = 400
_EDITS = (sys.executable, "-P", edits.__file__)
SAVED_TEXT = "saved by an editor " * 40 + "\n"
NEW = "new"  # the namespace, or directory, that a place makes for itself
OVERWRITE = "--on-conflict=overwrite"


class WrongError(Exception):
    """The measured program did not do its work, so its numbers mean nothing."""


class Place(Protocol):
    """A place where work is done: something mounted, or a client."""

    pids: Sequence[int]
    servers: Sequence[int]
    mounting: Run | None
    """What it took to get here, of a mount."""
    working: float | None
    """Seconds of the last workload without starting its program, where that is much."""

    def counts(self) -> Counter[str]:
        """Return the requests so far, by kind."""

    def stored(self) -> Set[str]:
        """Return the names that the server has below the place's root."""

    def value(self, name: str) -> bytes | None:
        """Return the value that the server has under one name."""

    def verify(self) -> None:
        """Return if the work done last is at the server, else raise `WrongError`."""


Work = Callable[[Place, Material], object]


class Subject(Protocol):
    """A tool that is measured. `delay` is the seconds that each request takes longer; None without a network."""

    name: str
    delay: float | None
    work: Mapping[str, Work]
    """By workload: what it can do."""
    settings: str
    """How it was set up, for the page."""

    def place(self, directory: Path, phase: "Phase") -> AbstractContextManager[Place]:
        """Return a fresh place over the phase's content; `directory` is empty, and its own."""


@dataclass(frozen=True)
class Phase:
    """Workloads that follow each other in one place."""

    content: tuple[str, ...]
    workloads: tuple[str, ...]
    is_account: bool = False
    """The place is where namespaces are made, not one of them."""
    options: tuple[str, ...] = ()
    """Of `kvfs mount`: what the others do anyway."""


CREATE, CREATE_INTO = "create", "create, into"
LIST, STAT, STAT_WARM = "list", "stat", "stat, warm"
READ, READ_WARM, TAR, SAVE, UNCHECKED = "read", "read, warm", "tar", "save", "save, unchecked"
BIG_WRITE, BIG_READ = "write 25 MiB", "read 25 MiB"
RENAME, RENAME_WARM, RENAME_FILES, DELETE = "rename", "rename, warm", "rename files", "delete"
MOUNT = "mount"

MEANING = {
    MOUNT: "until the mount can be used",
    CREATE: "a new namespace, and `cp -r` of the tree into it",
    CREATE_INTO: "`cp -r` of the tree into a namespace that is there, and empty",
    LIST: "`find` over the tree, cold",
    STAT: "`ls -lR` of the tree, cold",
    STAT_WARM: "`ls -lR` again",
    READ: "`grep -r` through the tree, cold",
    READ_WARM: "`grep -r` again",
    TAR: "`tar c` of the tree, cold",
    SAVE: f"{SAVED} small files that were read, each written anew and `fsync`ed",
    UNCHECKED: f"the same, kvfs mounted with `{OVERWRITE}`: without a look at what is there now",
    BIG_WRITE: "`cp` of one value of 25 MiB in",
    BIG_READ: "reading it, cold",
    RENAME: "`mv` of the tree's directory, cold",
    RENAME_WARM: "`mv` of it after it was read",
    RENAME_FILES: "50 files of a directory renamed one by one, cold",
    DELETE: "`rm -r` of the tree, cold",
}
"""Every workload, in the order of the tables."""

COMMAND = {
    MOUNT: "kvfs mount, rclone mount",
    CREATE: "mkdir, cp -r into it",
    CREATE_INTO: "cp -r",
    LIST: "find",
    STAT: "ls -lR",
    STAT_WARM: "ls -lR again",
    READ: "grep -r",
    READ_WARM: "grep -r again",
    TAR: "tar c",
    SAVE: f"save {SAVED} files",
    UNCHECKED: f"save {SAVED} files unchecked",
    BIG_WRITE: "cp of 25 MiB in",
    BIG_READ: "cmp of 25 MiB",
    RENAME: "mv of a directory",
    RENAME_WARM: "mv of it after grep",
    RENAME_FILES: "mv of 50 files",
    DELETE: "rm -r",
}
"""The name of each workload on pages and charts: the command that is run."""

PHASES = (
    Phase((), (CREATE,), is_account=True),
    Phase((), (CREATE_INTO, BIG_WRITE)),
    Phase((TREE,), (LIST,)),
    Phase((TREE,), (STAT, STAT_WARM)),
    Phase((TREE,), (READ, READ_WARM, RENAME_WARM)),
    Phase((TREE,), (TAR,)),
    Phase((TREE,), (RENAME,)),
    Phase((TREE,), (RENAME_FILES,)),
    Phase((TREE,), (DELETE,)),
    Phase((TREE, BIG_NAME), (BIG_READ, SAVE)),
    Phase((TREE,), (UNCHECKED,), options=(OVERWRITE,)),
)


def phases_of(workloads: Sequence[str]) -> list[Phase]:
    """Return the phases that have one of them, without the others in them; all phases if none is given."""
    wanted = workloads or list(MEANING)
    left = [tuple(name for name in phase.workloads if name in wanted) for phase in PHASES]
    return [replace(phase, workloads=kept) for phase, kept in zip(PHASES, left, strict=True) if kept]


class Files(Place, Protocol):
    """A place that is a directory."""

    path: Path

    def flush(self, done: Callable[[], bool], directory: str = "") -> None:
        """Return when all changes below are at their goal; `done` says if the server has them."""


def _run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed; return what it printed."""
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
    _run("mkdir", NEW, cwd=place.path)
    _run("cp", "-r", material.tree, place.path / NEW, cwd=place.path)
    place.flush(lambda: _has(place, in_new(material.names)), NEW)


def in_new(names: Iterable[str]) -> set[str]:
    """Return the paths in the form in which they are used from outside of the new directory."""
    return {f"{NEW}/{name}" for name in names}


def _create_into(place: Files, material: Material) -> None:
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
    _run("mv", TREE, "renamed", cwd=place.path)
    moved = ["renamed" + name.removeprefix(TREE) for name in material.names]
    place.flush(lambda: _has(place, moved) and _lacks(place, TREE))


def _rename_files(place: Files, material: Material) -> None:
    _run(*_EDITS, "rename", FIRST, cwd=place.path)
    place.flush(lambda: _has(place, map(renamed, material.first)) and not place.stored() & {*material.first})


def renamed(name: str) -> str:
    """Return the name of a file after `RENAME_FILES`."""
    return name.removesuffix(".txt") + ".bak"


def _delete(place: Files, material: Material) -> None:
    _run("rm", "-r", TREE, cwd=place.path)
    place.flush(lambda: _lacks(place, TREE))


def _open_in_editor(place: Files, material: Material) -> None:
    for name in material.names[:SAVED]:
        (place.path / name).read_bytes()


def _save(place: Files, material: Material) -> None:
    names = material.names[:SAVED]
    with subprocess.Popen(
        [*_EDITS, "save", *names],
        cwd=place.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as editor:  # fmt: skip
        print(SAVED_TEXT, end="", file=editor.stdin, flush=True)
        for name in names:
            expect(editor.stdout.readline().rstrip(), name, "saved")
            place.flush(lambda name=name: place.value(name) == SAVED_TEXT.encode())
            print(file=editor.stdin, flush=True)


FILE_WORK: Mapping[str, Work] = {
    CREATE: _create,
    CREATE_INTO: _create_into,
    LIST: _list,
    STAT: _stat,
    STAT_WARM: _stat,
    READ: _read,
    READ_WARM: _read,
    TAR: _tar,
    SAVE: _save,
    UNCHECKED: _save,
    BIG_WRITE: _big_write,
    BIG_READ: _big_read,
    RENAME: _rename,
    RENAME_WARM: _rename,
    RENAME_FILES: _rename_files,
    DELETE: _delete,
}
BEFORE: Mapping[str, Work] = {SAVE: _open_in_editor, UNCHECKED: _open_in_editor}
"""What comes before a workload in a mount, and is not measured."""
