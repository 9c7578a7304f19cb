"""Ordinary tools in a mount, used as people use them; what they did is what the server holds."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import Mounted, mounted
from support.standing import Namespace, Standing, standing

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def world() -> Iterator[Standing]:
    """Values are sent soon, so that tools and sending meet."""
    with standing("--cache-ttl=60", "--settle=1", "--write-back=0.5", "--timeout=15") as world:
        yield world


@pytest.fixture
def space(world: Standing) -> Namespace:
    """An empty namespace."""
    return world.namespace()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some three hundred files: text, binaries, an empty one, odd names, an executable, old times."""
    dice, top = random.Random(7), tmp_path_factory.mktemp("tools") / "tree"
    for number in range(240):
        path = top / f"d{number % 7}" / f"e{number % 3}" / f"f{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"line {number}\n" * dice.randrange(1, 300))
    for number in range(40):
        (top / f"d{number % 7}" / f"b{number}.bin").write_bytes(dice.randbytes(dice.randrange(1, 60_000)))
    for name in (
        "empty",
        "with space",
        "über",
        "per%cent",
        "new\nline",
        "-dash",
        "foo%20bar",
        "a:b",
        "x" * 255,
    ):
        (top / name).write_text("" if name == "empty" else f"{name}\n")
    (top / "script.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "script.sh").chmod(0o755)
    for path in top.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000 + dice.randrange(10_000_000)))
    return top


def _run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(os.environ) | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _same(one: Path, other: Path) -> None:
    """Contents, modes and times of two trees agree."""
    assert _run("diff", "-r", one, other) == ""
    listing = ("find", ".", "-type", "f", "-printf", "%P %m %s %Ts\\n")
    here, there = (_run(*listing, cwd=top).splitlines() for top in (one, other))
    assert sorted(here) == sorted(there)


# copying, moving, removing


def test_cp_a_copies_everything_and_rm_r_removes_it(world: Standing, space: Namespace, tree: Path) -> None:
    """cp -a in, find, du and grep -r over it, cp -a beside it and out again, rm -r: all agree."""
    top = space.path / "tree"
    assert _run("cp", "-a", tree, top) == ""
    _same(tree, top)
    count = len(_run("find", tree, "-type", "f", "-print0").split("\0")) - 1
    assert len(_run("find", top, "-type", "f", "-print0").split("\0")) - 1 == count
    assert _run("find", top, "-type", "f", "-size", "+10k", "-printf", ".") == _run(
        "find", tree, "-type", "f", "-size", "+10k", "-printf", "."
    )
    apparent = ["du", "--apparent-size", "-B1", "-s"]
    files = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert int(_run(*apparent, top).split()[0]) == files
    assert sorted(_run("grep", "-rl", "line 13", ".", cwd=top).splitlines()) == sorted(
        _run("grep", "-rl", "line 13", ".", cwd=tree).splitlines()
    )
    _run("cp", "-a", top, space.path / "second")
    out = world.local() / "out"
    _run("cp", "-a", space.path / "second", out)
    _same(tree, out)
    world.mount.sync()
    keys = world.api.keys(space.id)
    assert len(keys) == 2 * count
    assert "tree/über" in keys
    assert world.api.get(space.id, "second/script.sh") == b"#!/bin/sh\necho ran\n"
    _run("rm", "-r", top, space.path / "second")
    world.mount.sync()
    assert world.api.keys(space.id) == {}
    assert os.listdir(space.path) == []


def test_mv_within_a_namespace(world: Standing, space: Namespace, tree: Path) -> None:
    """Files and whole directories change names; values, metadata, expirations, modes and times go along."""
    _run("cp", "-a", tree, space.path / "tree")
    path = space.path / "tree/d1/e0/f15.txt"
    os.setxattr(path, "user.colour", b"red")
    expires = int(time.time()) + 5000
    os.setxattr(path, "user.kvfs.expiration", str(expires).encode())
    (space.path / "deep").mkdir()
    _run("mv", space.path / "tree", space.path / "deep/er")
    assert os.listdir(space.path) == ["deep"]
    moved = space.path / "deep/er/d1/e0/f15.txt"
    assert os.getxattr(moved, "user.colour") == b"red"
    assert moved.stat().st_mtime == expires
    os.utime(moved, (tree / "d1/e0/f15.txt").stat()[7:9])
    _same(tree, space.path / "deep/er")
    _run("mv", moved, space.path / "single")
    world.mount.sync()
    keys = world.api.keys(space.id)
    assert keys["single"]["metadata"] == {"colour": "red"}
    assert all(key == "single" or key.startswith("deep/er/") for key in keys)


def _decorated(world: Standing, space: Namespace) -> int:
    """Two keys with metadata and expiration on the server, and a plain one."""
    expires = int(time.time()) + 9000
    metadata = {"author": "ada", "n": 3, "nested": {"a": [1, None]}, "quoted": "17"}
    world.api.bulk_put(
        space.id,
        [
            {"key": "d/one", "value": "first", "metadata": metadata, "expiration": expires},
            {"key": "d/two", "value": "second", "metadata": "no object"},
            {"key": "d/plain", "value": "third"},
        ],
    )
    world.mount.kvfs("refresh", str(space.path))
    return expires


def _facts(world: Standing, space: Namespace, prefix: str) -> dict[str, tuple[object, ...]]:
    world.mount.sync()
    keys = world.api.keys(space.id, prefix)
    return {
        name.removeprefix(prefix): (
            one.get("metadata"),
            one.get("expiration"),
            world.api.get(space.id, name),
        )
        for name, one in keys.items()
    }


MOVERS = {
    "mv": "mv {source} {goal}",
    "cp -a": "cp -a {source} {goal}",
    "rsync -aX": "rsync -aX {source}/ {goal}/",
    "tar --xattrs": "mkdir {goal}; tar c --xattrs -C {source} . | tar x --xattrs -C {goal}",
}


@pytest.mark.parametrize("mover", MOVERS)
def test_metadata_and_expiration_travel_between_namespaces(world: Standing, mover: str) -> None:
    """From one namespace to another, every key keeps value, metadata and expiration."""
    source, goal = world.namespace(), world.namespace()
    _decorated(world, source)
    wanted = _facts(world, source, "d/")
    command = MOVERS[mover].format(source=source.path / "d", goal=goal.path / "copied")
    done = world.mount.shell(command)
    assert "time stamp" in done or done == ""  # tar wonders at times to come
    assert _facts(world, goal, "copied/") == wanted
    assert sorted(world.api.keys(source.id)) == ([] if mover == "mv" else ["d/one", "d/plain", "d/two"])


@pytest.mark.parametrize("mover", ["cp -a", "rsync -aX", "tar --xattrs"])
def test_metadata_and_expiration_travel_to_a_local_disk_and_back(world: Standing, mover: str) -> None:
    """A local file system with user.* attributes holds everything meanwhile."""
    source, goal = world.namespace(), world.namespace()
    _decorated(world, source)
    wanted = _facts(world, source, "d/")
    local = world.local() / "held"
    world.mount.shell(MOVERS[mover].format(source=source.path / "d", goal=local))
    assert os.getxattr(local / "one", "user.author") == b"ada"
    world.mount.shell(MOVERS[mover].format(source=local, goal=goal.path / "back"))
    assert _facts(world, goal, "back/") == wanted


def test_a_second_rsync_copies_nothing(world: Standing, space: Namespace, tree: Path) -> None:
    """rsync -a compares sizes and times: after a copy it has nothing to do, also when all was sent."""
    goal = space.path / "tree"
    assert len(_run("rsync", "-a", "--itemize-changes", f"{tree}/", goal).splitlines()) > 280
    _same(tree, goal)
    assert _run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{goal}/") == ""
    world.mount.sync()
    counts = world.counts()
    assert _run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{goal}/") == ""
    out = world.local() / "out"
    _run("rsync", "-a", f"{goal}/", f"{out}/")
    assert _run("rsync", "-a", "--itemize-changes", f"{goal}/", f"{out}/") == ""
    world.mount.sync()
    assert counts.writes() == counts.deletes() == 0
    (tree / "d0/b0.bin").write_bytes(b"changed")
    changed = _run("rsync", "-a", "--inplace", "--itemize-changes", f"{tree}/", f"{goal}/").splitlines()
    assert [line.split()[-1] for line in changed] == ["d0/b0.bin"]
    assert _run("rsync", "-a", "--delete", "--itemize-changes", "--exclude=d0", f"{tree}/", f"{goal}/") == ""
    world.mount.sync()
    assert {key for key in world.api.keys(space.id) if "/." in key} == set()


def test_tar_and_zip_pack_and_unpack(world: Standing, space: Namespace, tree: Path) -> None:
    """tar and zip files made in the mount, of the mount, unpack in the mount to the same."""
    _run("cp", "-a", tree, space.path / "tree")
    assert _run("tar", "czf", "all.tgz", "tree", cwd=space.path) == ""
    _run("tar", "xzf", "all.tgz", "--one-top-level=untarred", "--strip-components=1", cwd=space.path)
    _same(tree, space.path / "untarred")
    _run("zip", "-qr", "all.zip", "tree/d1", "tree/script.sh", cwd=space.path)
    _run("unzip", "-q", "all.zip", "-d", "unzipped", cwd=space.path)
    _same(tree / "d1", space.path / "unzipped/tree/d1")
    assert _run(space.path / "unzipped/tree/script.sh") == "ran\n"
    _run("gzip", "-k", "tree/d1/b1.bin", cwd=space.path)
    assert _run("zcmp", "tree/d1/b1.bin.gz", tree / "d1/b1.bin", cwd=space.path) == ""


# programs with files of their own


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
    output = _run("bash", "-euc", script, "bash", repository, clone, **git)
    assert output.splitlines()[-1] == "ran"
    assert "error" not in output
    assert "fatal" not in output
    world.mount.sync()
    outside = world.local() / "outside"
    _run("git", "clone", "-q", repository, outside, **git)
    _run("diff", "-r", "-x", ".git", repository, outside)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_keeps_a_database(world: Standing, space: Namespace, mode: str) -> None:
    """Transactions, a rollback and an integrity check, with a second process reading meanwhile."""
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
        count = _run("sqlite3", path, "select count(*) from t; insert into t values (1000, 'second');")
        assert count.strip() == "300"
        assert base.execute("select text from t where n = 1000").fetchone() == ("second",)
        base.execute("pragma synchronous=full")
        base.execute("update t set text = 'safe' where n = 1")
    base.close()
    assert _run("sqlite3", path, "pragma integrity_check; select count(*) from t;").split() == ["ok", "301"]
    world.mount.sync()
    stored = world.local() / "stored.db"
    stored.write_bytes(world.api.get(space.id, "data.db") or b"")
    assert _run("sqlite3", stored, "pragma integrity_check; select text from t where n = 1").split() == [
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
assert sorted(p.name for p in here.glob("[a-r]*")) == ["a", "copied.sh", "packed.zip", "r"], list(here.iterdir())
"""


def test_python_copies_moves_packs_and_makes_temporary_files(
    world: Standing, space: Namespace, tree: Path
) -> None:
    """shutil, pathlib, tempfile, shelve and zipfile work, and what was temporary is not sent."""
    _run(sys.executable, "-c", _PYTHON, space.path, tree)
    world.mount.sync()
    keys = {key for key in world.api.keys(space.id) if not key.startswith("shelf")}
    assert keys == {"copied.sh", "packed.zip", "r"}


def test_shell_habits(world: Standing, space: Namespace) -> None:
    """Redirections, pipes, split and cat, sort onto itself, tee -a, dd, here-documents, mktemp, install."""
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
        touch -d '2001-02-03 04:05:06' old; test old -ot log; test "$(stat -c %Y old)" = "$(date -d '2001-02-03 04:05:06' +%s)"
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
    """make builds what is out of date and only that; the result is executable."""
    (space.path / "main.c").write_text(_C)
    (space.path / "greeting.h").write_text('#define GREETING "hello"\n')
    (space.path / "Makefile").write_text(_MAKEFILE)
    _run("make", cwd=space.path)
    assert _run("./hello", cwd=space.path) == "hello\n"
    assert "up to date" in _run("make", cwd=space.path)
    world.mount.sync()
    time.sleep(1.1)  # times are whole seconds
    (space.path / "greeting.h").write_text('#define GREETING "changed"\n')
    assert "-c main.c" in _run("make", cwd=space.path)
    assert _run("./hello", cwd=space.path) == "changed\n"


def test_modes_survive_a_remount(tmp_path: Path) -> None:
    """chmod +x, times and empty directories are there again after umount and mount."""
    source = f"local:{tmp_path}/store.sqlite"

    def mount() -> "object":
        return mounted(tmp_path, source, "--write-back=0.2")

    with mounted(tmp_path, source, "--write-back=0.2") as first:
        first.shell("mkdir ns; cd ns; printf '#!/bin/sh\\necho ran\\n' > s; chmod 750 s; mkdir empty")
        first.shell("touch -d @1234567890 ns/s; cp /bin/true ns/true")
        before = _listing(first)
    with mounted(tmp_path, source, "--write-back=0.2") as second:
        assert _listing(second) == before
        assert second.shell("ns/s; ns/true") == "ran\n"
        assert (second.path / "ns/empty").is_dir()


def _listing(mount: Mounted) -> str:
    return mount.shell("find ns -printf '%p %m %s %Ts\\n' | sort")


def test_tools_are_here() -> None:
    """Every tool that these tests use is installed: a missing one is a failure."""
    tools = "cp mv rm find du grep tar rsync git sqlite3 zip unzip gcc make patch vim nano emacs tmux".split()
    assert [tool for tool in tools if shutil.which(tool) is None] == []
