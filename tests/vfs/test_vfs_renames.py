"""rename(2): files, directories, inheritance, refusals."""

import os

import pytest
from support.journals import full_disk

from kvfs.core.errors import (
    CrossDeviceError,
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    JournalFullError,
    NameTooLongError,
    NotADirectoryError_,
    NotEmptyError,
    NotFoundError,
)

TWO = b'{"k":"v"}'


def values(stored):
    """Return contents by key."""
    return {key: entry.value for key, entry in stored.items()}


async def test_a_directory_moves_with_everything_below_and_its_own_key(mount, kernel):
    """A directory moves with keys, `%self`, directories kept here and open files, and the old name is gone."""
    await mount.other("d", b"own", TWO)
    await mount.other("d/a", b"1", ahead=1000)
    await mount.other("d/s/b", b"2")
    await kernel.mkdir("/ns/d/empty")
    file = await kernel.open("/ns/d/new", os.O_CREAT | os.O_RDWR)
    await kernel.pwrite(file, 0, b"open")

    await kernel.rename("/ns/d", "/ns/e")

    assert sorted(await kernel.listdir("/ns")) == ["e"]
    assert sorted(await kernel.listdir("/ns/e")) == ["%self", "a", "empty", "new", "s"]
    await kernel.pwrite(file, 4, b"ed")
    await kernel.close(file)
    await mount.drain()
    stored = await mount.stored()
    assert values(stored) == {"e": b"own", "e/a": b"1", "e/s/b": b"2", "e/new": b"opened"}
    assert stored["e"].metadata == TWO
    assert stored["e/a"].expiration is not None


async def test_what_is_known_moves_without_waiting(mount, kernel, monkeypatch):
    """Values that were read before, or written here, move without a task of their own."""

    async def prepare(*words, **options):
        raise AssertionError("there is nothing to wait for")

    await mount.other("d/a", b"read")
    await kernel.close(await kernel.open("/ns/d/a"))
    file = await kernel.open("/ns/d/b", os.O_CREAT | os.O_WRONLY)
    await kernel.pwrite(file, 0, b"written")
    await kernel.close(file)
    monkeypatch.setattr(mount.fs.renames._moves, "prepare", prepare)
    await kernel.rename("/ns/d", "/ns/e")
    await mount.drain()
    assert values(await mount.stored()) == {"e/a": b"read", "e/b": b"written"}


async def test_a_file_created_and_not_yet_closed_moves_with_its_directory(kernel):
    """A file created and not yet closed moves with its directory, even if the journal has nothing of it."""
    await kernel.mkdir("/ns/d")
    file = await kernel.open("/ns/d/f", os.O_CREAT | os.O_WRONLY)
    await kernel.rename("/ns/d", "/ns/e")
    assert await kernel.listdir("/ns/e") == ["f"]
    assert await kernel.listdir("/ns") == ["e"]
    await kernel.close(file)
    assert await kernel.listdir("/ns/e") == ["f"]


async def test_a_crash_in_the_middle_of_sending_leaves_one_of_the_names(mount, kernel):
    """A crash during sending leaves one of the names, because puts go before the deletes that depend on them."""
    await mount.other("d/a", b"1")
    await mount.other("d/b", b"2")
    await kernel.rename("/ns/d", "/ns/e")
    mount.store.fail("bulk_delete", times=1)
    await mount.sender.send_once()
    assert set(await mount.stored()) >= {"e/a", "e/b"}
    await mount.drain()
    assert values(await mount.stored()) == {"e/a": b"1", "e/b": b"2"}


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("d", "d/x", InvalidError),
        ("d", "full", NotEmptyError),
        ("d", "f", NotADirectoryError_),
        ("f", "d", IsADirectoryError_),
        ("nothing", "x", NotFoundError),
        ("f", "nowhere/x", NotFoundError),
        ("full/x", "full", NotEmptyError),
    ],
)
async def test_what_rename_refuses(kernel, old, new, error):
    """rename refuses with the errnos of rename(2)."""
    await kernel.mkdir("/ns/d")
    await kernel.write("/ns/full/x".replace("full/x", "f"), b"")
    await kernel.mkdir("/ns/full")
    await kernel.mkdir("/ns/full/x")
    with pytest.raises(error):
        await kernel.rename(f"/ns/{old}", f"/ns/{new}")


async def test_a_directory_replaces_an_empty_one(kernel):
    """A directory replaces an empty one, as rename(2) says."""
    await kernel.mkdir("/ns/d")
    await kernel.write("/ns/d/f", b"x")
    await kernel.mkdir("/ns/e")
    await kernel.rename("/ns/d", "/ns/e")
    assert await kernel.read("/ns/e/f") == b"x"
    assert await kernel.listdir("/ns") == ["e"]


async def test_noreplace_never_replaces(mount, kernel):
    """RENAME_NOREPLACE gives EEXIST, also when only the store knows of the target."""
    await kernel.write("/ns/f", b"mine")
    await mount.other("g", b"theirs")
    mount.now.advance(61)
    with pytest.raises(ExistsError):
        await kernel.rename("/ns/f", "/ns/g", no_replace=True)
    await kernel.rename("/ns/f", "/ns/h", no_replace=True)
    assert await kernel.read("/ns/h") == b"mine"


async def test_another_namespace_is_another_device(mount, kernel):
    """Another namespace gives EXDEV, so that mv copies and deletes; a namespace's title changes at the root only."""
    await kernel.mkdir("/two")
    await kernel.write("/ns/f", b"x")
    for old, new in [("/ns/f", "/two/f"), ("/ns", "/two/ns"), ("/ns/f", "/f")]:
        with pytest.raises(CrossDeviceError):
            await kernel.rename(old, new)
    await kernel.rename("/two", "/three")
    assert sorted(await kernel.listdir("/")) == ["ns", "three"]


async def test_keys_too_long_under_the_new_name_stop_the_whole_rename(mount, kernel):
    """Keys too long under the new name give ENAMETOOLONG, and nothing is moved."""
    await mount.other("d/" + "x" * 250 + "/" + "y" * 250, b"1")
    await mount.other("d/a", b"2")
    with pytest.raises(NameTooLongError):
        await kernel.rename("/ns/d", "/ns/" + "e" * 20)
    assert await kernel.listdir("/ns") == ["d"]


async def test_what_has_no_name_under_the_new_one_stops_the_rename(mount, kernel):
    """A directory with `%self` cannot be called `.`, because KV forbids that key, so the rename stops."""
    await mount.other("d", b"own")
    await mount.other("d/a", b"1")
    with pytest.raises(InvalidError):
        await kernel.rename("/ns/d", "/ns/%2E")
    await mount.drain()
    assert set(await mount.stored()) == {"d", "d/a"}


async def test_a_file_renamed_over_another_inherits_what_it_was_not_given(mount, kernel):
    """A file renamed over another inherits metadata and expiration that it was not given, as sed -i and rsync do."""
    await mount.other("f", b"old", TWO, ahead=1000)
    expiration = (await mount.stored())["f"].expiration
    await kernel.write("/ns/tmp", b"new")
    await kernel.rename("/ns/tmp", "/ns/f")
    await mount.drain()
    entry = (await mount.stored())["f"]
    assert (entry.value, entry.metadata, entry.expiration) == (b"new", TWO, expiration)


async def test_a_file_renamed_over_another_keeps_what_it_was_given(mount, kernel):
    """A file renamed over another keeps its own metadata."""
    await mount.other("f", b"old", TWO)
    await kernel.write("/ns/tmp", b"new")
    await kernel.setxattr("/ns/tmp", "user.own", b"1")
    await kernel.rename("/ns/tmp", "/ns/f")
    await mount.drain()
    assert (await mount.stored())["f"].metadata == b'{"own":1}'


async def test_a_name_created_anew_after_its_file_was_renamed_away_inherits(mount, kernel):
    """After vim's f to f~, f anew, f~ removed, there is one PUT, and metadata and expiration are as before."""
    await mount.other("f", b"old", TWO, ahead=1000)
    before = (await mount.stored())["f"]
    await kernel.rename("/ns/f", "/ns/f~")
    await kernel.write("/ns/f", b"new")
    await kernel.unlink("/ns/f~")
    await mount.drain()
    stored = await mount.stored()
    assert values(stored) == {"f": b"new"}
    assert (stored["f"].metadata, stored["f"].expiration) == (before.metadata, before.expiration)


async def test_a_rename_that_could_not_be_recorded_gives_nothing_to_the_file(mount, kernel):
    """After ENOSPC at a rename the open file has its own attributes; the rename that works then gives it the others."""
    for name in ("f", "g"):
        await mount.other(name, b"old", TWO)
    await kernel.rename("/ns/g", "/ns/g~")
    for name in ("tmp", "new"):
        await kernel.write(f"/ns/{name}", b"new")
    files = [await kernel.open(f"/ns/{name}") for name in ("tmp", "new")]
    for old, new in (("tmp", "f"), ("new", "g")):
        with full_disk(mount.journal), pytest.raises(JournalFullError):
            await kernel.rename(f"/ns/{old}", f"/ns/{new}")
        assert await kernel.listxattr(f"/ns/{old}") == []
        await kernel.rename(f"/ns/{old}", f"/ns/{new}")
        assert await kernel.listxattr(f"/ns/{new}") == ["user.k"]
    for file in files:
        await kernel.close(file)
    await mount.drain()
    stored = await mount.stored()
    assert [stored[name].metadata for name in ("f", "g")] == [TWO, TWO]


async def test_what_was_renamed_away_long_ago_is_not_inherited(mount, kernel):
    """A minute after a file was renamed away, a new file of its name inherits nothing."""
    await mount.other("f", b"old", TWO)
    await kernel.rename("/ns/f", "/ns/g")
    mount.now.advance(61)
    await kernel.write("/ns/f", b"new")
    assert await kernel.listxattr("/ns/f") == []


async def test_an_expiration_that_has_passed_is_not_inherited(mount, kernel):
    """An expiration that has passed is not inherited, or the new file would be gone as soon as it is made."""
    await mount.other("f", b"old", TWO, ahead=70)
    mount.now.advance(50)
    await kernel.rename("/ns/f", "/ns/f~")
    mount.now.advance(25)
    await kernel.write("/ns/f", b"new")
    assert await kernel.read("/ns/f") == b"new"
    assert await kernel.getxattr("/ns/f", "user.k") == b"v"
