"""A call that is interrupted, by a full disk or by its bound: it did all or nothing, and its answer says which."""

import errno
import os
from collections.abc import Awaitable, Callable
from itertools import count

import pytest
import trio
import trio.testing
from support.rig import Rig

from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import JournalFullError
from kvfs.log.log import Log

LARGE = INLINE_BYTES + 1


CALLS: dict[str, Callable[[Rig], Awaitable[object]]] = {
    "unlink": lambda rig: rig.kernel.unlink("ns/many/a"),
    "unlink of the last": lambda rig: rig.kernel.unlink("ns/one/f"),
    "unlink of the last, never sent": lambda rig: rig.kernel.unlink("ns/unsent/f"),
    "unlink of the last, clean": lambda rig: rig.kernel.unlink("ns/clean/f"),
    "rename": lambda rig: rig.kernel.rename("ns/many/a", "ns/many/c"),
    "rename over another": lambda rig: rig.kernel.rename("ns/many/a", "ns/many/b"),
    "rename of the last": lambda rig: rig.kernel.rename("ns/one/f", "ns/many/f"),
    "rename of the last, clean": lambda rig: rig.kernel.rename("ns/clean/f", "ns/unsent/g"),
    "rename of a large one": lambda rig: rig.kernel.rename("ns/large/f", "ns/g"),
    "rename of a directory": lambda rig: rig.kernel.rename("ns/many", "ns/new"),
    "rename of the last directory": lambda rig: rig.kernel.rename("ns/outer/inner", "ns/moved"),
    "rename of a directory over an empty one": lambda rig: rig.kernel.rename("ns/many", "ns/made/empty"),
    "mkdir": lambda rig: rig.kernel.mkdir("ns/many/d"),
    "rmdir": lambda rig: rig.kernel.rmdir("ns/made/empty"),
    "chmod": lambda rig: rig.kernel.setattr("ns/one/f", mode=0o600),
    "utimens": lambda rig: rig.kernel.utimens("ns/clean/f", 5),
    "an expiration": lambda rig: rig.kernel.utimens("ns/clean/f", int(rig.now()) + 3_600),
    "no expiration any more": lambda rig: rig.kernel.utimens("ns/expires", 5),
    "truncate": lambda rig: rig.kernel.truncate("ns/one/f", 1),
    "truncate of a clean one": lambda rig: rig.kernel.truncate("ns/clean/f", 1),
    "setxattr": lambda rig: rig.kernel.setxattr("ns/one/f", "user.b", b"2"),
    "setxattr of a clean one": lambda rig: rig.kernel.setxattr("ns/clean/f", "user.b", b"2"),
    "removexattr": lambda rig: rig.kernel.removexattr("ns/clean/f", "user.a"),
    "mode of a made directory": lambda rig: rig.kernel.setattr("ns/made", mode=0o700),
    "mode of another directory": lambda rig: rig.kernel.setattr("ns/clean", mode=0o700),
}


@pytest.fixture
async def rig(mount: Rig) -> Rig:
    """A mount with pending files, never sent ones, ones that only the store has, and directories."""
    kernel = mount.kernel
    for key in ("clean/f", "outer/inner/f", "outer/inner/g"):
        await mount.other(key, b"theirs " + key.encode(), b'{"a":"1"}')
    await mount.other("expires", b"theirs", None, 9_000)
    await mount.other("large/f", b"x" * LARGE)
    for name in ("many/a", "many/b", "one/f"):
        directory = f"ns/{name}".rpartition("/")[0]
        if not await kernel.exists(directory):
            await kernel.mkdir(directory)
        await kernel.write(f"ns/{name}", b"ours " + name.encode())
    await kernel.mkdir("ns/made")
    await kernel.mkdir("ns/made/empty")
    await mount.drain()
    for name in ("many", "one"):  # they stand by their keys alone
        mount.journal.attributes.remove_dir(mount.namespace, f"{name}/", len(name) + 1)
    await kernel.mkdir("ns/unsent")
    await kernel.write("ns/unsent/f", b"never sent")
    mount.journal.attributes.remove_dir(mount.namespace, "unsent/", 7)
    await shown(mount)
    return mount


async def shown(rig: Rig, path: str = "ns") -> dict[str, object]:
    """Return everything that a program sees in the mount, mtimes of directories apart."""
    found: dict[str, object] = {}
    for name in await rig.kernel.listdir(path):
        place = f"{path}/{name}"
        stat = await rig.kernel.stat(place)
        if stat.is_directory:
            found[place] = stat.mode
            found |= await shown(rig, place)
        else:
            attributes = await rig.kernel.xattrs(place)
            found[place] = (stat.mode, stat.mtime_ns, await rig.kernel.read(place), attributes)
    return found


def full_after(records: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk take so many records more."""
    append = Log._append

    def on_a_full_disk(log: Log, operations: bytes, contents: list[bytes]) -> tuple[int, int]:
        nonlocal records
        records -= 1
        if records < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return append(log, operations, contents)

    monkeypatch.setattr(Log, "_append", on_a_full_disk)


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_on_a_full_disk_does_all_or_nothing(
    call: str, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for which the disk takes no record does nothing; with one it does all or nothing, also after a crash."""
    before = await shown(rig)
    for records in (0, 1):
        failed = False
        with monkeypatch.context() as disk:
            full_after(records, disk)
            try:
                await CALLS[call](rig)
            except JournalFullError:
                failed = True
        after = await shown(rig)
        assert (after == before) == failed
        assert failed or records
    rig.restart()
    assert await shown(rig) == after


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_that_is_cut_off_has_changed_nothing_and_can_be_made_again(call: str, rig: Rig) -> None:
    """A call that is cut off at any request to the store has changed nothing, and when made again does it all."""
    rig.kernel.eager = False
    before = await shown(rig)
    for number in range(1, 9):
        rig.fs.forgetting.forget_knowledge()
        numbers = count(1)
        gate = rig.store.block("*", when=lambda _, numbers=numbers, number=number: next(numbers) == number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(CALLS[call], rig)
            await trio.testing.wait_all_tasks_blocked()
            was_cut_off = gate.entered.is_set()
            nursery.cancel_scope.cancel()
        gate.open()
        rig.store.clear()
        assert (await shown(rig) == before) == was_cut_off, number
        if not was_cut_off:
            return
    raise AssertionError("it never ends")


async def test_directories_whose_last_entry_was_taken_away_stay(rig: Rig) -> None:
    """A directory stays when its last entry is deleted or renamed away, also after a crash; until rmdir."""
    kernel = rig.kernel
    await kernel.unlink("ns/one/f")
    await kernel.unlink("ns/unsent/f")
    await kernel.rename("ns/clean/f", "ns/many/f")
    await kernel.rename("ns/outer/inner", "ns/outer/other")
    await kernel.rename("ns/outer/other", "ns/inner")
    await kernel.rmdir("ns/made/empty")
    for _ in range(2):
        names = await rig.kernel.listdir("ns")
        assert sorted(names) == [
            "clean",
            "expires",
            "inner",
            "large",
            "made",
            "many",
            "one",
            "outer",
            "unsent",
        ]
        assert [await rig.kernel.listdir(f"ns/{name}") for name in ("clean", "one", "outer", "unsent")] == [
            []
        ] * 4
        rig.restart()
    for name in ("clean", "one", "outer", "unsent", "made"):
        await rig.kernel.rmdir(f"ns/{name}")
    assert sorted(await rig.kernel.listdir("ns")) == ["expires", "inner", "large", "many"]
