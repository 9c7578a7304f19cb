"""Programs with files of their own: git, databases, compilers, Python and the shell, at home in a mount."""

import shutil
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from support.mounted import Mounted, mounted
from support.standing import Namespace, Standing, run, some_tree

pytestmark = pytest.mark.fuse


OPTIONS = ("--cache-ttl=60", "--settle=1", "--write-back=0.5", "--timeout=15")
"""Values are sent soon, so that tools and sending meet."""


def test_git_works_inside_the_mount(world: Standing, space: Namespace) -> None:
    """init, add, commit, branch, merge, clone, gc and fsck of a repository that lives in the mount."""
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    git = {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "HOME": "/nonexistent",
    } | identity
    repository, clone = space.path / "repository", space.path / "clone"
    script = """
    git init -q -b main "$1"
    cd "$1"
    for i in $(seq 30); do mkdir -p d$((i % 3)); echo "file $i" > d$((i % 3))/f$i; done
    printf '#!/bin/sh\\necho ran\\n' > run.sh; chmod +x run.sh
    git add .; git commit -qm first
    test -z "$(git status --porcelain)"
    git checkout -qb side; echo side >> d0/f3; git commit -qam side
    git checkout -q main; echo main >> d1/f1; rm d2/f2; git commit -qam main
    git merge -q side -m merged
    test "$(cat d0/f3)" = "$(printf 'file 3\\nside')"
    test "$(git log --oneline | wc -l)" = 4
    git fsck --full --strict
    git clone -q "$1" "$2"
    git -C "$2" fsck --full
    diff -r -x .git "$1" "$2"
    git gc -q; git fsck --full
    test -z "$(git status --porcelain)"
    ./run.sh
    """
    output = run("bash", "-euc", script, "bash", repository, clone, **git)
    assert output.splitlines()[-1] == "ran"
    assert "error" not in output
    assert "fatal" not in output
    world.mount.sync()
    outside = world.local() / "outside"
    run("git", "clone", "-q", repository, outside, **git)
    run("diff", "-r", "-x", ".git", repository, outside)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_keeps_a_database(world: Standing, space: Namespace, mode: str) -> None:
    """SQLite keeps transactions, a rollback and its integrity, with a second process reading meanwhile."""
    path = space.path / "data.db"
    with sqlite3.connect(path, isolation_level=None) as base:
        assert base.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        base.execute("pragma synchronous=off")  # each fsync would be a request: here the locks matter
        base.execute("create table t (n integer primary key, text)")
        for start in range(0, 300, 100):
            base.execute("begin")
            base.executemany("insert into t values (?, ?)", [(start + n, "x" * 50) for n in range(100)])
            base.execute("commit")
        base.execute("begin")
        base.execute("delete from t")
        base.execute("rollback")
        count = run("sqlite3", path, "select count(*) from t; insert into t values (1000, 'second');")
        assert count.strip() == "300"
        assert base.execute("select text from t where n = 1000").fetchone() == ("second",)
        base.execute("pragma synchronous=full")
        base.execute("update t set text = 'safe' where n = 1")
    base.close()
    assert run("sqlite3", path, "pragma integrity_check; select count(*) from t;").split() == ["ok", "301"]
    world.mount.sync()
    stored = world.local() / "stored.db"
    stored.write_bytes(world.api.get(space.id, "data.db") or b"")
    assert run("sqlite3", stored, "pragma integrity_check; select text from t where n = 1").split() == [
        "ok",
        "safe",
    ]
    assert set(world.api.keys(space.id)) == {"data.db"}


_PYTHON = """
import os, pathlib, pickle, shelve, shutil, sys, tempfile, zipfile
here, tree = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
shutil.copytree(tree, here / "copied")
shutil.copy2(tree / "script.sh", here / "copied.sh")
assert (here / "copied.sh").stat().st_mtime == int((tree / "script.sh").stat().st_mtime)
shutil.move(here / "copied", here / "moved")
archive = shutil.make_archive(str(here / "packed"), "zip", here / "moved", "d1")
shutil.unpack_archive(archive, here / "unpacked")
assert (here / "unpacked/d1/b1.bin").read_bytes() == (tree / "d1/b1.bin").read_bytes()
assert sorted(p.name for p in (here / "moved").rglob("*")) == sorted(p.name for p in tree.rglob("*"))
shutil.rmtree(here / "moved"); shutil.rmtree(here / "unpacked")
with tempfile.TemporaryDirectory(dir=here) as name:
    (pathlib.Path(name) / "x").write_text("x")
with tempfile.NamedTemporaryFile(dir=here) as file:
    file.write(b"abc"); file.flush()
    assert pathlib.Path(file.name).read_bytes() == b"abc"
with tempfile.TemporaryFile(dir=here) as file:
    file.write(b"abc"); file.seek(0)
    assert file.read() == b"abc"
with tempfile.SpooledTemporaryFile(max_size=10, dir=here) as file:
    file.write(b"x" * 100); file.seek(0)
    assert len(file.read()) == 100
with shelve.open(str(here / "shelf")) as shelf:
    shelf["a"] = [1, 2]
with shelve.open(str(here / "shelf")) as shelf:
    assert shelf["a"] == [1, 2]
path = here / "p"
path.write_text("é\\n"); path.rename(here / "q"); (here / "q").replace(here / "copied.sh")
(here / "r").touch(); (here / "r").touch(exist_ok=True)
(here / "a/b/c").mkdir(parents=True, exist_ok=True)
assert sorted(p.name for p in here.glob("[a-r]*")) == ["a", "copied.sh", "packed.zip", "r"]
"""


def test_python_copies_moves_packs_and_makes_temporary_files(
    world: Standing, space: Namespace, tmp_path: Path
) -> None:
    """shutil, pathlib, tempfile, shelve and zipfile work, and temporary files are not sent."""
    run(sys.executable, "-c", _PYTHON, space.path, some_tree(tmp_path))
    world.mount.sync()
    keys = {key for key in world.api.keys(space.id) if not key.startswith("shelf")}
    assert keys == {"copied.sh", "packed.zip", "r"}


def test_shell_habits(world: Standing, space: Namespace) -> None:
    """Redirections, pipes, split and cat, sort onto itself, tee -a, dd, here-documents, mktemp and install work."""
    world.mount.shell(
        f"""
        cd {space.path}
        seq 1000 > numbers; shuf numbers > shuffled
        sort -n -o shuffled shuffled; cmp numbers shuffled
        split -l 100 numbers part.; cat part.* > joined; cmp numbers joined; rm part.*
        echo one | tee -a log > /dev/null; echo two | tee -a log > /dev/null; echo three >> log
        test "$(cat log)" = "$(printf 'one\\ntwo\\nthree')"
        {{ echo a; echo b >&2; }} > both 2>&1; test "$(wc -l < both)" = 2
        cat > here <<-END
		text
		END
        test "$(cat here)" = text
        exec 3<> updown; echo hello >&3; exec 3>&-; test "$(cat updown)" = hello
        : > here; test ! -s here; test -e here
        set -o noclobber; ! echo no > log; set +o noclobber
        echo abcdef > patched; printf XY | dd of=patched bs=1 seek=2 conv=notrunc status=none
        test "$(cat patched)" = abXYef
        truncate -s 3 patched; test "$(cat patched)" = abX
        name=$(mktemp ./tmp.XXXXXX); echo x > $name; mv $name renamed
        install -m 755 -D /bin/true bin/true; bin/true
        head -c 100000 /dev/urandom > random; dd if=random of=copy bs=4k status=none; cmp random copy
        awk 'NR % 2' numbers | xargs -n 50 echo > odd; test "$(wc -l < odd)" = 10
        diff numbers joined; printf 'a\\nb\\n' > a; printf 'a\\nc\\n' > b
        ! diff -u a b > change.patch; patch -s a change.patch; cmp a b
        touch -d @981173106 old; test old -ot log; test "$(stat -c %Y old)" = 981173106
        ls -la > /dev/null; wc -c * > /dev/null 2>&1 || true
        """
    )
    world.mount.sync()
    assert world.api.get(space.id, "log") == b"one\ntwo\nthree\n"
    assert world.api.get(space.id, "renamed") == b"x\n"
    assert not any(key.startswith(("tmp.", "part.")) for key in world.api.keys(space.id))


_C = """
#include <stdio.h>
#include "greeting.h"
int main(void) { puts(GREETING); return 0; }
"""
_MAKEFILE = "hello: main.o\n\t$(CC) -o $@ $^\nmain.o: main.c greeting.h\n\t$(CC) -c main.c\n"


def test_a_c_program_is_built_and_runs(world: Standing, space: Namespace) -> None:
    """make builds only files that are out of date, and the result is executable."""
    (space.path / "main.c").write_text(_C)
    (space.path / "greeting.h").write_text('#define GREETING "hello"\n')
    (space.path / "Makefile").write_text(_MAKEFILE)
    run("make", cwd=space.path)
    assert run("./hello", cwd=space.path) == "hello\n"
    assert "up to date" in run("make", cwd=space.path)
    world.mount.sync()
    time.sleep(1.1)  # times are whole seconds
    (space.path / "greeting.h").write_text('#define GREETING "changed"\n')
    assert "-c main.c" in run("make", cwd=space.path)
    assert run("./hello", cwd=space.path) == "changed\n"


def test_modes_survive_a_remount(tmp_path: Path) -> None:
    """chmod +x, times and empty directories are there again after umount and mount."""
    source = f"local:{tmp_path}/store.sqlite"

    with mounted(tmp_path, source, "--write-back=0.2") as first:
        first.shell("mkdir ns; cd ns; printf '#!/bin/sh\\necho ran\\n' > s; chmod 750 s; mkdir empty")
        first.shell("touch -d @1234567890 ns/s; cp /bin/true ns/true")
        before = _listing(first)
    with mounted(tmp_path, source, "--write-back=0.2") as second:
        assert _listing(second) == before
        assert second.shell("ns/s; ns/true") == "ran\n"
        assert (second.path / "ns/empty").is_dir()


def _listing(mount: Mounted) -> str:
    return mount.shell("find ns -mindepth 1 -printf '%p %m %s %Ts\\n' | sort")


def test_tools_are_here() -> None:
    """Every tool that these tests use is installed: a missing one is a failure."""
    tools = "tar rsync git sqlite3 zip unzip gzip gcc make patch perl vim nano emacs tmux setfattr getfattr"
    tools += (
        " sed awk find xargs grep diff cmp cp mv rm du cat split sort shuf tee dd truncate install fallocate"
    )
    assert [tool for tool in tools.split(" ") if shutil.which(tool) is None] == []
