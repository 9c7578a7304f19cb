"""Large values: an open waits for no digest that is not needed yet, and no digest holds the loop."""

import os
import threading

import pytest
import trio

from kvfs.core.digest import digest
from kvfs.core.model import Key
from kvfs.log import spool
from kvfs.vfs.answers import answered
from kvfs.vfs.file import identity, open_file, record
from kvfs.vfs.view import lastseen

SIZE = 1_000_000
OLD, NEW = b"0" * SIZE, b"n" * SIZE


def digest_of(value: bytes) -> bytes:
    return digest(value)


class Digests:
    """Digests of large values, the spool's apart: which threads make them, and when they may end."""

    def __init__(self, monkeypatch, identities) -> None:
        self.threads: list[threading.Thread] = []
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self._known = trio.Semaphore(0)
        make, know = spool.digest, identities._known

        def seen(value):
            if len(value) >= SIZE:
                self.threads.append(threading.current_thread())
                self.begun.set()
                self.may_end.wait(5)
            return make(value)

        def known(*args):
            know(*args)
            self._known.release()

        monkeypatch.setattr(lastseen, "VALUE_BYTES", SIZE // 2)
        for module in (identity, lastseen, open_file, record, spool):
            monkeypatch.setattr(module, "digest", seen)
        monkeypatch.setattr(identities, "_known", known)

    async def later(self) -> None:
        """Wait until a digest that nobody waited for was made."""
        with trio.fail_after(5):
            await self._known.acquire()


@pytest.fixture
def digests(monkeypatch, mount, kernel):
    """Yield a kernel that remembers its pages, over a file `f`."""
    kernel.eager = False
    mount.fs.overlay.last_seen = lastseen.LastSeen()  # as in a mount that keeps both versions of a conflict
    found = Digests(monkeypatch, mount.fs.files.identities)
    yield found
    found.may_end.set()


async def opened(mount, kernel) -> tuple[bool, bytes]:
    """Open, look and close; return if the kernel may keep its pages, and the content."""
    keeps = []
    open_ = mount.fs.files.open

    async def listening(*args, **options):
        found = await answered(open_(*args, **options))
        keeps.append(found.keeps_pages)
        return found

    mount.fs.files.open = listening
    try:
        content = await kernel.read("ns/f")
    finally:
        mount.fs.files.open = open_
    return keeps[0], content


async def test_the_first_open_of_a_large_value_makes_no_digest(mount, kernel, digests):
    """The first open of a large value makes no digest, because nothing can be compared; it is made after the close."""
    await mount.other("f", OLD)
    digests.may_end.clear()
    file = await kernel.open("ns/f")
    assert await kernel.pread(file, 0, SIZE) == OLD
    assert digests.threads == []
    await kernel.close(file)
    assert await opened(mount, kernel) == (True, OLD)  # before it is made: the same bytes
    digests.may_end.set()
    await digests.later()
    assert await opened(mount, kernel) == (True, OLD)
    assert len(digests.threads) == 1
    assert digests.threads[0] is not threading.main_thread()
    kernel.forget()


async def test_a_large_value_that_was_written_here_is_opened_without_a_digest(mount, kernel, digests):
    """An open of a large value makes no digest that is known, and what was read last is known all the same."""
    await kernel.write("ns/f", OLD)
    await mount.drain()
    assert await opened(mount, kernel) == (True, OLD)
    assert digests.threads == []
    assert mount.fs.overlay.last_seen.digest((mount.namespace, Key("f"))) == digest_of(OLD)
    kernel.forget()


@pytest.mark.parametrize("is_made", [True, False])
async def test_pages_are_kept_of_the_same_content_only(mount, kernel, digests, is_made):
    """Pages are kept only for the same content, also when it was fetched anew, or changed during the first digest."""
    await mount.other("f", OLD)
    digests.may_end.clear()
    assert await opened(mount, kernel) == (False, OLD)
    if is_made:
        digests.may_end.set()
        await digests.later()
        mount.fs.forgetting.forget_knowledge()
        assert await opened(mount, kernel) == (True, OLD)
    await mount.other("f", NEW)
    mount.fs.forgetting.forget_knowledge()
    digests.may_end.set()
    assert await opened(mount, kernel) == (False, NEW)
    assert await opened(mount, kernel) == (True, NEW)
    kernel.forget()


@pytest.mark.parametrize("size", [10, SIZE])
async def test_a_change_knows_the_large_value_it_was_made_to(mount, kernel, digests, size):
    """A change of a large value has its base made by a thread, however it is written."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f", os.O_RDWR)
    await kernel.ftruncate(file, size)
    await kernel.pwrite(file, 0, b"!")
    flushing = mount.fs.files.flush(file.number)
    assert flushing is not None, "a thread is waited for"
    await flushing
    await kernel.close(file)
    change = mount.journal.get(mount.namespace, Key("f"))
    assert (change.base, change.size) == (digest_of(OLD), size)
    assert threading.main_thread() not in digests.threads
    await kernel.read("ns/f")
    kernel.forget()


@pytest.mark.parametrize("is_writing", [False, True])
async def test_new_attributes_know_the_large_value_they_were_made_to(mount, kernel, digests, is_writing):
    """New attributes of a large value have its content as base, which is digested once for both."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f", os.O_RDWR)
    if is_writing:
        await kernel.pwrite(file, 0, b"!")
    await kernel.setxattr("ns/f", "user.colour", b"blue")
    change = mount.journal.get(mount.namespace, Key("f"))
    assert change.base == mount.journal.digest(change) == digest_of(OLD)
    assert digests.threads == []  # the spool made it
    await kernel.close(file)
    kernel.forget()


async def test_a_file_deleted_while_its_base_is_made_is_not_recorded(mount, kernel, digests):
    """A file deleted while its base is made is not recorded, and gives no error."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f", os.O_RDWR)
    await kernel.ftruncate(file, 10)
    digests.may_end.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kernel.close, file)
        await trio.to_thread.run_sync(digests.begun.wait, 5)
        await kernel.unlink("ns/f")
        digests.may_end.set()
    assert mount.journal.get(mount.namespace, Key("f")).is_tombstone
    kernel.forget()


async def test_a_large_file_is_the_joined_pieces_it_was_written_in(mount, kernel, digests):
    """A large file is read from the spool, also before it is a value again, and no digest but the spool's is made."""
    pieces = [bytes([number]) * 131_072 for number in range(40)]
    file = await kernel.open("ns/f", os.O_CREAT | os.O_RDWR)
    for number, piece in enumerate(pieces):
        await kernel.pwrite(file, number * len(piece), piece)
    await kernel.close(file)
    change = mount.journal.get(mount.namespace, Key("f"))
    assert await mount.journal.read_value(change) == b"".join(pieces)
    assert mount.journal.digest(change) == digest_of(b"".join(pieces))
    assert await kernel.read("ns/f") == b"".join(pieces)
    place = (mount.namespace, Key("f"))
    with trio.fail_after(30):
        while mount.fs.overlay.values.peek(place) is None:
            await mount.journal.make_durable()  # lets the threads run
    mount.journal.discard(*place)
    assert mount.fs.overlay.values.peek(place).value == b"".join(pieces)
    assert digests.threads == []
    kernel.forget()


async def test_what_was_written_over_is_not_taken_for_the_content(mount, kernel, digests, monkeypatch):
    """A thread that reads a large content back too late does not overwrite the newer one."""
    arrivals = []
    monkeypatch.setattr(mount.journal, "read_soon", lambda change, then: arrivals.append(then))
    for content in (OLD, NEW):
        await kernel.write("/ns/f", content)
    assert len(arrivals) == 2
    arrivals[0](OLD)
    assert await kernel.read("ns/f") == NEW
    arrivals[1](NEW)
    assert mount.fs.overlay.values.peek((mount.namespace, Key("f"))).value == NEW
    kernel.forget()


async def test_values_that_wait_for_a_digest_are_few(mount, kernel, digests):
    """While the threads hang, on a slow disk for instance, only a few values wait for a digest in memory."""
    digests.may_end.clear()
    for number in range(6):
        await mount.other(f"f{number}", b"%d" % number * SIZE)
    for number in range(6):
        assert await kernel.read(f"/ns/f{number}") == b"%d" % number * SIZE
    assert len(mount.fs.files.identities._digested) <= 2
    digests.may_end.set()
    for _ in range(2):
        await digests.later()
    assert mount.fs.files.identities._digested == {}
    assert await kernel.read("/ns/f5") == b"5" * SIZE
