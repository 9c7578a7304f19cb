"""Failed writes publish nothing: which of several handles is told, and with what the others go on."""

import itertools
import os
from contextlib import suppress

import pytest
import trio
import trio.testing
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.errors import (
    FileTooBigError,
    JournalError,
    JournalFullError,
    NoSpaceError,
    NotFoundError,
    TimedOutError,
)
from kvfs.core.limits import VALUE_BYTES
from kvfs.vfs.answers import answered

RW, TRUNC, CREATE = os.O_RDWR, os.O_RDWR | os.O_TRUNC, os.O_RDWR | os.O_CREAT
PAST = VALUE_BYTES - 1
PIECE = 128 * 1024


async def _fill(kernel, file, data=b"x" * PIECE):
    """Write on until it fails, as `cp` of too large a file does."""
    for offset in range(0, VALUE_BYTES, len(data)):
        await kernel.pwrite(file, offset, data)
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(file, VALUE_BYTES, data)


async def _closed_badly(kernel, *files):
    for file in files:
        with pytest.raises(FileTooBigError):
            await kernel.close(file)


@pytest.mark.parametrize("flags", [RW, TRUNC, TRUNC | os.O_APPEND, CREATE])
@pytest.mark.parametrize("size", [5, 700_000])
@pytest.mark.parametrize("held", [True, False])
async def test_the_value_of_before_stays(mount, kernel, flags, size, held):
    """After a failed write the earlier value stays, here and at the server, read, emptied or cached.

    Close repeats the error.
    """
    good = b"good!" * (size // 5)
    await mount.other("f", good)
    if held:
        assert await kernel.read("/ns/f") == good
    file = await kernel.open("/ns/f", flags)
    await _fill(kernel, file)
    await _closed_badly(kernel, file)
    assert await kernel.read("/ns/f") == good
    assert (await kernel.stat("/ns/f")).size == size
    await mount.drain()
    assert (await mount.stored())["f"].value == good
    mount.restart()
    assert await mount.kernel.read("/ns/f") == good


async def test_a_new_file_never_was(mount, kernel):
    """`cp` of too large a file to a new name leaves no name."""
    file = await kernel.open("/ns/f", CREATE)
    await _fill(kernel, file)
    await _closed_badly(kernel, file)
    with pytest.raises(NotFoundError):
        await kernel.stat("/ns/f")
    assert await kernel.listdir("/ns") == []
    await mount.drain()
    assert await mount.stored() == {}


@pytest.mark.parametrize("act", ["write", "ftruncate", "fsync", "flush", "shrink"])
async def test_a_handle_that_failed_does_nothing_any_more(mount, kernel, act):
    """Every call through a handle that failed gives the same error, and the good value is not touched."""
    await kernel.write("/ns/f", b"good")
    file = await kernel.open("/ns/f", RW)
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(file, PAST, b"xx")
    acts = {
        "write": lambda: kernel.pwrite(file, 0, b"B"),
        "ftruncate": lambda: kernel.ftruncate(file, VALUE_BYTES + 1),
        "fsync": lambda: kernel.fsync(file),
        "flush": lambda: kernel.flush(file),
        "shrink": lambda: kernel.ftruncate(file, 0),
    }
    for _ in range(2):
        with pytest.raises(FileTooBigError):
            await acts[act]()
    await _closed_badly(kernel, file)
    assert await kernel.read("/ns/f") == b"good"
    await mount.drain()
    assert (await mount.stored())["f"].value == b"good"


async def test_a_truncate_that_failed_is_a_failed_write(mount, kernel):
    """A truncate that failed drops the handle's earlier writes with it; one by name changes nothing."""
    await kernel.write("/ns/f", b"good")
    with pytest.raises(FileTooBigError):
        await kernel.truncate("/ns/f", VALUE_BYTES + 1)
    file = await kernel.open("/ns/f", RW)
    await kernel.pwrite(file, 0, b"BAD")
    with pytest.raises(FileTooBigError):
        await kernel.ftruncate(file, VALUE_BYTES + 1)
    await _closed_badly(kernel, file)
    assert await kernel.read("/ns/f") == b"good"


@pytest.mark.parametrize("size", [4, 700_000])
async def test_what_was_closed_before_is_kept(mount, kernel, size):
    """The content of the last good close is kept, also when one of several descriptors was closed in between."""
    await kernel.write("/ns/f", b"old")
    file = await kernel.open("/ns/f", TRUNC)
    await kernel.pwrite(file, 0, b"good" * (size // 4))
    await kernel.flush(file)
    await kernel.pwrite(file, 0, b"BAD")
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(file, PAST, b"xx")
    await _closed_badly(kernel, file)
    assert await kernel.read("/ns/f") == b"good" * (size // 4)


async def test_who_wrote_of_the_same_content_is_told_and_nobody_else(mount, kernel):
    """Each handle that wrote of the failed content gets the error.

    A reader, and a writer whose changes were recorded, go on.
    """
    await kernel.write("/ns/f", b"good")
    failing, other, calm, reader = [await kernel.open("/ns/f", flags) for flags in (RW, RW, RW, os.O_RDONLY)]
    await kernel.pwrite(calm, 0, b"GOOD")
    await kernel.flush(calm)
    await kernel.pwrite(other, 1, b"aa")
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(failing, PAST, b"xx")
    assert await kernel.pread(reader, 0, 9) == b"GOOD"
    await kernel.pwrite(calm, 4, b"!")
    await _closed_badly(kernel, other, failing)
    await kernel.close(calm)
    assert await kernel.pread(reader, 0, 9) == b"GOOD!"
    await kernel.close(reader)
    assert await kernel.read("/ns/f") == b"GOOD!"


async def test_a_file_emptied_unseen_is_read_anew(mount, kernel):
    """A file emptied unseen, whose old content nobody has, is read from the store by the next open."""
    await mount.other("f", b"good")
    file = await kernel.open("/ns/f", TRUNC)
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(file, PAST, b"xx")
    assert await kernel.read("/ns/f") == b"good"
    assert (await kernel.stat("/ns/f")).size == 4
    await kernel.write("/ns/f", b"new")
    await _closed_badly(kernel, file)
    assert await kernel.read("/ns/f") == b"new"
    await mount.drain()
    assert (await mount.stored())["f"].value == b"new"


async def test_what_a_close_could_not_record_is_not_recorded_by_a_later_one(mount, kernel):
    """After ENOSPC at a close, a reader that closes the file later, with room, publishes nothing."""
    await kernel.write("/ns/f", b"good")
    await mount.drain()
    reader, file = await kernel.open("/ns/f"), await kernel.open("/ns/f", RW)
    await kernel.pwrite(file, 0, b"BAD")
    mount.fs.files.recorder._max_pending = 0
    with pytest.raises(NoSpaceError):
        await kernel.close(file)
    mount.fs.files.recorder._max_pending = 1 << 30
    assert await kernel.pread(reader, 0, 9) == b"good"
    await kernel.close(reader)
    assert await kernel.read("/ns/f") == b"good"
    await mount.drain()
    assert (await mount.stored())["f"].value == b"good"


async def test_what_a_close_could_not_record_is_not_recorded_by_its_release(mount, kernel):
    """After ENOSPC at a close its release publishes nothing, because the program was told that nothing was kept."""
    await kernel.write("/ns/f", b"good")
    file = await kernel.open("/ns/f", RW)
    await kernel.pwrite(file, 0, b"BAD")
    mount.fs.files.recorder._max_pending = 0
    with pytest.raises(NoSpaceError):
        await kernel.flush(file)
    mount.fs.files.recorder._max_pending = 1 << 30
    await answered(mount.fs.files.release(file.number))
    assert await kernel.read("/ns/f") == b"good"
    await mount.drain()
    assert (await mount.stored())["f"].value == b"good"


@pytest.mark.parametrize("size", [4, 700_000])
async def test_what_a_close_could_not_record_is_read_by_nobody_once_it_has_answered(mount, kernel, size):
    """The kernel releases a file some time after that; who has it open or opens it reads the good value already."""
    await kernel.write("/ns/f", b"good")
    await mount.drain()
    kernel.caching = True
    reader, file = await kernel.open("/ns/f"), await kernel.open("/ns/f", RW)
    await kernel.pwrite(file, 0, b"B" * size)
    assert await kernel.pread(reader, 0, 9) == b"B" * min(size, 9)
    mount.fs.files.recorder._max_pending = 0
    with pytest.raises(NoSpaceError):
        await kernel.flush(file)
    mount.fs.files.recorder._max_pending = 1 << 30
    assert reader.ino not in kernel.pages
    assert await kernel.pread(reader, 0, 9) == b"good"
    assert (await kernel.stat("/ns/f")).size == 4
    assert await kernel.read("/ns/f") == b"good"
    with pytest.raises(NoSpaceError):
        await kernel.pwrite(file, 4, b"!")
    with pytest.raises(NoSpaceError):
        await kernel.close(file)
    await kernel.close(reader)
    await mount.drain()
    assert (await mount.stored())["f"].value == b"good"


async def test_attributes_that_could_not_be_recorded_are_not_kept_by_an_open_file(mount, kernel):
    """ENOSPC at setxattr: who has the file open neither shows them nor records them when it is closed."""
    await kernel.write("/ns/f", b"good")
    await kernel.setxattr("/ns/f", "user.a", b"1")
    await mount.drain()
    reader = await kernel.open("/ns/f")
    mount.fs.files.recorder._max_pending = 0
    with pytest.raises(NoSpaceError):
        await kernel.setxattr("/ns/f", "user.a", b"2")
    mount.fs.files.recorder._max_pending = 1 << 30
    assert await kernel.xattrs("/ns/f") == {"user.a": b"1"}
    await kernel.close(reader)
    assert await kernel.xattrs("/ns/f") == {"user.a": b"1"}
    await mount.drain()
    assert (await mount.stored())["f"].metadata == b'{"a":1}'


async def test_only_the_attributes_that_could_not_be_recorded_are_taken_back(mount, kernel, monkeypatch):
    """A setxattr of a large open file fails while another one waits beside it: the other one is recorded whole."""
    await kernel.write("/ns/f", b"x" * 700_000)
    await mount.drain()
    reader = await kernel.open("/ns/f")
    spool, second, count = mount.journal.spool, trio.Event(), itertools.count()

    async def full_for_the_first(value):
        if next(count):
            second.set()
            return await spool(value)
        await second.wait()
        raise JournalFullError("no room")

    async def set_one(name, failed):
        try:
            await kernel.setxattr("/ns/f", name, b"1")
        except JournalFullError:
            failed.append(name)

    monkeypatch.setattr(mount.journal, "spool", full_for_the_first)
    failed: list[str] = []
    async with trio.open_nursery() as nursery:
        for name in ("user.a", "user.b"):
            nursery.start_soon(set_one, name, failed)
            await trio.testing.wait_all_tasks_blocked()
    assert failed == ["user.a"]
    assert (await kernel.xattrs("/ns/f"))["user.b"] == b"1"
    await kernel.close(reader)
    await mount.drain()
    assert b'"b":1' in (await mount.stored())["f"].metadata


async def test_a_write_beside_attributes_that_could_not_be_forced_out_is_recorded(tmp_path, monkeypatch):
    """With --durable-close a setxattr that changes nothing fails at the disk; a write meanwhile is recorded."""
    async with open_rig(tmp_path, now=Clock(), durable_close=True) as mount:
        kernel = mount.kernel
        await kernel.write("/ns/f", b"good")
        await kernel.setxattr("/ns/f", "user.a", b"1")
        file = await kernel.open("/ns/f", RW)
        gate = trio.Event()
        gate.set()

        async def fails(*_):
            await gate.wait()
            raise JournalError("the disk")

        async def set_again():
            with pytest.raises(JournalError):
                await kernel.setxattr("/ns/f", "user.a", b"1")

        with monkeypatch.context() as disk:
            disk.setattr(mount.journal, "make_durable", fails)
            await kernel.pwrite(file, 0, b"GOOD")
            with pytest.raises(JournalError):
                await kernel.flush(file)
            gate = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(set_again)
                await trio.testing.wait_all_tasks_blocked()
                await kernel.pwrite(file, 0, b"NEW!")
                gate.set()
        await kernel.close(file)
        assert await kernel.read("/ns/f") == b"NEW!"
        await mount.drain()
        assert (await mount.stored())["f"].value == b"NEW!"


async def _cut_in_vain(mount, monkeypatch, meanwhile):
    """A truncate of a closed large file fails at its record, when `meanwhile` is done."""
    begun, full = trio.Event(), trio.Event()

    async def full_later(value):
        begun.set()
        await full.wait()
        raise JournalFullError("no room")

    async def cut():
        with pytest.raises(JournalFullError):
            await mount.kernel.truncate("/ns/f", 600_000)

    with monkeypatch.context() as disk:
        disk.setattr(mount.journal, "spool", full_later)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            await begun.wait()
            found = await meanwhile()
            full.set()
    return found


async def test_a_closed_file_that_could_not_be_cut_is_whole_for_who_opened_it_meanwhile(
    mount, kernel, monkeypatch
):
    """A truncate of a closed file fails at its record: a program that opened it meanwhile goes on with the old size."""
    good = b"x" * 700_000
    await kernel.write("/ns/f", good)
    await mount.drain()

    async def open_both():
        opened = await kernel.open("/ns/f"), await kernel.open("/ns/f", RW)
        assert (await kernel.stat("/ns/f")).size == 600_000
        return opened

    reader, writer = await _cut_in_vain(mount, monkeypatch, open_both)
    assert (await kernel.stat("/ns/f")).size == len(good)
    assert await kernel.pread(reader, 0, 1 << 20) == good
    await kernel.pwrite(writer, 0, b"NEW!")
    await kernel.close(writer)
    await kernel.close(reader)
    await mount.drain()
    assert (await mount.stored())["f"].value == b"NEW!" + good[4:]


async def test_who_wrote_of_a_file_that_could_not_be_cut_is_told(mount, kernel, monkeypatch):
    """A program that wrote into what a failed truncate had cut gets its error at close, for the old value stays."""
    good = b"x" * 700_000
    await kernel.write("/ns/f", good)
    await mount.drain()

    async def write():
        writer = await kernel.open("/ns/f", RW)
        await kernel.pwrite(writer, 0, b"BAD")
        return writer

    writer = await _cut_in_vain(mount, monkeypatch, write)
    with pytest.raises(JournalFullError):
        await kernel.close(writer)
    assert await kernel.read("/ns/f") == good


async def _give_up(mount, monkeypatch, call, meanwhile):
    """A call has its time-out while a large content is being recorded, when `meanwhile` is done."""
    begun, scope = trio.Event(), trio.CancelScope()

    async def slow(value):
        begun.set()
        await trio.sleep_forever()

    async def given_up():
        with scope:
            await call()

    with monkeypatch.context() as disk:
        disk.setattr(mount.journal, "spool", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(given_up)
            await begun.wait()
            found = await meanwhile()
            scope.cancel()
    assert scope.cancelled_caught
    return found


async def test_a_truncate_that_was_given_up_cuts_nothing_later(mount, kernel, monkeypatch):
    """A truncate of a closed file has its time-out: who opened it meanwhile has it whole, and who wrote is told."""
    good = b"x" * 700_000
    await kernel.write("/ns/f", good)
    await mount.drain()

    async def open_all():
        writer, later = await kernel.open("/ns/f", RW), await kernel.open("/ns/f", RW)
        await kernel.pwrite(writer, 0, b"BAD")
        return writer, later

    writer, later = await _give_up(mount, monkeypatch, lambda: kernel.truncate("/ns/f", 600_000), open_all)
    assert (await kernel.stat("/ns/f")).size == len(good)
    with pytest.raises(TimedOutError):
        await kernel.close(writer)
    await kernel.pwrite(later, 0, b"NEW!")
    await kernel.close(later)
    await mount.drain()
    assert (await mount.stored())["f"].value == b"NEW!" + good[4:]


async def test_attributes_that_were_given_up_do_not_come_with_a_later_close(mount, kernel, monkeypatch):
    """A setxattr of a large file has its time-out: who has the file open does not record what it set."""
    good = b"x" * 700_000
    await kernel.write("/ns/f", good)
    await mount.drain()

    async def open_it():
        return await kernel.open("/ns/f", RW)

    file = await _give_up(mount, monkeypatch, lambda: kernel.setxattr("/ns/f", "user.a", b"1"), open_it)
    assert await kernel.xattrs("/ns/f") == {}
    await kernel.pwrite(file, 0, b"NEW!")
    await kernel.close(file)
    await mount.drain()
    stored = (await mount.stored())["f"]
    assert (stored.value, stored.metadata) == (b"NEW!" + good[4:], None)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_no_attributes_of_two_calls_that_failed_are_kept(mount, kernel, monkeypatch, order):
    """Two setxattr of one open file fail, whichever first: neither field stays, nor comes with a later close."""
    await kernel.write("/ns/f", b"x" * 700_000)
    await kernel.setxattr("/ns/f", "user.old", b"1")
    await mount.drain()
    file = await kernel.open("/ns/f", RW)
    gates = [trio.Event(), trio.Event()]
    count = itertools.count()

    async def full_later(value):
        await gates[next(count)].wait()
        raise JournalFullError("no room")

    async def set_one(name):
        with pytest.raises(JournalFullError):
            await kernel.setxattr("/ns/f", name, b"1")

    with monkeypatch.context() as disk:
        disk.setattr(mount.journal, "spool", full_later)
        async with trio.open_nursery() as nursery:
            for name in ("user.a", "user.b"):
                nursery.start_soon(set_one, name)
                await trio.testing.wait_all_tasks_blocked()
            for which in order:
                gates[which].set()
                await trio.testing.wait_all_tasks_blocked()
    assert await kernel.xattrs("/ns/f") == {"user.old": b"1"}
    await kernel.pwrite(file, 0, b"NEW!")
    await kernel.close(file)
    await mount.drain()
    assert (await mount.stored())["f"].metadata == b'{"old":1}'


async def test_a_new_file_whose_deletion_could_not_be_recorded_is_still_there(mount, kernel, monkeypatch):
    """Another client made the name that is being made here: where the deletion fails, ours is there."""
    await kernel.write("/ns/f", b"1")
    await mount.drain()
    file = await kernel.open("/ns/new", RW | os.O_CREAT)
    await mount.other("new", b"theirs")
    mount.now.advance(600)
    assert "new" in await kernel.listdir("/ns")

    def full(*_, **__):
        raise JournalFullError("no room")

    with monkeypatch.context() as disk:
        disk.setattr(mount.journal, "record_delete", full)
        with pytest.raises(JournalFullError):
            await kernel.unlink("/ns/new")
    await mount.other("new", None)
    mount.now.advance(600)
    assert "new" in await kernel.listdir("/ns")
    await kernel.unlink("/ns/new")
    await kernel.close(file)
    assert "new" not in await kernel.listdir("/ns")


async def test_a_file_whose_rename_failed_leaves_nothing_to_the_next_of_its_name(mount, kernel, monkeypatch):
    """A file that could not be renamed away, and was deleted later, passes no attributes on to a new one."""
    await kernel.write("/ns/f", b"1")
    await kernel.setxattr("/ns/f", "user.a", b"1")

    def full(*_, **__):
        raise JournalFullError("no room")

    with monkeypatch.context() as disk:
        disk.setattr(mount.journal, "move", full)
        with pytest.raises(JournalFullError):
            await kernel.rename("/ns/f", "/ns/g")
    await kernel.unlink("/ns/f")
    await kernel.write("/ns/f", b"2")
    assert await kernel.xattrs("/ns/f") == {}


async def test_who_wrote_what_another_close_could_not_record_is_told(mount, kernel):
    """The second of two writers gets the error of the first one's close too, because its bytes are not kept."""
    await kernel.write("/ns/f", b"good")
    first, second = await kernel.open("/ns/f", RW), await kernel.open("/ns/f", RW)
    await kernel.pwrite(second, 2, b"2")
    await kernel.pwrite(first, 0, b"1")
    mount.fs.files.recorder._max_pending = 0
    with pytest.raises(NoSpaceError):
        await kernel.close(first)
    mount.fs.files.recorder._max_pending = 1 << 30
    with pytest.raises(NoSpaceError):
        await kernel.close(second)
    assert await kernel.read("/ns/f") == b"good"


async def test_mtime_and_pages_are_those_of_the_good_value(mount, kernel):
    """mtime and pages are those of the good value, so the kernel drops those of the failed content."""
    kernel.caching = True
    await kernel.write("/ns/f", b"good")
    before = (await kernel.stat("/ns/f")).mtime_ns
    mount.now.advance(9)
    file = await kernel.open("/ns/f", RW)
    await kernel.pwrite(file, 0, b"BAD")
    assert await kernel.read("/ns/f") == b"BADd"
    with pytest.raises(FileTooBigError):
        await kernel.pwrite(file, PAST, b"xx")
    assert (await kernel.stat("/ns/f")).mtime_ns == before
    assert await kernel.read("/ns/f") == b"good"
    with suppress(FileTooBigError):
        await kernel.close(file)
    assert await kernel.read("/ns/f") == b"good"


# where a handle with O_APPEND writes


async def _appending(kernel, content):
    await kernel.write("/ns/f", content)
    return await kernel.open("/ns/f", RW | os.O_APPEND)


async def test_an_append_comes_at_the_end_and_a_mapping_in_its_place(mount, kernel):
    """A write with O_APPEND goes to the end, and a page of a mapping to its place, by the kernel's offset."""
    file = await _appending(kernel, b"hello world")
    mount.fs.files.contents.write(file.number, 0, b"HELLO")
    await kernel.pwrite(file, 0, b"!")
    await kernel.close(file)
    assert await kernel.read("/ns/f") == b"HELLO world!"


async def test_appends_of_several_handles_go_to_the_end(mount, kernel):
    """Appends of several handles each go to the end that the one before made."""
    files = [await _appending(kernel, b"") for _ in range(3)]
    for number in range(9):
        await kernel.pwrite(files[number % 3], 0, b"%d" % number)
    for file in files:
        await kernel.close(file)
    assert await kernel.read("/ns/f") == b"012345678"


async def test_an_append_at_a_size_that_was_a_guess_goes_to_the_end(mount, kernel):
    """An append at a guessed size, 0 or the largest, for which the kernel was told no better, goes to the end."""
    await mount.other("f", b"there")
    file = await kernel.open("/ns/f", RW | os.O_APPEND)
    node = mount.fs.inodes.get(file.ino)
    for guess in (0, VALUE_BYTES):
        node.end = guess
        mount.fs.files.contents.write(file.number, guess, b"!")
    await kernel.close(file)
    assert await kernel.read("/ns/f") == b"there!!"
