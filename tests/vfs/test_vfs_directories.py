"""Directories: which ones exist, and what a listing shows while they change."""

import signal

import pytest
import trio

from kvfs.core.errors import (
    InvalidError,
    NotEmptyError,
    NotFoundError,
    UnavailableError,
)
from kvfs.core.limits import LIST_KEYS
from kvfs.core.names import DirRef
from kvfs.vfs.answers import answered
from kvfs.vfs.dirstream import DirStream


def plain(entries):
    """Return names without the dots."""
    return [name for name, _ in entries if name not in (".", "..")]


async def test_a_directory_stays_after_its_last_file_is_removed_here(mount, kernel):
    """A directory stays after its last file is removed here, also after a restart, until it is removed itself."""
    await mount.other("a/b/c", b"x")
    await kernel.unlink("/ns/a/b/c")
    assert await kernel.listdir("/ns/a") == ["b"]
    await kernel.rmdir("/ns/a/b")
    await mount.drain()
    mount.restart()
    assert await mount.kernel.listdir("/ns") == ["a"]
    await mount.kernel.rmdir("/ns/a")
    assert await mount.kernel.listdir("/ns") == []


async def test_a_directory_goes_with_its_last_key_when_others_remove_it(mount, kernel):
    """A directory that was never made here goes when others remove its last key."""
    await mount.other("a/b", b"x")
    assert await kernel.listdir("/ns") == ["a"]
    await mount.other("a/b", None)
    mount.now.advance(61)
    assert await kernel.listdir("/ns") == []
    with pytest.raises(NotFoundError):
        await kernel.stat("/ns/a")


async def test_a_directory_is_removed_only_when_empty(mount, kernel):
    """A directory with anything in it, also a key of another client, gives ENOTEMPTY."""
    await kernel.mkdir("/ns/d")
    await mount.other("d/x", b"")
    mount.now.advance(61)
    with pytest.raises(NotEmptyError):
        await kernel.rmdir("/ns/d")
    await kernel.unlink("/ns/d/x")
    await kernel.rmdir("/ns/d")
    assert await kernel.listdir("/ns") == []


async def test_the_pieces_of_a_long_name_go_with_it(mount, kernel):
    """`rm -r` of a directory with a long name has no complaint, and the directory around it stays."""
    kernel.eager = False
    long = "x" * 300
    await mount.other(f"d/{long}", b"x")
    piece = (await kernel.listdir("/ns/d"))[0]
    rest = (await kernel.listdir(f"/ns/d/{piece}"))[0]
    kernel.caching = True
    assert (await kernel.stat(f"/ns/d/{piece}/{rest}")).size == 1
    await kernel.unlink(f"/ns/d/{piece}/{rest}")
    await kernel.rmdir(f"/ns/d/{piece}")
    assert await kernel.listdir("/ns/d") == []
    await kernel.rmdir("/ns/d")


async def test_a_directory_of_a_long_name_is_not_the_piece_of_a_longer_one(kernel):
    """`xx…/` kept here does not make `xx…%+` exist, where longer names that start alike would be."""
    await kernel.mkdir("/ns/" + "x" * 253)
    assert not await kernel.exists("/ns/" + "x" * 253 + "%+")
    assert await kernel.listdir("/ns") == ["x" * 253]


async def test_a_namespace_is_removed_only_when_the_store_says_empty(mount, kernel):
    """The check for emptiness asks the store, not a cache, after waiting deletions were sent."""
    await kernel.write("/ns/f", b"x")
    await mount.drain()
    assert await kernel.listdir("/ns") == ["f"]
    await kernel.unlink("/ns/f")
    await mount.other("theirs", b"x")
    with pytest.raises(NotEmptyError):
        await kernel.rmdir("/ns")
    await mount.other("theirs", None)
    await kernel.rmdir("/ns")
    assert await mount.backend.list_namespaces() == []


async def test_a_listing_is_stable_while_its_directory_changes(mount, kernel):
    """Offsets of a listing stay valid, names that stay come exactly once, and removed ones may be missing."""
    for number in range(30):
        await mount.other(f"d/{number:02}", b"")
    directory = await kernel.opendir("/ns/d")
    first = await kernel.getdents(directory, 12)
    await kernel.unlink("/ns/d/03")
    await kernel.unlink("/ns/d/20")
    await kernel.write("/ns/d/00a", b"")
    await kernel.write("/ns/d/25a", b"")
    mount.fs.forgetting.forget_knowledge(mount.namespace)
    rest = await kernel.getdents(directory)
    names = plain(first + rest)
    assert len(names) == len(set(names))
    assert set(names) >= {f"{n:02}" for n in range(30)} - {"20"}
    assert "20" not in names

    directory.offset = first[5][1]
    again = await kernel.getdents(directory, 3)
    assert again[:1] == first[6:7]
    directory.offset = 0
    assert "25a" in plain(await kernel.getdents(directory))
    await kernel.closedir(directory)


async def test_rm_r_of_a_large_directory_sees_every_entry(mount, kernel):
    """rm -r of a large directory skips no entry, although it removes while it reads."""
    for number in range(250):
        await mount.other(f"d/{number}", b"")
    directory = await kernel.opendir("/ns/d")
    while entries := await kernel.getdents(directory, 20):
        for name in plain(entries):
            await kernel.unlink(f"/ns/d/{name}")
    await kernel.closedir(directory)
    await kernel.rmdir("/ns/d")
    await mount.drain()
    assert await mount.stored() == {}


async def test_names_made_here_appear_in_a_listing_at_once(kernel):
    """A name created, made or renamed here appears in a listing at once, before anything is sent."""
    file = await kernel.open("/ns/new", 0o102)
    await kernel.mkdir("/ns/dir")
    await kernel.write("/ns/a", b"")
    await kernel.rename("/ns/a", "/ns/b")
    assert sorted(await kernel.listdir("/ns")) == ["b", "dir", "new"]
    await kernel.close(file)


async def test_a_created_name_with_keys_below_is_self(mount, kernel):
    """A file being created as `a/%self` shows in the directory only."""
    await mount.other("a/b", b"x")
    file = await kernel.open("/ns/a/%self", 0o102)
    assert sorted(await kernel.listdir("/ns/a")) == ["%self", "b"]
    assert await kernel.listdir("/ns") == ["a"]
    await kernel.close(file)


async def test_a_key_at_the_end_of_a_page_is_one_entry_with_what_lies_below_it(mount, kernel):
    """If a page ends with `d/z` and the next begins with `d/z/a`, the listing shows one directory and no file."""
    for number in range(999):
        await mount.other(f"d/f{number:03}", b"")
    await mount.other("d/z", b"own")
    await mount.other("d/z/a", b"below")
    names = await kernel.listdir("/ns/d")
    assert sorted(names) == [f"f{number:03}" for number in range(999)] + ["z"]
    assert (await kernel.stat("/ns/d/z")).is_directory
    assert sorted(await kernel.listdir("/ns/d/z")) == ["%self", "a"]


async def test_rewinding_an_empty_directory_shows_what_came(mount, kernel):
    """rewinddir(3) of an empty directory shows new entries, as if it had been opened anew."""
    directory = await kernel.opendir("ns")
    assert [name for name, _ in await kernel.getdents(directory)] == [".", ".."]
    await kernel.write("ns/new", b"x")
    directory.offset = 0
    assert [name for name, _ in await kernel.getdents(directory)] == [".", "..", "new"]
    await kernel.closedir(directory)


async def test_kept_listings_are_bounded_by_their_entries(mount, kernel, monkeypatch):
    """Kept listings are bounded by their entries: the oldest make room, too long ones are not kept, changed ones go."""
    monkeypatch.setattr("kvfs.vfs.dirstream.KEPT_KEYS", 10)
    for directory, count in (("a", 4), ("b", 5), ("long", 11), ("c", 5)):
        for number in range(count):
            await mount.other(f"{directory}/{number}", b"1")
    streams = mount.fs.directories.streams

    async def kept():
        return {ref.prefix for _, ref in streams._streams}

    for directory in ("a", "b"):
        for _ in range(3):
            await kernel.listdir(f"ns/{directory}")
    assert await kept() == {"a/", "b/"}
    for _ in range(3):
        await kernel.listdir("ns/long")
    await kernel.listdir("ns/c")
    await kernel.listdir("ns/c")
    assert await kept() == {"b/", "c/"}
    await kernel.write("ns/a/new", b"")
    for _ in range(2):
        await kernel.listdir("ns/a")
    assert await kept() == {"a/"}


async def test_the_value_beside_a_directory_is_no_directory(mount, kernel):
    """mkdir of `%self` gives EINVAL, however short its key is."""
    await kernel.mkdir("/ns/d")
    with pytest.raises(InvalidError):
        await kernel.mkdir("/ns/d/%self")


async def test_a_reading_that_waits_while_another_one_rewinds_goes_on(mount):
    """A reading of the same handle that waits for a page is answered from the listing that the rewinding began."""
    for number in range(1100):
        await mount.other(f"{number:04}", b"")
    ns = await answered(mount.fs.tree.lookup(1, b"ns"))
    number = await answered(mount.fs.directories.opendir(ns.ino))
    told = {}

    def read(name, start):
        told[name] = []
        return answered(
            mount.fs.readdir.read(
                mount.fs.handles.directory(number),
                start,
                lambda entry, attr, offset, is_changed: told[name].append(entry) or True,
            )
        )

    await read("first", 0)
    start = len(told["first"])
    assert start < 1100
    # because a reading that goes round for ever would not await, and no time-out of trio's would end it
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 10)
    try:
        gate = mount.store.block("list_keys")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, "waiting", start)
            await gate.entered.wait()
            await read("rewinding", 0)
            gate.open()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert told["waiting"][0] == b"%04d" % (start - 2)  # after the dots


@pytest.mark.parametrize("is_cut_off", [True, False])
async def test_a_listing_that_fails_at_its_end_tells_no_entry_twice(mount, is_cut_off, autojump_clock):
    """A listing that fails or is cut off while `%self` is looked for goes on without telling an entry twice."""
    for key in ("a", "a/b", "a/c"):
        await mount.other(key, b"1")
    await mount.other("a/ours", b"1")
    ref, asked = DirRef("a/", 2), lambda call: call.kwargs.get("prefix") != "a/"
    stream = DirStream(mount.fs.overlay, mount.namespace, ref)
    if is_cut_off:
        mount.store.block("list_keys", when=asked, times=1)
        with trio.move_on_after(0.01):
            await stream.reach(0)
    else:
        mount.store.fail("list_keys", when=asked, times=1)
        with pytest.raises(UnavailableError):
            await stream.reach(0)
        await trio.sleep(60)  # until the store is asked again
    assert not await stream.reach(100)
    assert [stream.entry(index)[0] for index in range(len(stream.entries))] == ["b", "c", "ours", "%self"]


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_listing_has_all_entries_though_its_end_asks_for_a_page_that_overlaps(mount, is_open):
    """A listing has every entry, also when the question for `%self` brings a page that ends amid the directory."""
    kernel, names = mount.kernel, [f"{number:03}" for number in range(300)]
    for number in range(LIST_KEYS - 100):
        await mount.other(f"a-{number:04}", b"1")
    for name in names:
        await mount.other(f"a/{name}", b"1")
    if not is_open:
        stream = DirStream(mount.fs.overlay, mount.namespace, DirRef("a/", 2))
        await stream.reach(1000)
        assert [stream.entry(index)[0] for index in range(len(stream.entries))] == names
        return
    directory = await kernel.opendir("ns/a")
    mount.now.advance(3600)  # as in a shell whose working directory it is
    assert plain(await kernel.getdents(directory)) == names
    await kernel.closedir(directory)


async def test_two_readings_of_one_handle_that_wait_for_its_end_tell_no_entry_twice(mount, autojump_clock):
    """Two readings of one handle that both wait while `%self` is looked for take the last page once."""
    for key in ("a/b", "a/c"):
        await mount.other(key, b"1")
    stream = DirStream(mount.fs.overlay, mount.namespace, DirRef("a/", 2))
    gate = mount.store.block("list_keys", when=lambda call: call.kwargs.get("prefix") != "a/")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.reach, 0)
        nursery.start_soon(stream.reach, 0)
        await trio.sleep(1)
        assert gate.entered.is_set()
        gate.open()
    assert [stream.entry(index)[0] for index in range(len(stream.entries))] == ["b", "c"]
