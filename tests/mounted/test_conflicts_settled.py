"""`kvfs conflicts`: open ones are listed, compared and settled, over remounts, and each file names the other."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.quick import Done, quick
from support.standing import Namespace, Standing, standing

from kvfs.cli.exits import Exit

pytestmark = pytest.mark.fuse

OPTIONS = ("--cache-ttl=600", "--settle=0", "--write-back=600", "--timeout=10")


@pytest.fixture(scope="module")
def world() -> Iterator[Standing]:
    """A mount that sends and forgets only when it is told to."""
    with standing(*OPTIONS) as world:
        yield world


def meet(world: Standing, space: Namespace, name: str, mine: bytes, theirs: bytes) -> Path:
    """Have both clients write a value; return the path of the copy that was made."""
    world.api.bulk_put(space.id, [{"key": name, "value": "before"}])
    kvfs(world, "refresh", str(space.path))
    assert (space.path / name).read_text() == "before"
    world.api.put(space.id, name, theirs, expiration_ttl=5000)
    (space.path / name).write_bytes(mine)
    os.setxattr(space.path / name, "user.who", b"me")
    kvfs(world, "sync", str(world.mount.path))
    [copy] = [key for key in world.api.keys(space.id) if key.startswith(f"{name}.kvfs-conflict-")]
    return space.path / copy


def kvfs(world: Standing, *words: object, typed: str = "") -> Done:
    """Run a command against the mount."""
    return quick(world.mount.env, *words, typed=typed)


def listed(world: Standing) -> list[dict[str, object]]:
    """Return the open conflicts of this mount."""
    said = kvfs(world, "conflicts", "list", "--json", str(world.mount.path)).stdout
    return list(json.loads(said))


def test_a_conflict_is_listed_with_both_sizes_and_each_file_names_the_other(
    world: Standing, space: Namespace
) -> None:
    """A list has path, copy, time and sizes; `user.kvfs.conflict` leads from one side to the other."""
    copy = meet(world, space, "page", b"mine", b"theirs!")
    [item] = listed(world)
    name = f"{space.path.name}/page"
    assert (item["path"], item["copy"]) == (name, f"{space.path.name}/{copy.name}")
    assert (item["copy_size"], item["size"]) == (4, 7)
    assert os.getxattr(space.path / "page", "user.kvfs.conflict").decode() == item["copy"]
    assert os.getxattr(copy, "user.kvfs.conflict").decode() == name
    assert "user.kvfs.conflict" not in os.listxattr(copy)
    assert "1 open" in kvfs(world, "status", str(world.mount.path)).stdout
    said = kvfs(world, "conflicts", "list").stdout
    assert f"{space.path}/page  yours 4 B, theirs 7 B" in said
    copy.unlink()
    assert listed(world) == []
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(space.path / "page", "user.kvfs.conflict")


def test_diff_shows_text_by_line_and_metadata_and_expiration(world: Standing, space: Namespace) -> None:
    """`diff` shows a unified diff, metadata and expirations, and of binaries the sizes and the first difference."""
    copy = meet(world, space, "page", b"one\nmine\n", b"one\ntheirs\n")
    said = kvfs(world, "conflicts", "diff", str(space.path / "page")).stdout
    assert "-theirs\n+mine\n" in said
    assert 'metadata: theirs none, yours {"who":"me"}' in said
    assert "expiration: theirs 20" in said
    assert said == kvfs(world, "conflicts", "diff", str(copy)).stdout
    binary = meet(world, space, "binary", b"ab\xff\xfe", b"abc")
    said = kvfs(world, "conflicts", "diff", str(binary)).stdout
    assert "theirs 3 bytes, yours 4 bytes, first difference at byte 2" in said
    refused = kvfs(world, "conflicts", "diff", str(space.path / "other"))
    assert (refused.returncode, refused.stdout) == (Exit.FAILED, "")
    assert "has no open conflict" in refused.stderr
    kvfs(world, "conflicts", "keep", "theirs", str(copy), str(binary))


@pytest.mark.parametrize("side", ["page", "copy", "both"])
def test_keep_mine_makes_my_version_the_value(world: Standing, space: Namespace, side: str) -> None:
    """`keep mine` keeps my metadata without their expiration; the copy goes, and no new conflict arises."""
    copy = meet(world, space, "page", b"mine", b"theirs")
    named = {"page": [space.path / "page"], "copy": [copy], "both": [space.path / "page", copy]}[side]
    said = kvfs(world, "conflicts", "keep", "mine", *map(str, named)).stdout
    assert said == "1 conflict settled: your version is the value now\n"
    assert (space.path / "page").read_bytes() == b"mine"
    assert os.listdir(space.path) == ["page"]
    assert listed(world) == []
    assert kvfs(world, "sync", str(world.mount.path)).returncode == 0
    keys = world.api.keys(space.id)
    assert keys == {"page": {"name": "page", "metadata": {"who": "me"}}}
    assert world.api.get(space.id, "page") == b"mine"


def test_keep_mine_does_not_overwrite_what_comes_after_it_was_looked_at(
    world: Standing, space: Namespace
) -> None:
    """A version that they write after the look is a conflict again with `keep mine`, and both are kept."""
    meet(world, space, "page", b"mine", b"theirs")
    kvfs(world, "conflicts", "keep", "mine", str(space.path / "page"))
    world.api.put(space.id, "page", b"theirs again")
    assert kvfs(world, "sync", str(world.mount.path)).returncode == Exit.LEFT
    found = {world.api.get(space.id, key) for key in world.api.keys(space.id)}
    assert found == {b"mine", b"theirs again"}
    [item] = listed(world)
    assert item["path"] == f"{space.path.name}/page"
    kvfs(world, "conflicts", "keep", "theirs", str(space.path / "page"))


def test_keep_theirs_takes_the_copy_away(world: Standing, space: Namespace) -> None:
    """After `keep theirs` the name has their version, here and at the server."""
    meet(world, space, "page", b"mine", b"theirs")
    assert kvfs(world, "conflicts", "keep", "theirs", str(space.path / "page")).returncode == 0
    assert os.listdir(space.path) == ["page"]
    assert (space.path / "page").read_bytes() == b"theirs"
    kvfs(world, "sync", str(world.mount.path))
    assert set(world.api.keys(space.id)) == {"page"}


def test_all_are_settled_at_once_after_one_question(world: Standing, space: Namespace) -> None:
    """`--all` asks one question; an empty answer changes nothing, and wrong arguments are refused before it."""
    for name in ("a", "b"):
        meet(world, space, name, b"mine", b"theirs")
    refused = kvfs(world, "conflicts", "keep", "theirs")
    assert refused.returncode == Exit.USAGE
    assert "Delete it?" not in refused.stdout
    assert kvfs(world, "conflicts", "keep", "theirs", "--all", typed="\n").returncode != 0
    assert len(listed(world)) == 2
    assert "2 conflicts settled" in kvfs(world, "conflicts", "keep", "theirs", "--all", "--yes").stdout
    assert sorted(os.listdir(space.path)) == ["a", "b"]


def test_several_versions_of_mine_have_to_be_told_apart(world: Standing, space: Namespace) -> None:
    """After two conflicts of one name `keep mine` of the name asks which version is meant.

    With a copy's name it is clear.
    """
    first = meet(world, space, "page", b"mine 1", b"theirs 1")
    (space.path / "page").read_bytes()
    world.api.put(space.id, "page", b"theirs 2")
    (space.path / "page").write_bytes(b"mine 2")
    kvfs(world, "sync", str(world.mount.path))
    assert len(listed(world)) == 2
    refused = kvfs(world, "conflicts", "keep", "mine", str(space.path / "page"))
    assert "has several versions of yours" in refused.stderr
    kvfs(world, "conflicts", "keep", "mine", str(first))
    assert (space.path / "page").read_bytes() == b"mine 1"
    assert len(listed(world)) == 1
    [other] = [name for name in os.listdir(space.path) if name != "page"]
    (space.path / other).rename(space.path / "by hand")
    assert listed(world) == []
