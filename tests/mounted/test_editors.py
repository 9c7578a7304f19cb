"""Editors, driven at a terminal: no warning on any save, one write per save, and the key keeps its attributes."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.standing import DELETES, WRITES, Namespace, Standing, changed, wait_for
from support.terminal import Terminal, terminal

pytestmark = pytest.mark.fuse

METADATA = {"author": "ada", "version": 3}
TTL = "0.4"


OPTIONS = (f"--cache-ttl={TTL}", f"--settle={TTL}", "--timeout=10")
"""Caches that forget within half a second, so that every save meets a fresh look at the server."""


class Edited:
    """Keys with metadata and an expiration, and the properties that must hold after every save."""

    def __init__(self, world: Standing, *names: str) -> None:
        self._world = world
        self._space: Namespace = world.namespace()
        self._expiration = int(time.time()) + 7200
        self.names = names or ("notes.txt",)
        self.name = self.names[0]
        self.cwd: Path = self._space.path
        theirs = {"value": "one\n", "metadata": METADATA, "expiration": self._expiration}
        pairs = [{"key": name, **theirs} for name in self.names]
        world.api.bulk_put(self._space.id, [*pairs, {"key": "other", "value": "untouched"}])
        wait_for(lambda: (self.cwd / self.name).exists())
        self._before = world.api.keys_counted()
        self._saves = 0

    def saved(self, content: str, *, last: bool = False) -> None:
        """Check that one write of each key came, with all that the key had; then let time pass."""
        self._saves += 1
        self._world.mount.sync()
        asked = changed(self._before, self._world.api.keys_counted())
        assert sum(asked.get(name, 0) for name in WRITES) == self._saves * len(self.names), asked
        assert sum(asked.get(name, 0) for name in DELETES) == 0, asked
        self.kept(content)
        if not last:
            time.sleep(1.0)  # longer than caches, settling and the key's one write a second

    def kept(self, content: str) -> None:
        """Check that server and mount have the content, and all that the keys had."""
        keys = self._world.api.keys(self._space.id)
        assert set(keys) == {*self.names, "other"}
        for name in self.names:
            assert self._world.api.get(self._space.id, name) == content.encode(), name
            assert keys[name].get("metadata") == METADATA, name
            assert keys[name].get("expiration") == self._expiration, name
            assert (self.cwd / name).read_text() == content, name
            assert (self.cwd / name).stat().st_mtime == self._expiration, name

    def left(self, *names: str) -> None:
        """Return the files that lie beside the edited ones in the mount after the editor ended."""
        assert sorted(os.listdir(self.cwd)) == sorted([*self.names, "other", *names])


def _vim_save(screen: Terminal, line: str) -> None:
    screen.press("G", "o")
    screen.wait_for("INSERT")
    screen.type(line)
    screen.press("Escape")
    screen.wait_gone("INSERT")
    screen.type(":w")
    screen.press("Enter")
    screen.wait_for("written")
    assert "WARNING" not in screen.screen()


@pytest.mark.parametrize("backup", ["", "set backupcopy=yes", "set backupcopy=no", "set backup"])
def test_vim_saves_twice(world: Standing, tmp_path: Path, backup: str) -> None:
    """vim opens, saves, saves again and quits, whichever way it backs the file up."""
    edited = Edited(world)
    options = ["-c", backup] if backup else []
    with terminal(tmp_path, ["vim", *options, edited.name], cwd=edited.cwd) as screen:
        screen.wait_for("one")
        _vim_save(screen, "two")
        edited.saved("one\ntwo\n")
        _vim_save(screen, "three")
        edited.saved("one\ntwo\nthree\n", last=True)
        screen.type(":q")
        screen.press("Enter")
        assert screen.wait_end() == 0
        assert not any("W1" in text or "changed since" in text for text in screen.seen)
    edited.left(*(["notes.txt~"] if backup == "set backup" else []))


@pytest.mark.parametrize("options", [[], ["-B"]])
def test_nano_saves_twice(world: Standing, tmp_path: Path, options: list[str]) -> None:
    """nano, with and without a backup, never says that the file on disk has changed."""
    edited = Edited(world)
    with terminal(tmp_path, ["nano", *options, edited.name], cwd=edited.cwd) as screen:
        screen.wait_for("one")
        for number, line in enumerate(("two", "three"), start=1):
            screen.type(line)
            screen.press("Enter")
            screen.wait_for(line)
            screen.press("C-o")
            screen.wait_for("File Name to Write")
            screen.press("Enter")
            screen.wait_for(f"Wrote {number + 1} lines")
            edited.saved("\n".join(["two", "three"][:number]) + "\none\n", last=number == 2)
        screen.press("C-x")
        assert screen.wait_end() == 0
        assert not any("changed" in text for text in screen.seen)
    edited.left(*(["notes.txt~"] if options else []))


def test_emacs_saves_twice(world: Standing, tmp_path: Path) -> None:
    """emacs renames the file to its backup at the first save and writes in place at the second."""
    edited = Edited(world)
    with terminal(tmp_path, ["emacs", "-nw", "-Q", edited.name], cwd=edited.cwd) as screen:
        screen.wait_for("one")
        screen.wait_for("notes.txt")
        content = "one\n"
        for line in ("two", "three"):
            screen.type(line)
            screen.press("Enter")
            screen.wait_for(line)
            screen.wait_gone("Wrote")
            screen.press("C-x", "C-s")
            screen.wait_for("Wrote")
            content = content.replace("one\n", f"{line}\none\n")
            edited.saved(content, last=line == "three")
        screen.press("C-x", "C-c")
        assert screen.wait_end() == 0
        assert not any("changed" in text for text in screen.seen)
    edited.left("notes.txt~")
    assert (edited.cwd / "notes.txt~").read_text() == "one\n"


def _replace(directory: Path, name: str, temporary: str, content: str) -> None:
    """Save as VS Code and many libraries do: a new file, fsync, rename over the old one."""
    path = directory / temporary
    with open(path, "x") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path, directory / name)


def _jetbrains(directory: Path, name: str, content: str) -> None:
    """Save as IntelliJ and its kin do: the new file beside, the old one out of the way, then the names."""
    temporary, old = directory / f"{name}___jb_tmp___", directory / f"{name}___jb_old___"
    _in_place(temporary, content)
    os.rename(directory / name, old)
    os.rename(temporary, directory / name)
    os.unlink(old)


def _helix(directory: Path, name: str, content: str) -> None:
    """Save as helix does: the old file out of the way under a name of no pattern, the new one synced in its place."""
    backup = directory / f"{name}qX3vB9.bck"
    os.rename(directory / name, backup)
    _in_place(directory / name, content)
    os.unlink(backup)


def _kate(directory: Path, name: str, content: str) -> None:
    """Save as Kate does: a swap file that is synced during typing, and a write in place."""
    swap = directory / f".{name}.kate-swp"
    _in_place(swap, "what was typed")
    _in_place(directory / name, content)
    swap.unlink()


def _in_place(path: Path, content: str) -> None:
    with open(path, "w") as file:
        file.write(content)
        file.flush()
        os.fdatasync(file.fileno())


def _run(cwd: Path, *command: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)


def _shell(cwd: Path, script: str) -> None:
    _run(cwd, "sh", "-euc", script)


SAVERS: dict[str, Callable[[Path, str, str, str], None]] = {
    "sed -i": lambda cwd, name, old, new: _run(cwd, "sed", "-i", f"s/{old}/{new}/", name),
    "sed -i.bak~": lambda cwd, name, old, new: _run(cwd, "sed", "-i.bak~", f"s/{old}/{new}/", name),
    "perl -i": lambda cwd, name, old, new: _run(cwd, "perl", "-pi", "-e", f"s/{old}/{new}/", name),
    "VS Code": lambda cwd, name, old, new: _in_place(cwd / name, f"{new}\n"),
    "VS Code, atomic": lambda cwd, name, old, new: _replace(cwd, name, f"{name}.vsctmp", f"{new}\n"),
    "GLib": lambda cwd, name, old, new: _replace(cwd, name, f".goutputstream-{new}X1Y2Z3", f"{new}\n"),
    "JetBrains": lambda cwd, name, old, new: _jetbrains(cwd, name, f"{new}\n"),
    "Sublime Text": lambda cwd, name, old, new: _replace(cwd, name, f".subl{new}.tmp", f"{new}\n"),
    "Rust's tempfile": lambda cwd, name, old, new: _replace(cwd, name, f".tmp{new:x<6}", f"{new}\n"),
    "Kate": lambda cwd, name, old, new: _kate(cwd, name, f"{new}\n"),
    "Helix": lambda cwd, name, old, new: _helix(cwd, name, f"{new}\n"),
    "sort -o": lambda cwd, name, old, new: _shell(cwd, f"echo {new} | sort -o {name}"),
    "tee": lambda cwd, name, old, new: _shell(cwd, f"echo {new} | tee {name}"),
    "shell": lambda cwd, name, old, new: _shell(cwd, f"echo {new} > {name}"),
    "cp": lambda cwd, name, old, new: _shell(cwd, f"f=$(mktemp); echo {new} > $f; cp $f {name}; rm $f"),
}


def test_saves_without_a_terminal(world: Standing) -> None:
    """Every way to save is one write, and the key keeps metadata and expiration."""
    edited = Edited(world, *(f"{number}.txt" for number in range(len(SAVERS))))
    for old, new in (("one", "two"), ("two", "three")):
        for name, save in zip(edited.names, SAVERS.values(), strict=True):
            save(edited.cwd, name, old, new)
        edited.saved(f"{new}\n", last=new == "three")
    backups = [f"{number}.txt.bak~" for number, saver in enumerate(SAVERS) if "bak" in saver]
    edited.left(*backups)


@pytest.mark.parametrize(
    "temporary", ["tmpx7_k2q9a", "notes.txt.AbCdEf", "notes.txt.tmp", ".notes.txt.x7k2q9"]
)
def test_a_temporary_file_that_was_synced_is_sent(world: Standing, temporary: str) -> None:
    """fsync puts a temporary file on the server, since its name may be meant.

    The rename is then another write and a deletion.
    """
    edited = Edited(world)
    before = world.api.keys_counted()
    _replace(edited.cwd, edited.name, temporary, "two\n")
    world.mount.sync()
    asked = changed(before, world.api.keys_counted())
    assert sum(asked.get(name, 0) for name in WRITES) == 2
    assert sum(asked.get(name, 0) for name in DELETES) == 1
    edited.kept("two\n")
    edited.left()


@pytest.mark.parametrize("temporary", ["tmpx7_k2q9a", "notes.txt.AbCdEf"])
def test_a_temporary_file_that_was_not_synced_is_not_sent(world: Standing, temporary: str) -> None:
    """Without fsync a save by replacing is one write, whatever the temporary file's name."""
    edited = Edited(world)
    (edited.cwd / temporary).write_text("two\n")
    os.replace(edited.cwd / temporary, edited.cwd / edited.name)
    edited.saved("two\n", last=True)
    edited.left()
