"""Renames of a directory while its values are fetched: changes by programs meanwhile count."""

import os
from functools import partial

import pytest
import trio
import trio.testing

from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import UnreachableError
from kvfs.core.model import Key
from kvfs.core.names import DirRef
from kvfs.vfs.answers import answered

LARGE = b"x" * (INLINE_BYTES + 1)


async def write(kernel, path, value):
    """Write and close a file, created if it is not there."""
    file = await kernel.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    await kernel.pwrite(file, 0, value)
    await kernel.close(file)


async def during_rename(mount, kernel, act, *, slow="d/z", old="/ns/d", new="/ns/e"):
    """Rename, and do `act` while the value of the key `slow` is on its way."""
    calls = ("bulk_get", "get")
    gates = [mount.store.block(call, when=lambda c: slow in c.keys, times=1) for call in calls]

    async def meanwhile():
        await trio.sleep(0.5)
        mount.store.clear()
        await act()
        for gate in gates:
            gate.open()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(meanwhile)
        await kernel.rename(old, new)


async def read(mount, kernel, path):
    """Return the content that the mount shows."""
    file = await kernel.open(path)
    try:
        return bytes(mount.fs.files.contents.read(file.number, 0, 1 << 20))
    finally:
        await kernel.close(file)


@pytest.mark.parametrize("known", [True, False])
async def test_a_value_that_was_written_and_sent_meanwhile_is_the_one_that_moves(
    autojump_clock, mount, kernel, known
):
    """A value that was written, sent and settled meanwhile moves, though the journal has nothing of it any more."""
    await mount.other("d/a", b"old")
    await mount.other("d/z", b"slow")
    if known:
        await read(mount, kernel, "/ns/d/a")

    async def act():
        await write(kernel, "/ns/d/a", b"new")
        await mount.drain()
        assert mount.journal.get(mount.namespace, Key("d/a")) is None

    await during_rename(mount, kernel, act)
    assert await read(mount, kernel, "/ns/e/a") == b"new"
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == {
        "e/a": b"new",
        "e/z": b"slow",
    }


async def test_a_file_of_its_own_that_was_written_and_sent_meanwhile(autojump_clock, mount, kernel):
    """A single file that was written and sent during its rename moves with that content."""
    await mount.other("z", b"old")

    async def act():
        await write(kernel, "/ns/z", b"new")
        await mount.drain()

    await during_rename(mount, kernel, act, slow="z", old="/ns/z", new="/ns/y")
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == {"y": b"new"}


async def test_a_file_that_was_never_sent_and_is_removed_meanwhile_stays_away(autojump_clock, mount, kernel):
    """A file that was never sent and is removed meanwhile stays removed, though no tombstone says so."""

    async def act():
        await kernel.unlink("/ns/d/x")

    await mount.other("d/z", b"slow")
    await write(kernel, "/ns/d/x", b"for a moment")
    await during_rename(mount, kernel, act)
    assert await kernel.listdir("/ns/e") == ["z"]


async def test_a_file_made_anew_while_it_is_found_to_be_gone_moves(autojump_clock, mount, kernel):
    """A file made anew here, before the store says that another client deleted it, moves."""
    await mount.other("d/a", b"theirs")
    await kernel.listdir("/ns/d")
    await mount.other("d/a", None)

    async def act():
        await write(kernel, "/ns/d/a", b"ours")

    await during_rename(mount, kernel, act, slow="d/a")
    assert await kernel.listdir("/ns") == ["e"]
    assert await kernel.listdir("/ns/e") == ["a"]
    assert await read(mount, kernel, "/ns/e/a") == b"ours"


async def test_metadata_set_while_a_large_file_moves_is_kept(autojump_clock, mount, kernel, monkeypatch):
    """Metadata set while a large file is on its way to the journal for a rename is newer and is kept."""
    await mount.other("d/a", LARGE, b'{"k":1}')
    file = await kernel.open("/ns/d/a", os.O_RDWR)
    spool, renamed, calls = mount.journal.spool, trio.Event(), []

    async def spool_in_turn(value):
        calls.append(len(value))
        if len(calls) == 1:  # the rename's
            nursery.start_soon(kernel.setxattr, "/ns/d/a", "user.q", b"5")
            await trio.testing.wait_all_tasks_blocked()
        else:  # that of the attribute
            await renamed.wait()
        return await spool(value)

    monkeypatch.setattr(mount.journal, "spool", spool_in_turn)
    async with trio.open_nursery() as nursery:
        await kernel.rename("/ns/d", "/ns/e")
        renamed.set()
    assert len(calls) == 2
    await kernel.close(file)
    await mount.drain()
    assert (await mount.stored())["e/a"].metadata == b'{"k":1,"q":5}'


async def test_a_file_created_while_the_values_are_on_their_way_moves(autojump_clock, mount, kernel):
    """A file that was created during the rename and is still open moves, though the journal does not know it."""
    await mount.other("d/z", b"slow")
    files = []

    async def act():
        files.append(await kernel.open("/ns/d/new", os.O_CREAT | os.O_WRONLY))

    await during_rename(mount, kernel, act)
    assert await kernel.listdir("/ns") == ["e"]
    await kernel.pwrite(files[0], 0, b"made")
    await kernel.close(files[0])
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == {
        "e/new": b"made",
        "e/z": b"slow",
    }


async def test_what_is_written_while_a_large_value_of_the_same_answer_is_kept_counts(
    autojump_clock, mount, kernel, monkeypatch
):
    """A change written, sent and settled during the rename wins over the older value of the same bulk answer."""
    await mount.other("d/a", LARGE)
    await mount.other("d/z", b"old")
    spool = mount.journal.spool

    async def spool_meanwhile(value):
        if len(value) == len(LARGE) and not seen:
            seen.append(value)
            await write(kernel, "/ns/d/z", b"new")
            await mount.drain()
            assert mount.journal.get(mount.namespace, Key("d/z")) is None
        return await spool(value)

    seen: list[bytes] = []
    monkeypatch.setattr(mount.journal, "spool", spool_meanwhile)
    await kernel.rename("/ns/d", "/ns/e")
    assert seen
    assert await read(mount, kernel, "/ns/e/z") == b"new"
    await mount.drain()
    assert (await mount.stored())["e/z"].value == b"new"


async def test_a_store_that_hangs_leaves_old_values_to_move(autojump_clock, mount, kernel):
    """Held values of any age move after one question to a store that hangs."""
    for number in range(50):
        await mount.other(f"d/{number:02}", b"held")
    for number in range(50):
        await read(mount, kernel, f"/ns/d/{number:02}")
    mount.fs.overlay.values.make_stale(mount.namespace)
    for operation in ("bulk_get", "get"):
        mount.store.delay(operation, 30)
        mount.store.fail(operation, UnreachableError("away"))
    mount.store.calls.clear()
    await kernel.rename("/ns/d", "/ns/e")
    assert (mount.store.count("bulk_get"), mount.store.count("get")) == (1, 0)
    mount.store.clear()
    assert await read(mount, kernel, "/ns/e/49") == b"held"


async def test_values_that_land_out_of_turn_are_progress(autojump_clock, mount, kernel):
    """A rename may last as long as values arrive, in whatever order."""
    await mount.other("d/a.png", b"\xff slow")
    for number in range(20):
        await mount.other(f"d/b{number:02}", b"text")
    mount.store.delay("bulk_get", 20)
    mount.store.delay("get", 48)
    began = trio.current_time()
    await kernel.rename("/ns/d", "/ns/e")
    assert 48 <= trio.current_time() - began < 50
    mount.store.clear()
    assert len(await kernel.listdir("/ns/e")) == 21


@pytest.mark.parametrize("call", ["create", "lookup", "unlink"])
async def test_a_name_that_is_looked_up_while_its_directory_is_renamed(mount, kernel, monkeypatch, call):
    """A lookup during the rename of its directory is repeated under the new name."""
    await mount.other("d/a", b"value")
    await kernel.listdir("/ns/d")
    parent = mount.fs.tree.node_of(mount.namespace, DirRef("d/", 2))
    overlay, found = mount.fs.overlay, mount.fs.overlay.child

    async def child(*words):
        monkeypatch.setattr(overlay, "child", found)
        target = await found(*words)
        await kernel.rename("/ns/d", "/ns/e")
        return target

    mount.fs.forgetting.forget_knowledge()
    monkeypatch.setattr(overlay, "child", child)
    if call == "create":
        node, is_new = await answered(mount.fs.tree.create(parent.ino, b"new", exclusive=True))
        assert (node.key, is_new) == ("e/new", True)
    elif call == "lookup":
        assert (await answered(mount.fs.tree.lookup(parent.ino, b"a"))).key == "e/a"
    else:
        await answered(mount.fs.tree.unlink(parent.ino, b"a"))
        assert await kernel.listdir("/ns") == ["e"]
        assert await kernel.listdir("/ns/e") == []


@pytest.mark.parametrize("source", ["f", "g"])
async def test_what_is_renamed_into_a_directory_goes_where_that_is_by_then(mount, kernel, source):
    """A rename into a directory that is itself renamed meanwhile lands in the directory, not beside it."""
    for key in ("d/a", "f", "g/x"):
        await mount.other(key, b"value")
    for path in ("/ns", "/ns/d", "/ns/g"):
        await kernel.listdir(path)
    parent, top = (mount.fs.tree.node_of(mount.namespace, ref) for ref in (DirRef("d/", 2), DirRef.ROOT))
    gate = mount.store.block("*", on=1)
    async with trio.open_nursery() as nursery:
        rename = mount.fs.renames.rename
        nursery.start_soon(partial(rename, top.ino, source.encode(), parent.ino, b"in", no_replace=False))
        await gate.entered.wait()
        await kernel.rename("/ns/d", "/ns/e")
        gate.open()
    assert sorted(await kernel.listdir("/ns/e")) == ["a", "in"]
    assert "d" not in await kernel.listdir("/ns")
    assert await kernel.read("/ns/e/in" if source == "f" else "/ns/e/in/x") == b"value"
    mount.store.clear()


async def test_a_directory_is_removed_where_its_parent_is_by_then(mount, kernel):
    """`rmdir` of a directory whose parent is renamed meanwhile removes it under its new path."""
    for path in ("/ns/g", "/ns/g/d", "/ns/g/d/e"):
        await kernel.mkdir(path)
    mount.restart()
    tree, kernel = mount.fs.tree, mount.kernel
    parent = tree.node_of(mount.namespace, DirRef("g/d/", 4))
    gate = mount.store.block("list_keys", on=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tree.rmdir, parent.ino, b"e")
        await gate.entered.wait()
        await kernel.rename("/ns/g", "/ns/h")
        gate.open()
    assert await kernel.listdir("/ns/h/d") == []
    assert await kernel.listdir("/ns") == ["h"]
