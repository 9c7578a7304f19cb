"""Ordinary tools in a mount, used as people use them: the server holds what they did."""

import os
import time
from pathlib import Path

import pytest
from support.standing import Namespace, Standing, run, some_tree

pytestmark = pytest.mark.fuse


OPTIONS = ("--cache-ttl=60", "--settle=1", "--write-back=0.5", "--timeout=15")
"""Values are sent soon, so that tools and sending meet."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make some three hundred files: text, binaries, an empty one, odd names, an executable, old times."""
    return some_tree(tmp_path_factory.mktemp("tools"))


def _same(one: Path, other: Path) -> None:
    """Check that contents, modes and times of two trees agree."""
    assert run("diff", "-r", one, other) == ""
    listing = ("find", ".", "-type", "f", "-printf", "%P %m %s %Ts\\n")
    here, there = (run(*listing, cwd=top).splitlines() for top in (one, other))
    assert sorted(here) == sorted(there)


# copying, moving, removing


def test_cp_a_copies_everything_and_rm_r_removes_it(world: Standing, space: Namespace, tree: Path) -> None:
    """cp -a in, find, du and grep -r over it, cp -a beside it and out again, and rm -r all agree."""
    top = space.path / "tree"
    assert run("cp", "-a", tree, top) == ""
    _same(tree, top)
    count = len(run("find", tree, "-type", "f", "-print0").split("\0")) - 1
    assert len(run("find", top, "-type", "f", "-print0").split("\0")) - 1 == count
    assert run("find", top, "-type", "f", "-size", "+10k", "-printf", ".") == run(
        "find", tree, "-type", "f", "-size", "+10k", "-printf", "."
    )
    apparent = ["du", "--apparent-size", "-B1", "-s"]
    files = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    assert int(run(*apparent, top).split()[0]) == files
    assert sorted(run("grep", "-rl", "line 13", ".", cwd=top).splitlines()) == sorted(
        run("grep", "-rl", "line 13", ".", cwd=tree).splitlines()
    )
    run("cp", "-a", top, space.path / "second")
    out = world.local() / "out"
    run("cp", "-a", space.path / "second", out)
    _same(tree, out)
    world.mount.sync()
    keys = world.api.keys(space.id)
    assert len(keys) == 2 * count
    assert "tree/über" in keys
    assert world.api.get(space.id, "second/script.sh") == b"#!/bin/sh\necho ran\n"
    run("rm", "-r", top, space.path / "second")
    world.mount.sync()
    assert world.api.keys(space.id) == {}
    assert os.listdir(space.path) == []


def test_mv_within_a_namespace(world: Standing, space: Namespace, tree: Path) -> None:
    """mv of files and whole directories keeps values, metadata, expirations, modes and times."""
    run("cp", "-a", tree, space.path / "tree")
    path = space.path / "tree/d1/e0/f15.txt"
    os.setxattr(path, "user.colour", b"red")
    expires = int(time.time()) + 5000
    os.setxattr(path, "user.kvfs.expiration", str(expires).encode())
    (space.path / "deep").mkdir()
    run("mv", space.path / "tree", space.path / "deep/er")
    assert os.listdir(space.path) == ["deep"]
    moved = space.path / "deep/er/d1/e0/f15.txt"
    assert os.getxattr(moved, "user.colour") == b"red"
    assert moved.stat().st_mtime == expires
    os.utime(moved, (tree / "d1/e0/f15.txt").stat()[7:9])
    _same(tree, space.path / "deep/er")
    run("mv", moved, space.path / "single")
    world.mount.sync()
    keys = world.api.keys(space.id)
    assert keys["single"]["metadata"] == {"colour": "red"}
    assert all(key == "single" or key.startswith("deep/er/") for key in keys)


def _decorated(world: Standing, space: Namespace) -> int:
    """Make two keys with metadata and expiration on the server, and a plain one."""
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
    """A second rsync -a, which compares sizes and times, copies nothing, also after all was sent."""
    goal = space.path / "tree"
    assert len(run("rsync", "-a", "--itemize-changes", f"{tree}/", goal).splitlines()) > 280
    _same(tree, goal)
    assert run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{goal}/") == ""
    world.mount.sync()
    counts = world.counts()
    assert run("rsync", "-a", "--itemize-changes", f"{tree}/", f"{goal}/") == ""
    out = world.local() / "out"
    run("rsync", "-a", f"{goal}/", f"{out}/")
    assert run("rsync", "-a", "--itemize-changes", f"{goal}/", f"{out}/") == ""
    world.mount.sync()
    assert counts.writes() == counts.deletes() == 0
    (tree / "d0/b0.bin").write_bytes(b"changed")
    changed = run("rsync", "-a", "--inplace", "--itemize-changes", f"{tree}/", f"{goal}/").splitlines()
    assert [line.split()[-1] for line in changed] == ["d0/b0.bin"]
    assert run("rsync", "-a", "--delete", "--itemize-changes", "--exclude=d0", f"{tree}/", f"{goal}/") == ""
    world.mount.sync()
    assert {key for key in world.api.keys(space.id) if "/." in key} == set()


def test_tar_and_zip_pack_and_unpack(world: Standing, space: Namespace, tree: Path) -> None:
    """tar and zip files made in the mount, of the mount, unpack there to an equal tree."""
    run("cp", "-a", tree, space.path / "tree")
    assert run("tar", "czf", "all.tgz", "tree", cwd=space.path) == ""
    run("tar", "xzf", "all.tgz", "--one-top-level=untarred", "--strip-components=1", cwd=space.path)
    _same(tree, space.path / "untarred")
    run("zip", "-qr", "all.zip", "tree/d1", "tree/script.sh", cwd=space.path)
    run("unzip", "-q", "all.zip", "-d", "unzipped", cwd=space.path)
    _same(tree / "d1", space.path / "unzipped/tree/d1")
    assert run(space.path / "unzipped/tree/script.sh") == "ran\n"
    run("gzip", "-k", "tree/d1/b1.bin", cwd=space.path)
    assert run("zcmp", "tree/d1/b1.bin.gz", tree / "d1/b1.bin", cwd=space.path) == ""
