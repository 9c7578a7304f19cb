"""Conflicts through a mount: a program saves a file that another client changed since it was read.

Both versions are kept, by every way of saving.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.standing import Namespace, Standing, standing

pytestmark = pytest.mark.fuse

_REPLACE = (
    "import os, sys; p = sys.argv[1]; t = open(p).read(); "
    "open(p + '.tmp', 'w').write(t.replace('one', 'mine')); os.replace(p + '.tmp', p)"
)
SAVES = {
    ">>": "echo mine >> page",
    "nano": "cat page > /tmp/$$; sed -i s/one/mine/ /tmp/$$; cat /tmp/$$ > page; rm /tmp/$$",
    "sed -i": "sed -i s/one/mine/ page",
    "sed -i.bak": "sed -i.bak s/one/mine/ page",
    "perl -pi": "perl -pi -e s/one/mine/ page",
    "rsync": "cat page > /tmp/$$; echo mine >> /tmp/$$; rsync /tmp/$$ page; rm /tmp/$$",
    "GLib": "cp page .goutputstream-A; echo mine >> .goutputstream-A; mv .goutputstream-A page",
    "os.replace": f'{sys.executable} -c "{_REPLACE}" page',
    "a filter and mv": "sed s/one/mine/ page > t && mv t page",
    "install": "echo mine > /tmp/$$; install /tmp/$$ page; rm /tmp/$$",
    "cp --remove-destination": "echo mine > /tmp/$$; cp --remove-destination /tmp/$$ page; rm /tmp/$$",
    "vim": "vim -u NONE -es -c 'set backupcopy=no writebackup' -c '%s/one/mine/' -c wq page",
    "vim in place": "vim -u NONE -es -c 'set backupcopy=yes writebackup' -c '%s/one/mine/' -c wq page",
}
CALLS = {
    "mv": "mkdir -p archive; mv page archive/page",
    "mv over it": "echo other > other; mv other page",
    "cp over it": "echo other > /tmp/$$; cp /tmp/$$ page; rm /tmp/$$",
    "setfattr": "setfattr -n user.a -v 1 page",
    "touch": "touch -d '+1 hour' page",
    "truncate": "truncate -s 1 page",
    "there and back": "mv page page2; mv page2 page",
}


@pytest.fixture(scope="module")
def world() -> Iterator[Standing]:
    """A mount that sends and forgets only when it is told to."""
    with standing("--cache-ttl=600", "--settle=0", "--write-back=600", "--timeout=10") as world:
        yield world


@pytest.fixture
def here(world: Standing) -> Namespace:
    """A namespace with a page that was read here, and then changed by another client."""
    space = world.namespace()
    world.api.bulk_put(space.id, [{"key": "page", "value": "one\n"}])
    world.mount.kvfs("refresh", str(space.path))
    assert (space.path / "page").read_text() == "one\n"
    world.api.bulk_put(space.id, [{"key": "page", "value": "theirs\n"}])
    return space


def values(world: Standing, space: Namespace) -> dict[str, bytes | None]:
    """Return the values that the server has."""
    return {key: world.api.get(space.id, key) for key in world.api.keys(space.id)}


def sync(world: Standing) -> subprocess.CompletedProcess[str]:
    """Run `kvfs sync`, which may report conflicts."""
    return world.mount.kvfs("sync", str(world.mount.path), check=False)


@pytest.mark.parametrize("save", SAVES)
def test_both_versions_are_kept(world: Standing, here: Namespace, save: str) -> None:
    """Theirs stays under the name and ours goes beside it; `kvfs sync` says where, once, with status 3."""
    program = save.partition(" ")[0]
    if program in ("perl", "rsync", "vim") and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = subprocess.run(["bash", "-euc", SAVES[save]], cwd=here.path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    told = sync(world)
    assert told.returncode == 3
    assert (
        f"{here.path.name}/page: yours is {here.path.name}/page.kvfs-conflict-" in told.stdout + told.stderr
    )
    found = values(world, here)
    assert found["page"] == b"theirs\n"
    [copy] = [key for key in found if ".kvfs-conflict-" in key]
    assert b"mine" in (found[copy] or b"")
    assert sync(world).returncode == 0
    world.mount.kvfs("refresh", str(here.path))
    assert (here.path / "page").read_text() == "theirs\n"
    assert (here.path / copy).read_bytes() == found[copy]


@pytest.mark.parametrize("call", CALLS)
def test_theirs_is_kept(world: Standing, here: Namespace, call: str) -> None:
    """The other client's version is kept, whichever call writes or moves the key."""
    subprocess.run(["bash", "-euc", CALLS[call]], cwd=here.path, capture_output=True, check=True)
    assert sync(world).returncode == 3
    assert values(world, here)["page"] == b"theirs\n"
    assert len(values(world, here)) == 2


def test_a_directory_leaves_behind_what_it_did_not_move(world: Standing) -> None:
    """mv of a directory leaves a file behind that another client has changed in it."""
    space = world.namespace()
    world.api.bulk_put(space.id, [{"key": f"d/{name}", "value": "one\n"} for name in "ab"])
    world.mount.kvfs("refresh", str(space.path))
    assert [(space.path / "d" / name).read_text() for name in "ab"] == ["one\n", "one\n"]
    world.api.bulk_put(space.id, [{"key": "d/b", "value": "theirs\n"}])
    (space.path / "d").rename(space.path / "moved")
    told = sync(world)
    assert told.returncode == 3
    assert f"{space.path.name}/d/b stays" in told.stdout + told.stderr
    assert values(world, space) == {"d/b": b"theirs\n", "moved/a": b"one\n", "moved/b": b"one\n"}


@pytest.mark.parametrize(
    "make",
    [
        "echo mine > page",
        "echo mine > t; mv t page",
        "set -C; echo mine > page",
        "echo mine > t; mv -n t page",
    ],
)
def test_a_new_name_that_another_client_made_is_kept_twice(world: Standing, make: str) -> None:
    """If another client makes a name that was absent when a program looked, both versions are kept."""
    space = world.namespace()
    assert not (space.path / "page").exists()
    world.api.bulk_put(space.id, [{"key": "page", "value": "theirs\n"}])
    subprocess.run(["bash", "-euc", make], cwd=space.path, check=True)
    assert sync(world).returncode == 3
    found = values(world, space)
    assert found.pop("page") == b"theirs\n"
    assert list(found.values()) == [b"mine\n"]


def test_a_stat_is_no_reader(world: Standing, here: Namespace) -> None:
    """A stat before the save, which loads the new value after a long edit, does not make the editor a reader of it."""
    world.mount.kvfs("refresh", str(here.path))
    assert (here.path / "page").stat().st_size == len("theirs\n")
    Path(here.path / "page").write_text("mine\n")
    assert sync(world).returncode == 3
    assert sorted(filter(None, values(world, here).values())) == [b"mine\n", b"theirs\n"]


def test_the_status_tells_of_conflicts(world: Standing, here: Namespace) -> None:
    """The status says how many conflicts there are, with the latest by name, and the log has a line."""
    before = world.mount.status()["conflicts"]["count"]
    (here.path / "page").write_text("mine\n")
    sync(world)
    conflicts = world.mount.status()["conflicts"]
    assert conflicts["count"] == before + 1
    latest = conflicts["items"][-1]
    assert latest["path"] == f"{here.path.name}/page"
    assert latest["copy"].startswith(f"{here.path.name}/page.kvfs-conflict-")
    said = world.mount.kvfs("status", str(world.mount.path)).stdout
    assert f"conflicts  {conflicts['open']} open, {before + 1} since the mount" in said
    assert f"'{latest['path']}' was changed elsewhere since it was read here" in world.mount.log.read_text()
