"""Odd keys under odd names, through every call that takes a name."""

import os

import pytest

from kvfs.core.errors import (
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NameNotTextError,
    NameTooLongError,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
)

LONG = "x" * 300


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a//b", "a/%/b"),
        ("a/", "a/%"),
        ("/a", "%/a"),
        ("a/./b", "a/%2E/b"),
        ("../a", "%2E%2E/a"),
        ("a\0b", "a%00b"),
        ("%2F", "%252F"),
        ("100%", "100%"),
        (LONG, f"{'x' * 253}%+/{'x' * 47}"),
        (f"{LONG}/{LONG[:200]}", f"{'x' * 253}%+/{'x' * 47}/{'x' * 200}"),
    ],
)
async def test_a_key_is_read_changed_and_removed_by_its_path(autojump_clock, mount, kernel, key, path):
    """A key of any text is listed, read, written and removed by its one path."""
    await mount.other(key, b"value")
    where = f"/ns/{path}"
    parent, _, name = where.rpartition("/")

    assert name in await kernel.listdir(parent)
    assert await kernel.read(where) == b"value"
    assert await kernel.getxattr(where, "user.kvfs.key") == key.encode()
    await kernel.write(where, b"new")
    await mount.drain()
    assert {k: entry.value for k, entry in (await mount.stored()).items()} == {key: b"new"}
    await kernel.unlink(where)
    await mount.drain()
    assert await mount.stored() == {}


async def test_a_key_beside_keys_below_it_is_self(mount, kernel):
    """With keys `a` and `a/b`, `a` is a directory and the value of key `a` is the file `a/%self`."""
    await mount.other("a", b"own")
    await mount.other("a/b", b"below")

    assert (await kernel.stat("/ns/a")).is_directory
    assert sorted(await kernel.listdir("/ns/a")) == ["%self", "b"]
    assert await kernel.read("/ns/a/%self") == b"own"
    await kernel.write("/ns/a/%self", b"changed")
    await mount.drain()
    assert (await mount.stored())["a"].value == b"changed"


async def test_a_listing_shows_the_directory_not_the_key_beside_it(mount, kernel):
    """readdir shows the directory and not the key beside it, because a kernel that caches relies on it."""
    kernel.caching, kernel.eager = True, False
    await mount.other("a", b"own")
    await mount.other("a/b", b"below")

    assert await kernel.listdir("/ns") == ["a"]
    count = len(mount.store.calls)
    assert (await kernel.stat("/ns/a")).is_directory
    assert len(mount.store.calls) == count


async def test_the_last_key_below_leaves_self_in_its_directory(mount, kernel):
    """The directory stays after its last other entry is removed here, with `%self` in it."""
    await mount.other("a", b"own")
    await mount.other("a/b", b"below")

    await kernel.unlink("/ns/a/b")

    assert await kernel.listdir("/ns/a") == ["%self"]
    with pytest.raises(NotEmptyError):
        await kernel.rmdir("/ns/a")


async def test_self_can_be_created_in_a_directory(mount, kernel):
    """`a/%self` created where `a` is a directory is the key `a`; elsewhere the name is refused."""
    await kernel.mkdir("/ns/a")
    await kernel.write("/ns/a/%self", b"own")
    await mount.drain()

    assert set(await mount.stored()) == {"a"}
    with pytest.raises(InvalidError):
        await kernel.write("/ns/%self", b"")


async def test_a_file_that_another_client_makes_a_directory_of(mount, kernel):
    """A key pending here moves to `%self` when somebody else's key below it is learned of."""
    await kernel.write("/ns/a", b"own")
    await mount.other("a/b", b"below")
    mount.now.advance(61)

    assert (await kernel.stat("/ns/a")).is_directory
    assert await kernel.read("/ns/a/%self") == b"own"
    assert await kernel.read("/ns/a/b") == b"below"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("\udcff", NameNotTextError),
        ("n" * 256, NameTooLongError),
        ("a%+", InvalidError),
        ("%00%", None),
        ("%2E", InvalidError),
    ],
)
async def test_names_that_no_key_has_are_refused_at_create(kernel, name, error):
    """A name that is not UTF-8, too long, or not how any key's name is written is refused with an errno of its own."""
    if error is None:
        await kernel.write(f"/ns/{name}", b"")
        return
    with pytest.raises(error):
        await kernel.write(f"/ns/{name}", b"")


async def test_a_key_above_512_bytes_is_too_long(kernel):
    """ENAMETOOLONG comes from the call that would make the key."""
    await kernel.mkdir("/ns/" + "d" * 250)
    await kernel.mkdir("/ns/" + "d" * 250 + "/" + "e" * 250)
    with pytest.raises(NameTooLongError):
        await kernel.write("/ns/" + "d" * 250 + "/" + "e" * 250 + "/" + "f" * 11, b"")
    await kernel.write("/ns/" + "d" * 250 + "/" + "e" * 250 + "/" + "f" * 10, b"")


@pytest.mark.parametrize(
    ("size", "is_made"), [(509, True), (510, True), (511, False), (512, False), (513, False)]
)
async def test_a_directory_in_which_no_key_fits_is_too_long(kernel, size, is_made):
    """A directory in which no key fits gives ENAMETOOLONG, and a file of 512 bytes is made."""
    await kernel.mkdir("/ns/" + "d" * 250)
    await kernel.mkdir("/ns/" + "d" * 250 + "/" + "e" * 240)
    path = "/ns/" + "d" * 250 + "/" + "e" * 240 + "/"
    if not is_made:
        with pytest.raises(NameTooLongError):
            await kernel.mkdir(path + "f" * (size - 492))
        await kernel.write(path + "f" * 20, b"")
        return
    await kernel.mkdir(path + "f" * (size - 492))
    await kernel.write(path + "f" * (size - 492) + "/x", b"")


async def test_files_and_directories_are_told_apart(kernel):
    """Files and directories are told apart by EISDIR, ENOTDIR, EEXIST and ENOENT, as for any file system."""
    await kernel.mkdir("/ns/d")
    await kernel.write("/ns/f", b"")
    for call, error in [
        (kernel.mkdir("/ns/d"), ExistsError),
        (kernel.mkdir("/ns/f"), ExistsError),
        (kernel.unlink("/ns/d"), IsADirectoryError_),
        (kernel.rmdir("/ns/f"), NotADirectoryError_),
        (kernel.write("/ns/d", b""), IsADirectoryError_),
        (kernel.listdir("/ns/f"), NotADirectoryError_),
        (kernel.stat("/ns/f/x"), NotADirectoryError_),
        (kernel.stat("/ns/x/y"), NotFoundError),
        (kernel.open("/ns/f", os.O_CREAT | os.O_EXCL | os.O_WRONLY), ExistsError),
        (kernel.truncate("/ns/d", 0), IsADirectoryError_),
    ]:
        with pytest.raises(error):
            await call


async def test_local_names_stay_on_this_machine(autojump_clock, mount, kernel):
    """An editor's swap file is readable here, survives the daemon, and is never sent."""
    await kernel.write("/ns/.f.swp", b"swap")
    await mount.drain()
    assert await mount.stored() == {}
    assert await kernel.getxattr("/ns/.f.swp", "user.kvfs.state") == b"local"

    mount.restart()
    assert await mount.kernel.listdir("/ns") == [".f.swp"]
    await mount.kernel.rename("/ns/.f.swp", "/ns/f")
    await mount.drain()
    assert set(await mount.stored()) == {"f"}


async def test_a_local_name_on_the_server_is_an_ordinary_file(mount, kernel):
    """A key named like a backup that exists on the server is changed there."""
    await mount.other("f~", b"old")
    await kernel.write("/ns/f~", b"new")
    await mount.drain()
    assert (await mount.stored())["f~"].value == b"new"


async def test_removing_a_file_that_is_being_made_removes_what_another_client_put_there(mount, kernel):
    """rm of a file that is being made leaves nothing under its name, also if another client made it first."""
    file = await kernel.open("/ns/f", os.O_CREAT | os.O_WRONLY)
    await mount.other("f", b"theirs")
    await mount.fs.forgetting.refresh(["ns"])
    await kernel.listdir("/ns")
    await kernel.unlink("/ns/f")
    assert await kernel.listdir("/ns") == []
    await kernel.close(file)
    await mount.drain()
    assert await mount.stored() == {}


@pytest.mark.parametrize("caching", [True, False])
async def test_a_refresh_of_a_directory_includes_its_own_key(mount, kernel, caching):
    """A refresh of `d` includes `d/%self`, the directory's own key."""
    kernel.caching, kernel.eager = caching, False
    await mount.other("d", b"old")
    await mount.other("d/f", b"x")
    assert await kernel.read("/ns/d/%self") == b"old"
    await mount.other("d", b"newer")
    await mount.fs.forgetting.refresh(["ns", "d"])
    assert await kernel.read("/ns/d/%self") == b"newer"
    await mount.other("d", None)
    await mount.fs.forgetting.refresh(["ns", "d"])
    assert not await kernel.exists("/ns/d/%self")
