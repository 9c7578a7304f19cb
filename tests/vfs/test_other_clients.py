"""Other clients that change a key between its read by a program here and its save: nothing is lost."""

import os

import pytest
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.model import Entry, Key
from kvfs.sender.events import EventKind

READ, THEIRS, MINE = b"one\n", b"theirs\n", b"one\nmine\n"


@pytest.fixture
async def mount(tmp_path):
    """Yield a mount that keeps both versions."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="keep-both") as rig:
        yield rig


# ways to save


async def truncating(kernel):
    """Save as nano, VS Code and `cat t > f` do."""
    await kernel.write("ns/f", MINE)


async def without_truncating(kernel):
    """Save as `dd conv=notrunc` does: it writes over the content without having looked."""
    await kernel.write("ns/f", MINE, 0)


async def truncated_by_path(kernel):
    """Save by truncate(2), then a write."""
    await kernel.truncate("ns/f", 0)
    await kernel.write("ns/f", MINE, 0)


async def by_a_new_file(kernel):
    """Save as sed -i, rsync and os.replace do."""
    await kernel.write("ns/f.tmp", MINE)
    await kernel.rename("ns/f.tmp", "ns/f")


async def by_a_local_file(kernel):
    """Save as GLib does: the temporary name stays on this machine."""
    await kernel.write("ns/.goutputstream-ABCDEF", MINE)
    await kernel.rename("ns/.goutputstream-ABCDEF", "ns/f")


async def by_a_file_from_elsewhere(kernel):
    """Save by a new file that has been at the server for long."""
    await kernel.write("ns/g", MINE)
    await kernel.rename("ns/g", "ns/f")


async def with_a_backup(kernel):
    """Save as vim does: the old file is renamed away, the name made anew, the backup removed."""
    await kernel.rename("ns/f", "ns/f~")
    await kernel.write("ns/f", MINE)
    await kernel.unlink("ns/f~")


async def with_a_backup_that_stays(kernel):
    """Save as sed -i.bak does."""
    await kernel.rename("ns/f", "ns/f.bak")
    await kernel.write("ns/t", MINE)
    await kernel.rename("ns/t", "ns/f")


async def removed_and_made_anew(kernel):
    """Save as install, cp --remove-destination and git do."""
    await kernel.unlink("ns/f")
    await kernel.write("ns/f", MINE)


WAYS = [
    truncating,
    without_truncating,
    truncated_by_path,
    by_a_new_file,
    by_a_local_file,
    by_a_file_from_elsewhere,
    with_a_backup,
    with_a_backup_that_stays,
    removed_and_made_anew,
]
ways = pytest.mark.parametrize("save", WAYS, ids=lambda way: way.__name__)


# events between the other client's write and the save


async def nothing(mount):
    """Leave the old value in the caches."""


async def a_stat(mount):
    """Have the mount read the new value, to tell its size, without showing it."""
    await mount.fs.forgetting.refresh(["ns"])
    assert (await mount.kernel.stat("ns/f")).size == len(THEIRS)


async def a_listing(mount):
    """Do `ls -l`."""
    await mount.fs.forgetting.refresh(["ns"])
    for name in await mount.kernel.listdir("ns"):
        await mount.kernel.stat(f"ns/{name}")


async def time(mount):
    """Let more time pass than the caches count."""
    mount.now.advance(600)


async def eviction(mount):
    """Forget the old value, so that a save may load the new one."""
    mount.reading.values.forget(mount.namespace)


betweens = pytest.mark.parametrize(
    "between", [nothing, a_stat, a_listing, time, eviction], ids=lambda between: between.__name__
)


async def values(mount) -> list[bytes]:
    """Return what the server has, in any order."""
    return sorted(entry.value for entry in (await mount.stored()).values())


@ways
@betweens
async def test_both_versions_are_kept_however_a_program_saves(mount, kernel, autojump_clock, save, between):
    """Both versions are kept however a program saves: theirs under the name, with an event."""
    await mount.other("f", READ)
    assert await kernel.read("ns/f") == READ
    await mount.other("f", THEIRS)
    await between(mount)
    await save(kernel)
    await mount.drain()
    found = await mount.stored()
    assert found["f"].value == THEIRS
    assert MINE in {entry.value for entry in found.values()}
    assert EventKind.CONFLICT in {event.kind for event in mount.events}


@ways
@betweens
async def test_what_nobody_else_changed_is_saved_under_its_name(mount, kernel, autojump_clock, save, between):
    """A save of a file that nobody else changed makes no conflict and no copy, whatever the caches have meanwhile."""
    await mount.other("f", READ)
    assert await kernel.read("ns/f") == READ
    if between not in (a_stat,):
        await between(mount)
    await save(kernel)
    await mount.drain()
    found = await mount.stored()
    assert found["f"].value == MINE
    assert set(found) <= {"f", "f.bak"}
    assert mount.events == []


@ways
async def test_a_second_save_is_compared_with_the_first(mount, kernel, autojump_clock, save):
    """A second save is compared with the first, also after that has left the journal and the caches."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await save(kernel)
    await mount.drain()
    mount.reading.values.forget(mount.namespace)
    await kernel.write("ns/f", b"second")
    await mount.drain()
    assert (await mount.stored())["f"].value == b"second"
    assert mount.events == []
    await mount.other("f", THEIRS)
    await kernel.write("ns/f", b"third")
    await mount.drain()
    assert (await mount.stored())["f"].value == THEIRS


@ways
async def test_what_was_read_before_it_was_sent_is_nothing_that_the_server_has(
    mount, kernel, autojump_clock, save
):
    """A value read here and saved over before it is sent is compared with the server's earlier value."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await kernel.write("ns/f", b"unsent")
    assert await kernel.read("ns/f") == b"unsent"
    await save(kernel)
    await mount.drain()
    found = await mount.stored()
    assert found["f"].value == MINE
    assert set(found) <= {"f", "f.bak"}
    assert mount.events == []


@ways
async def test_the_same_bytes_are_no_conflict(mount, kernel, autojump_clock, save):
    """Equal bytes, a change that both made alike, are no conflict."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", MINE)
    await save(kernel)
    await mount.drain()
    assert (await mount.stored())["f"].value == MINE
    assert [event.kind for event in mount.events if event.copy] == []


@pytest.mark.parametrize(
    "save", [truncating, by_a_new_file, removed_and_made_anew], ids=lambda way: way.__name__
)
async def test_what_nobody_here_has_read_is_written_over(mount, kernel, autojump_clock, save):
    """`>` and `mv` overwrite a value that nobody here has read, and a stat in between makes no reader."""
    await mount.other("f", READ)
    await kernel.stat("ns/f")
    await mount.other("f", THEIRS)
    await save(kernel)
    await mount.drain()
    assert (await mount.stored())["f"].value == MINE
    assert mount.events == []


async def test_an_append_has_what_it_appends_to(mount, kernel, autojump_clock):
    """`>>` to the newest value contains it, so it is no conflict, though nobody read it."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await mount.fs.forgetting.refresh(["ns"])
    await append(kernel, b"mine\n")
    await mount.drain()
    assert await values(mount) == [THEIRS + b"mine\n"]
    assert mount.events == []


async def append(kernel, data):
    """Do `printf >> f`."""
    file = await kernel.open("ns/f", os.O_WRONLY | os.O_APPEND)
    try:
        await kernel.pwrite(file, 0, data)
    finally:
        await kernel.close(file)


async def test_an_append_to_an_old_value_is_a_conflict(mount, kernel, autojump_clock):
    """`>>` to an old value from the caches is a conflict."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await append(kernel, b"mine\n")
    await mount.drain()
    assert await values(mount) == [MINE, THEIRS]


@pytest.mark.parametrize("change", ["setxattr", "utimens", "truncate"])
async def test_changes_of_attributes_and_size_are_compared(mount, kernel, autojump_clock, change):
    """Changes of attributes and size are compared, because KV takes them only with the value, which could be old."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    if change == "setxattr":
        await kernel.setxattr("ns/f", "user.a", b"1")
    elif change == "utimens":
        await kernel.utimens("ns/f", int(mount.now()) + 3600)
    else:
        await kernel.truncate("ns/f", 1)
    await mount.drain()
    assert (await mount.stored())["f"] == Entry(THEIRS)
    assert len(await mount.stored()) == 2


async def test_an_attribute_of_the_newest_value_is_no_conflict(mount, kernel, autojump_clock):
    """An attribute of the newest value is no conflict, because its content stays, and nobody need have read it."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await mount.fs.forgetting.refresh(["ns"])
    await kernel.setxattr("ns/f", "user.a", b"1")
    await mount.drain()
    assert await mount.stored() == {"f": Entry(THEIRS, b'{"a":1}')}
    assert mount.events == []


# renames


async def test_a_rename_leaves_what_it_did_not_move(mount, kernel, autojump_clock):
    """A rename moves the old value, and theirs stays and shows under the old name."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await kernel.rename("ns/f", "ns/g")
    await mount.drain()
    assert await mount.stored() == {"f": Entry(THEIRS), "g": Entry(READ)}
    assert sorted(await kernel.listdir("ns")) == ["f", "g"]
    assert await kernel.read("ns/f") == THEIRS


async def test_a_rename_of_a_directory_leaves_what_it_did_not_move(mount, kernel, autojump_clock):
    """A rename of a directory leaves the one of many files that another client changed."""
    for name in "abc":
        await mount.other(f"d/{name}", READ)
    for name in "abc":
        await kernel.read(f"ns/d/{name}")
    await mount.other("d/b", THEIRS)
    await kernel.rename("ns/d", "ns/e")
    await mount.drain()
    assert await mount.stored() == {
        "d/b": Entry(THEIRS), "e/a": Entry(READ), "e/b": Entry(READ), "e/c": Entry(READ)
    }  # fmt: skip
    assert await kernel.listdir("ns/d") == ["b"]


async def test_there_and_back_is_compared_with_what_was_read(mount, kernel, autojump_clock):
    """`mv f g; mv g f` is compared with the value that was read."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await kernel.rename("ns/f", "ns/g")
    await kernel.rename("ns/g", "ns/f")
    await mount.drain()
    assert (await mount.stored())["f"] == Entry(THEIRS)
    assert await values(mount) == [READ, THEIRS]


async def test_a_backup_of_a_newer_value_does_not_hide_it(mount, kernel, autojump_clock):
    """A newer value that an editor moved unseen to its backup is not lost when the backup is removed."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await mount.fs.forgetting.refresh(["ns"])
    await with_a_backup(kernel)
    await mount.drain()
    assert await values(mount) == [MINE, THEIRS]


# new names


async def made(kernel):
    """Make a name by `>`."""
    await kernel.write("ns/f", MINE)


async def made_exclusively(kernel):
    """Make a name with O_EXCL."""
    await kernel.write("ns/f", MINE, os.O_CREAT | os.O_EXCL)


async def made_by_a_rename(kernel):
    """Make a name by mv t f."""
    await kernel.write("ns/t", MINE)
    await kernel.rename("ns/t", "ns/f")


@pytest.mark.parametrize("make", [made, made_exclusively, made_by_a_rename], ids=lambda way: way.__name__)
async def test_a_name_that_another_client_made_meanwhile_is_kept_twice(mount, kernel, autojump_clock, make):
    """A name that another client made meanwhile, unknown here, is kept in both versions."""
    assert await kernel.listdir("ns") == []
    await mount.other("f", THEIRS)
    await make(kernel)
    await mount.drain()
    assert (await mount.stored())["f"] == Entry(THEIRS)
    assert await values(mount) == [MINE, THEIRS]


async def test_a_removed_file_is_removed_whatever_it_is(mount, kernel, autojump_clock):
    """`rm` removes a file whatever its content is."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await kernel.unlink("ns/f")
    await mount.drain()
    assert await mount.stored() == {}
    assert mount.events == []


async def test_what_was_read_is_remembered_by_the_journal(mount, kernel, autojump_clock):
    """After a crash the journal still knows what was read of a removed file, so the name made anew is compared."""
    await mount.other("f", READ)
    await kernel.read("ns/f")
    await mount.other("f", THEIRS)
    await kernel.unlink("ns/f")
    mount.restart()
    await mount.kernel.write("ns/f", MINE)
    await mount.drain()
    assert (await mount.stored())["f"] == Entry(THEIRS)


async def test_a_mount_that_overwrites_keeps_nothing_in_mind(tmp_path, autojump_clock):
    """With `--on-conflict=overwrite` nothing is compared, and nothing is remembered."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="overwrite") as mount:
        await mount.other("f", READ)
        await mount.kernel.read("ns/f")
        await mount.other("f", THEIRS)
        await by_a_new_file(mount.kernel)
        await mount.drain()
        assert await mount.stored() == {"f": Entry(MINE)}
        assert mount.store.count("bulk_get") == 1  # the read
        assert Key("f") not in {key for _, key in mount.reading.overlay.last_seen._values}
