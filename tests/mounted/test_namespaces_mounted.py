"""Namespaces as directories, through the kernel, with any titles and any makers."""

import os
import time

import pytest
from support.standing import Standing, errno_of, wait_for

pytestmark = pytest.mark.fuse

OPTIONS = ("--cache-ttl=0.5", "--settle=0.5", "--write-back=0.2", "--timeout=10")
"""Forgets soon, so that namespaces of others show."""

ODD = [
    "team/site",
    "/",
    "a//b/",
    ".kvfs",
    ".",
    "..",
    "%",
    "%2F",
    "%2Ekvfs",
    "über alles",
    "a\nb",
    " ",
    "0" * 32,
]
TITLES = [*ODD, "x" * 255, "x" * 256, "é" * 512, "/" * 512]


def test_every_title_is_a_directory(world: Standing) -> None:
    """A title with slashes, dots, a reserved name, another's id, or 512 characters has one directory, which works."""
    made = {title: world.api.result("POST", "", json={"title": title})["id"] for title in TITLES}
    world.mount.kvfs("refresh", str(world.mount.path))
    wait_for(lambda: len(os.listdir(world.mount.path)) == len(TITLES))
    for name in os.listdir(world.mount.path):
        directory = world.mount.path / name
        (directory / "key").write_text(name)
        found = os.getxattr(directory, "user.kvfs.namespace_id").decode()
        assert found in made.values()
    world.mount.sync()
    values = {title: (world.api.get(id_, "key") or b"").decode() for title, id_ in made.items()}
    assert values["team/site"] == "team%2Fsite"
    assert values[".kvfs"] == "%2Ekvfs"
    assert values["%2Ekvfs"] == "%252Ekvfs"
    assert values["."] == "%2E"
    assert values["x" * 255] == "x" * 255
    assert values["é" * 512] == made["é" * 512]
    assert values["/" * 512] == made["/" * 512]
    assert len(set(values.values())) == len(TITLES)
    for name in os.listdir(world.mount.path):
        (world.mount.path / name / "key").unlink()
        (world.mount.path / name).rmdir()
    assert not world.api.titles() & set(TITLES)


def test_namespaces_of_others_come_and_go(world: Standing) -> None:
    """A namespace made, renamed or deleted elsewhere shows so after the cache time, with its keys."""
    top = world.mount.path
    namespace = world.api.result("POST", "", json={"title": "theirs"})["id"]
    world.api.put(namespace, "k", b"v")
    wait_for(lambda: (top / "theirs/k").exists())
    world.api.result("PUT", f"/{namespace}", json={"title": "renamed"})
    wait_for(lambda: not (top / "theirs").exists() and (top / "renamed").exists())
    assert (top / "renamed/k").read_bytes() == b"v"
    world.api.result("DELETE", f"/{namespace}")
    wait_for(lambda: "renamed" not in os.listdir(top))
    wait_for(lambda: not (top / "renamed").exists())


def test_a_namespace_that_others_fill_is_not_removed(world: Standing) -> None:
    """rmdir asks the server, whatever the caches say, so a namespace that others fill stays."""
    space = world.namespace()
    assert os.listdir(space.path) == []
    world.api.put(space.id, "late", b"x")
    assert errno_of(os.rmdir, space.path) == "ENOTEMPTY"
    wait_for(lambda: os.listdir(space.path) == ["late"])


def test_a_title_that_others_took_is_taken(world: Standing) -> None:
    """mkdir and mv give EEXIST for a title that others took, also of a namespace that this mount has not seen yet."""
    space = world.namespace()
    os.listdir(world.mount.path)
    world.api.result("POST", "", json={"title": "taken"})
    assert errno_of(os.mkdir, world.mount.path / "taken") == "EEXIST"
    assert errno_of(os.rename, space.path, world.mount.path / "taken") in ("EEXIST", "ENOTEMPTY")
    assert space.path.exists()
    time.sleep(0.6)
    assert "taken" in os.listdir(world.mount.path)
