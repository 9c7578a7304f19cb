"""Superseded values: each leaves a version, with its content if that was at hand, and no request is made for it."""

import os

import pytest
from support.clock import Clock
from support.history import contents, large_files, versions
from support.journals import open_journal, put, shown
from support.rig import open_rig

from kvfs.core.digest import INLINE_BYTES, digest
from kvfs.core.errors import NotFoundError
from kvfs.history.version import AWAY, RENAMED
from kvfs.log.segment import segments_of

LARGE = os.urandom(INLINE_BYTES + 1)
LONG = 3600.0


def kept(mount) -> list[tuple[str, str, bytes | str]]:
    """Return everything noted so far."""
    mount.history.check_invariants()
    mount.history.close()
    return contents(mount.history.shelf.directory)


async def known(mount, kernel, key: str, value: bytes = b"old", **more) -> None:
    """Make a value at the server that a program has read."""
    await mount.other(key, value, **more)
    await kernel.read(f"/ns/{key}")


async def all_known(mount, kernel, values: dict[str, bytes]) -> None:
    """Make several values at the server that a program has read."""
    for key, value in values.items():
        await mount.other(key, value)
    for key in values:
        await kernel.read(f"/ns/{key}")


async def overwrite(kernel) -> None:
    await kernel.write("/ns/f", b"new")


async def truncate(kernel) -> None:
    await kernel.truncate("/ns/f", 1)


async def append(kernel) -> None:
    file = await kernel.open("/ns/f", os.O_WRONLY | os.O_APPEND)
    await kernel.pwrite(file, 3, b"er")
    await kernel.close(file)


async def emptied(kernel) -> None:
    await kernel.write("/ns/f", b"")


async def in_place(kernel) -> None:
    file = await kernel.open("/ns/f", os.O_RDWR)
    await kernel.pwrite(file, 0, b"n")
    await kernel.close(file)


async def unlink(kernel) -> None:
    await kernel.unlink("/ns/f")


async def replaced(kernel) -> None:
    """Replace a file as sed -i, vim and rsync do: a new file is renamed over the old one."""
    await kernel.write("/ns/temp", b"new")
    await kernel.rename("/ns/temp", "/ns/f")


async def moved_away(kernel) -> None:
    """Replace a file as Emacs, and vim with a backup, do: the old one is renamed away, and the name made anew."""
    await kernel.rename("/ns/f", "/ns/g")
    await kernel.write("/ns/f", b"new")


async def shell(kernel) -> None:
    """Replace a file as `echo new > f` of a shell does: it empties the file, closes a descriptor, and then writes."""
    file = await kernel.open("/ns/f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    await kernel.flush(file)
    await kernel.pwrite(file, 0, b"new")
    await kernel.close(file)


async def removed_first(kernel) -> None:
    """Replace a file as cp --remove-destination does."""
    await kernel.unlink("/ns/f")
    await kernel.write("/ns/f", b"new")


WAYS = {
    overwrite: "write", truncate: "write", append: "write", emptied: "write", in_place: "write", unlink: "delete",
    shell: "write", replaced: "replace", moved_away: "rename", removed_first: "delete",
}  # fmt: skip


EVERYWHERE = ("server", "pending", "settled", "large", "restarted")
CASES = [(way, place) for way in (overwrite, unlink, replaced, moved_away) for place in EVERYWHERE]
CASES += [(way, "server") for way in WAYS if (way, "server") not in CASES]


@pytest.mark.parametrize(("way", "place"), CASES)
async def test_every_way_of_superseding_leaves_a_version(mount, kernel, way, place, autojump_clock):
    """Every way of superseding leaves a version of a value that was read, is pending, sent, spooled, or restarted."""
    old = LARGE if place == "large" else b"old"
    if place == "server":
        await known(mount, kernel, "f")
    else:
        await kernel.write("/ns/f", old)
    mount.now.advance(20)
    if place == "settled":
        await mount.drain()
    if place == "restarted":
        mount.restart()
    kernel = mount.kernel
    await way(kernel)
    assert kept(mount) == [("f", WAYS[way], old)]
    (version,) = versions(mount.history.shelf.directory)
    assert (version.size, version.digest) == (len(old), digest(old))


async def test_a_large_pending_value_is_not_copied(mount, kernel):
    """The spool file of a large pending value gets another name, and is not copied."""
    await kernel.write("/ns/f", LARGE)
    (spooled,) = (path for path in mount.base.glob("journal.db.spool/*"))
    inode = spooled.stat().st_ino
    mount.now.advance(20)
    await kernel.unlink("/ns/f")
    await mount.journal.tidy()
    assert kept(mount) == [("f", "delete", LARGE)]
    assert [path.stat().st_ino for path in large_files(mount.history.shelf.directory)] == [inode]


async def test_a_version_has_metadata_expiration_mode_and_time(mount, kernel):
    """A version has metadata, expiration, mode and time, which a restore needs."""
    await known(mount, kernel, "f", metadata=b'{"a":1}', ahead=7200)
    await kernel.setattr("/ns/f", mode=0o755)
    expiration = int(mount.now()) + 7200
    mount.now.advance(20)
    await kernel.unlink("/ns/f")
    kept(mount)
    (version,) = versions(mount.history.shelf.directory)
    assert (version.metadata, version.expiration, version.mode) == (b'{"a":1}', expiration, 0o755)


async def test_changed_attributes_are_a_version_without_a_copy_of_the_content(mount, kernel, autojump_clock):
    """setfattr and touch of a file closed long ago make a version without its content, and of a new file none."""
    await known(mount, kernel, "f", metadata=b'{"a":1}')
    await kernel.setxattr("/ns/f", "user.a", b"2")
    await kernel.setxattr("/ns/f", "user.b", b"3")
    await kernel.write("/ns/new", b"x")
    await kernel.setxattr("/ns/new", "user.a", b"2")
    await mount.drain()  # sent between two of `cp -a`'s calls
    await kernel.setxattr("/ns/new", "user.b", b"3")
    mount.now.advance(20)
    await kernel.utimens("/ns/f", int(mount.now()) + 500)
    assert kept(mount) == [("f", "attributes", "="), ("f", "attributes", "=")]
    first, second = versions(mount.history.shelf.directory)
    assert (first.metadata, first.digest, first.expiration) == (b'{"a":1}', digest(b"old"), None)
    assert (second.metadata, second.expiration) == (b'{"a":2,"b":3}', None)


@pytest.mark.parametrize("way", [overwrite, emptied, unlink])
async def test_a_value_that_was_never_read_is_said_not_to_be_kept(mount, kernel, way):
    """A value that was never read is a version without content, with the listing's data, and no request is made."""
    await mount.other("f", b"never read", b'{"a":1}', 7200)
    await kernel.listdir("/ns")
    await way(kernel)
    assert kept(mount) == [("f", WAYS[way], AWAY)]
    (version,) = versions(mount.history.shelf.directory)
    assert version.metadata == b'{"a":1}'
    assert version.expiration == int(mount.now()) + 7200
    assert not [call for call in mount.store.calls if "get" in str(call)]


async def test_rm_r_of_a_directory_and_its_namespace(mount, kernel):
    """rm -r leaves a version of each file, and the name of the namespace, though it is gone itself."""
    await all_known(mount, kernel, {f"d/{number:02}": b"%d" % number for number in range(20)})
    mount.now.advance(20)
    for name in await kernel.listdir("/ns/d"):
        await kernel.unlink(f"/ns/d/{name}")
    await kernel.rmdir("/ns/d")
    await mount.drain()
    await kernel.rmdir("/ns")
    with pytest.raises(NotFoundError):
        await kernel.stat("/ns")
    assert kept(mount) == [(f"d/{number:02}", "delete", b"%d" % number) for number in range(20)]
    segment = next(path for path in mount.history.shelf.directory.iterdir() if path.name.isdecimal())
    assert b"ns" in (segment / "versions").read_bytes()
    assert {v.namespace for v in versions(mount.history.shelf.directory)} == {mount.namespace}


async def test_a_directory_that_is_renamed_leaves_names_only(mount, kernel):
    """A renamed directory leaves names only, because its content is under the new name."""
    await all_known(mount, kernel, {"d/a": b"a", "d/b": b"b"})
    mount.now.advance(20)
    await kernel.rename("/ns/d", "/ns/e")
    assert kept(mount) == [("d/a", "rename", RENAMED), ("d/b", "rename", RENAMED)]
    assert [v.other for v in versions(mount.history.shelf.directory)] == ["e/a", "e/b"]


async def test_a_file_made_and_removed_within_a_moment_is_kept_once(mount, kernel):
    """A lock file that comes and goes a thousand times leaves its last content, and a temporary one nothing."""
    for number in range(1000):
        await kernel.write("/ns/lock", b"%d" % number)
        await kernel.unlink("/ns/lock")
        mount.now.advance(0.001)
    await kernel.write("/ns/temporary", b"x")
    await kernel.rename("/ns/temporary", "/ns/f")
    assert kept(mount) == [("lock", "delete", b"999")]


async def test_a_file_that_is_rewritten_all_the_time_does_not_fill_the_history(mount, kernel):
    """The value before 2,000 saves within a minute, one a burst, and the last are kept."""
    await known(mount, kernel, "log", b"before")
    mount.now.advance(20)
    for number in range(2000):
        await kernel.write("/ns/log", b"%d" % number)
        mount.now.advance(0.03)
    found = [content for _, _, content in kept(mount)]
    assert found[0] == b"before"
    assert found[-1] == b"1998"
    assert len(found) <= 5


async def test_what_nobody_means_to_publish_is_not_kept(tmp_path):
    """Files that stay on this machine because of their names, as an editor's swap file, are not kept."""
    async with open_rig(tmp_path, now=Clock(), local_names=("*.swp",)) as mount:
        await mount.kernel.write("/ns/.f.swp", b"x")
        mount.now.advance(20)
        await mount.kernel.write("/ns/.f.swp", b"y")
        await mount.kernel.unlink("/ns/.f.swp")
        assert kept(mount) == []


async def test_what_had_expired_is_not_kept(mount, kernel):
    """An expired value is not kept when its name is written anew."""
    await known(mount, kernel, "f", ahead=100)
    mount.now.advance(200)
    await kernel.write("/ns/f", b"new")
    assert kept(mount) == []


async def test_a_refused_change_that_is_given_up_is_kept(mount, kernel):
    """After `kvfs rejected discard` undo still has the discarded content."""
    await kernel.write("/ns/f", b"poison")
    change = mount.journal.get(mount.namespace, "f")
    mount.now.advance(20)
    mount.journal.discard(change.namespace, change.key)
    assert kept(mount) == [("f", "discard", b"poison")]


async def test_without_a_history_nothing_is_noted(tmp_path):
    """With `--history 0` there is no directory and no work at any change."""
    from kvfs.history.allowance import NONE

    async with open_rig(tmp_path, now=Clock(), history=NONE) as mount:
        await mount.kernel.write("/ns/f", b"old")
        await mount.kernel.unlink("/ns/f")
        assert mount.history is None
        assert mount.journal.writer.on_superseded is None
        assert not list(tmp_path.rglob("history"))


async def test_a_content_that_the_disk_answers_otherwise_is_not_kept(mount, kernel):
    """The history keeps no other content than the one that was written, and says that this could not be read.

    A later version of an equal content is kept as it is.
    """
    await kernel.write("/ns/f", b"older")
    (segment,) = segments_of(mount.journal.path)
    at = segment.read_bytes().index(b"older")
    with segment.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"0", at)
        await kernel.unlink("/ns/f")
        os.pwrite(file.fileno(), b"o", at)  # because the log is read again in the end
    await kernel.write("/ns/g", b"older")
    await kernel.unlink("/ns/g")
    found = {key: content for key, _, content in kept(mount)}
    assert found == {"f": "it could not be read from this disk", "g": b"older"}


async def test_what_waits_to_be_written_has_bounds(mount, kernel):
    """Beyond so many bytes that no thread has written yet, versions are noted without their contents, and say so."""
    history = mount.history
    history._most_bytes = 50_000
    await all_known(mount, kernel, {str(number): bytes(1000) for number in range(300)})
    for number in range(300):
        await kernel.unlink(f"/ns/{number}")
    assert history._bytes <= 50_000
    found = [content for _, _, content in kept(mount)]
    assert len(found) == 300
    assert found[:50] == [bytes(1000)] * 50
    assert set(found[50:]) == {"too much was replaced at once"}


def test_a_history_that_fails_fails_no_change(tmp_path, expect_log):
    """A history that fails does not fail the change, which is in the journal."""
    expect_log("what was replaced or deleted is not kept: a bug of kvfs")
    with open_journal(tmp_path / "journal.db") as journal:
        put(journal, "a", b"one")
        journal.writer.on_superseded = {}.__getitem__
        put(journal, "a", b"two")
        assert shown(journal) == {"a": b"two"}


def test_nothing_is_told_of_a_transaction_that_fails(tmp_path):
    """Nothing is told before the outermost transaction has ended, because until then it did not happen."""
    with open_journal(tmp_path / "journal.db") as journal:
        put(journal, "a", b"old", base=digest(b"before"))
        told = []
        journal.writer.on_superseded = told.append

        def fail():
            with journal.transaction():
                put(journal, "a", b"new")
                raise KeyError("planted")

        with pytest.raises(KeyError, match="planted"):
            fail()
        assert told == []
        assert shown(journal) == {"a": b"old"}
        with journal.transaction():
            put(journal, "a", b"new")
            assert told == []
        assert [one.row.digest for one in told] == [digest(b"old")]
