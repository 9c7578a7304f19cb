"""The cost of everyday calls in the handlers, counted: statements, repeated answers, and no waiting at all."""

import dis
import errno
import os
import sys
from collections.abc import Coroutine
from typing import Any

import pyfuse3
import pytest
from support.clock import Clock
from support.journals import side_of
from support.rig import Rig, open_rig

from kvfs.core.model import Key
from kvfs.fuse import convert
from kvfs.fuse.operations import Operations
from kvfs.kept import facts
from kvfs.kept.local import LocalAttrs
from kvfs.vfs.answers import answered

NAMES = [b"one", b"two", b"three"]


def at_once(handler: Coroutine[Any, Any, Any]) -> Any:
    """Run a handler without an event loop, where it would fail if it waited or set a deadline."""
    try:
        handler.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


class Handlers:
    """The handlers of a mount whose namespace `ns` is empty, and known to be."""

    def __init__(self, rig: Rig, parent: int) -> None:
        self.rig = rig
        self.ops = Operations(rig.fs, uid=0, gid=0)
        self.parent = parent
        self.statements: list[str] = []
        side_of(rig.journal).set_trace_callback(self.statements.append)
        self.log = rig.journal._transactions.log

    def create(self, name: bytes, data: bytes) -> int:
        """Create, write and close as the kernel asks for them; return the inode."""
        ops = self.ops
        assert at_once(ops.lookup(self.parent, name, None)).st_ino == 0
        info, entry = at_once(ops.create(self.parent, name, 0o644, os.O_CREAT | os.O_WRONLY, None))
        with pytest.raises(pyfuse3.FUSEError):
            at_once(ops.getxattr(entry.st_ino, b"security.capability", None))
        assert at_once(ops.write(info.fh, 0, data)) == len(data)
        at_once(ops.flush(info.fh))
        at_once(ops.release(info.fh))
        return entry.st_ino

    def read(self, inode: int) -> bytes:
        """Open, read and close."""
        info = at_once(self.ops.open(inode, os.O_RDONLY, None))
        data = at_once(self.ops.read(info.fh, 0, 4096))
        at_once(self.ops.flush(info.fh))
        at_once(self.ops.release(info.fh))
        return bytes(data)


@pytest.fixture
async def handlers(tmp_path):
    """Yield handlers over files that are gone with the test."""
    async with open_rig(tmp_path, now=Clock()) as rig:
        parent = await answered(rig.fs.tree.lookup(1, b"ns"))
        parent.lookups += 1
        await answered(rig.fs.directories.opendir(parent.ino))
        assert await rig.kernel.listdir("ns") == []
        yield Handlers(rig, parent.ino)


async def test_everyday_calls_wait_for_nothing(handlers) -> None:
    """No call from create to unlink touches the scheduler or sets a deadline if everything is known."""
    inode = handlers.create(b"file", b"content")
    assert handlers.read(inode) == b"content"
    assert at_once(handlers.ops.getattr(inode, None)).st_size == 7
    assert at_once(handlers.ops.lookup(handlers.parent, b"file", None)).st_ino == inode
    at_once(handlers.ops.unlink(handlers.parent, b"file", None))
    assert at_once(handlers.ops.lookup(handlers.parent, b"file", None)).st_ino == 0


def calls_of(handler: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """Run a handler as `at_once` does; return how many functions of Python it called, and its answer."""
    called: list[str] = []
    before = sys.getprofile()
    sys.setprofile(
        lambda frame, event, _: called.append(frame.f_code.co_qualname) if event == "call" else None
    )
    try:
        answer = at_once(handler)
    finally:
        sys.setprofile(before)
    return len(called) - 1, answer


async def test_an_open_and_a_close_of_a_file_at_hand_call_few_functions(handlers) -> None:
    """Each call of a function costs a hundredth of an open: none comes to these handlers without being noticed."""
    inode, ops = handlers.create(b"file", b"content"), handlers.ops
    handlers.read(inode)
    at_once(ops.getattr(handlers.parent, None))
    opened, info = calls_of(ops.open(inode, os.O_RDONLY, None))
    assert opened <= 23
    assert calls_of(ops.flush(info.fh))[0] <= 4
    assert calls_of(ops.release(info.fh))[0] <= 6
    assert calls_of(ops.getattr(inode, None))[0] <= 31
    assert calls_of(ops.getattr(handlers.parent, None))[0] <= 12


async def test_a_handler_gets_its_arguments_as_the_kernel_gave_them(handlers) -> None:
    """The guard hands the arguments on in the tuple in which they came, because a new one costs a list."""
    instructions = {one.opname for one in dis.get_instructions(type(handlers.ops).open)}
    assert "CALL_FUNCTION_EX" in instructions
    assert not instructions & {"LIST_EXTEND", "LIST_TO_TUPLE"}


async def test_a_small_file_is_one_record_and_no_statement(handlers) -> None:
    """create + write + close is one record of the log with content, change and attributes, and reads nothing.

    Neither unlink nor open + read + close of a value at hand sends a statement to the tables.
    """
    handlers.create(b"one before", b"content")
    handlers.statements.clear()
    before = handlers.log.size
    inode = handlers.create(b"file", b"content")
    assert 0 < handlers.log.size - before < 512
    handlers.read(inode)
    at_once(handlers.ops.unlink(handlers.parent, b"file", None))
    assert handlers.statements == []


async def test_a_file_that_comes_and_goes_leaves_an_empty_side_table_nothing_to_do(handlers) -> None:
    """A side table without a row need not be told that nothing is kept of a file that was never sent."""
    handlers.create(b"file", b"content")
    at_once(handlers.ops.unlink(handlers.parent, b"file", None))
    assert handlers.rig.journal._transactions.kept.unsaved == {}


async def test_attributes_that_the_side_table_has_go_with_a_file_that_was_never_sent(handlers) -> None:
    """A file whose attributes are in the side table takes them along when it is removed before it was sent."""
    journal, namespace = handlers.rig.journal, handlers.rig.namespace
    journal.attributes.set_file_attrs(namespace, Key("file"), LocalAttrs(mode=0o600))
    journal._transactions.kept.save()
    handlers.create(b"file", b"content")
    at_once(handlers.ops.unlink(handlers.parent, b"file", None))
    assert journal.attributes.file_attrs(namespace, Key("file")) is None
    journal._transactions.kept.save()
    assert side_of(journal).execute("SELECT count(*) FROM files").fetchone() == (0,)


@pytest.mark.parametrize("is_sent", [False, True])
async def test_removing_a_file_looks_at_no_other_files_of_its_directory(handlers, is_sent: bool) -> None:
    """An unlink does as much in a large directory as in a small one, also where the directory has to be kept.

    The directory is there only because another client has a key in it; that one goes first.
    """
    rig, ops, kernel = handlers.rig, handlers.ops, handlers.rig.kernel
    work = []
    for count in (20, 200):
        names = [b"first", *(b"%04d" % number for number in range(count))]
        await rig.other(f"{count}/first", b"theirs")
        rig.fs.forgetting.forget_knowledge()
        assert await kernel.listdir(f"ns/{count}") == ["first"]
        for name in names[1:]:
            await kernel.write(f"ns/{count}/{name.decode()}", b"content")
        if is_sent:
            await rig.drain()
        parent = (await answered(rig.fs.tree.lookup(handlers.parent, b"%d" % count))).ino
        done = [calls_of(ops.unlink(parent, name, None))[0] for name in names]
        work.append(sum(done) / len(done))
        assert await kernel.listdir(f"ns/{count}") == []
    assert work[1] < 1.1 * work[0]


async def test_the_side_table_hears_of_hundreds_at_once(handlers) -> None:
    """The attributes of all changes that settle together are one transaction of SQLite, and before it there is none."""
    handlers.statements.clear()
    for number in range(300):
        handlers.create(b"%d" % number, b"content")
    journal = handlers.rig.journal
    seqs = [change.seq for change in journal.pending()]
    journal.mark_attempted(seqs)
    journal.ack(seqs, 0.0)
    assert handlers.statements == []
    assert len(journal.settle(1e12, 0.0)) == 300
    kinds = [statement.split()[0] for statement in handlers.statements]
    assert (kinds[0], kinds[-1], kinds.count("BEGIN")) == ("BEGIN", "COMMIT", 1)
    assert len(kinds) == 302


async def test_the_side_table_hears_of_a_chmod_with_a_thousand_others(handlers) -> None:
    """Attributes of keys without a change reach the side table when enough of them wait for one transaction."""
    handlers.statements.clear()
    for number in range(facts.SAVE_COUNT):
        assert handlers.statements == []
        handlers.rig.journal.attributes.set_file_attrs("n", f"{number}", LocalAttrs(mode=0o600))
    assert len(handlers.statements) == facts.SAVE_COUNT + 2


async def test_a_refused_attribute_leaves_nothing_behind(handlers) -> None:
    """A refused attribute leaves no growing traceback, though the kernel asks before every write."""
    errors = []
    for _ in range(2):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await handlers.ops.getxattr(1, b"security.capability", None)
        assert caught.value.errno == errno.ENOTSUP
        errors.append(caught.value)
    assert errors[0] is not errors[1]


class Told:
    """A `readdir_reply` of a kernel with room for so many entries an answer."""

    def __init__(self, monkeypatch, room: int) -> None:
        self.entries: list[tuple[bytes, int, int, float]] = []
        self.room = room
        monkeypatch.setattr(pyfuse3, "readdir_reply", self)

    def __call__(self, token, name, entry, offset) -> bool:
        if len(self.entries) - self.at >= self.room:
            return False
        self.entries.append((bytes(name), entry.st_ino, entry.st_size, entry.attr_timeout))
        self.offset = offset
        return True

    async def read(self, handlers, parent: int | None = None) -> dict[bytes, tuple[int, float]]:
        """Read a whole directory; return size and time-out by name."""
        ops = handlers.ops
        handle, self.entries, self.offset = await ops.opendir(parent or handlers.parent, None), [], 0
        while True:
            self.at = len(self.entries)
            await ops.readdir(handle, self.offset, None)
            if len(self.entries) == self.at:
                break
        await ops.releasedir(handle)
        counted = [(ino, 1) for name, ino, _, _ in self.entries if name.strip(b".")]
        await ops.forget(counted)  # at once, so that the counts of the test stay those of its lookups
        return {name: (size, timeout) for name, _, size, timeout in self.entries if name.strip(b".")}


@pytest.mark.parametrize("room", [1000, 2, 1])
async def test_a_listing_told_again_is_the_same_and_follows_every_change(handlers, monkeypatch, room) -> None:
    """A repeated listing looks nothing up while nothing changed, and shows every change."""
    inodes = [handlers.create(name, b"x" * (n + 1)) for n, name in enumerate(NAMES)]
    told = Told(monkeypatch, room)
    ttl = handlers.rig.fs.overlay.ttl
    first = await told.read(handlers)
    assert {name: size for name, (size, _) in first.items()} == {b"one": 1, b"two": 2, b"three": 3}
    handlers.rig.now.advance(ttl / 3)
    assert (await told.read(handlers)).keys() == first.keys()

    info = await handlers.ops.open(inodes[0], os.O_WRONLY, None)
    await handlers.ops.write(info.fh, 0, b"longer")
    assert (await told.read(handlers))[b"one"][0] == 6, "written and not yet closed"
    await handlers.ops.flush(info.fh)
    await handlers.ops.release(info.fh)
    await handlers.ops.unlink(handlers.parent, b"two", None)
    handlers.create(b"four", b"4444")
    again = await told.read(handlers)
    assert {name: size for name, (size, _) in again.items()} == {b"one": 6, b"three": 3, b"four": 4}
    assert (await told.read(handlers)) == again
    assert handlers.rig.fs.inodes.get(inodes[2]).lookups == 1, (
        "its creation; what did not fit was not counted"
    )


async def test_what_is_told_again_of_others_files_grows_old(handlers, monkeypatch) -> None:
    """The kernel may keep a repeated entry of another client's file only as long as the listing is fresh.

    Then the store is asked.
    """
    rig = handlers.rig
    await rig.other("theirs", b"value")
    rig.fs.forgetting.forget_knowledge()
    assert await rig.kernel.read("ns/theirs") == b"value"
    await handlers.ops.lookup(handlers.parent, b"theirs", None)  # the kernel keeps it: it can be told again
    told = Told(monkeypatch, 1000)
    ttl = rig.fs.overlay.ttl
    await told.read(handlers)
    rig.now.advance(ttl / 2)
    (_, timeout), = (await told.read(handlers)).values()  # fmt: skip
    assert 0 < timeout <= ttl / 2
    await rig.other("more", b"value")
    rig.now.advance(ttl)
    assert set(await told.read(handlers)) == {b"theirs", b"more"}


class Made:
    """Counts the answers that are built for the kernel anew."""

    def __init__(self, monkeypatch) -> None:
        self.entries = 0
        self.make = convert.attributes
        monkeypatch.setattr(convert, "attributes", self)

    def __call__(self, *words):
        self.entries += 1
        return self.make(*words)


async def test_a_walk_told_again_makes_no_entry_anew_though_values_came_since(handlers, monkeypatch) -> None:
    """A second `ls -lR` finds the entries ready, and the sizes that arrived since the first."""
    rig, told, made = handlers.rig, Told(monkeypatch, 1000), Made(monkeypatch)
    for number in range(20):
        await rig.other(f"d{number:02}/one", b"value")
        await rig.other(f"d{number:02}/two", b"other value")
    rig.fs.forgetting.forget_knowledge()
    assert len(await told.read(handlers)) == 20
    parents, inodes = [], []
    for number in range(20):
        parents.append((await handlers.ops.lookup(handlers.parent, b"d%02d" % number, None)).st_ino)
        for name in (b"one", b"two"):  # the kernel keeps them: they can be told again
            inodes.append((await handlers.ops.lookup(parents[-1], name, None)).st_ino)
        assert await told.read(handlers, parents[-1]) == {b"one": (0, 0.0), b"two": (0, 0.0)}
    for inode in inodes:
        await handlers.ops.getattr(inode, None)
    made.entries, looked, overlay = 0, [], rig.fs.overlay
    with monkeypatch.context() as patch:
        peek = overlay.known.peek
        patch.setattr(
            overlay.known, "peek", lambda *place, **words: looked.append(place) or peek(*place, **words)
        )
        again = [await told.read(handlers, parent) for parent in parents]
    assert not looked, "each getattr told its listing"
    for found in again:
        assert {name: size for name, (size, _) in found.items()} == {b"one": 5, b"two": 11}
        assert all(timeout > 0 for _, timeout in found.values()), "or each would be asked for once more"
    assert made.entries <= 2 * len(parents), "`.` and `..` only"


async def test_a_size_told_again_is_that_of_the_open_content(handlers, monkeypatch) -> None:
    """The size in a listing stays that of the open content, though the cached value may go while a program reads it."""
    rig, told = handlers.rig, Told(monkeypatch, 1000)
    await rig.other("file", b"value")
    rig.fs.forgetting.forget_knowledge()
    assert await rig.kernel.read("ns/file") == b"value"
    inode = (await handlers.ops.lookup(handlers.parent, b"file", None)).st_ino
    assert (await told.read(handlers))[b"file"][0] == 5
    info = await handlers.ops.open(inode, os.O_RDONLY, None)
    rig.fs.overlay.values.drop((rig.namespace, "file"))
    size, timeout = (await told.read(handlers))[b"file"]
    assert (size, timeout > 0) == (5, True)
    await handlers.ops.release(info.fh)
    assert (await told.read(handlers))[b"file"] == (0, 0.0), "not known any more: the kernel is to ask"


async def test_what_is_told_again_never_outlives_its_expiration(handlers, monkeypatch) -> None:
    """If a size arrives between two listings, the second gives the kernel no time-out beyond the key's expiration."""
    rig, told = handlers.rig, Told(monkeypatch, 1000)
    await rig.other("brief", b"value", ahead=90)
    rig.fs.forgetting.forget_knowledge()
    assert (await told.read(handlers))[b"brief"] == (0, 0.0)
    rig.now.advance(50)
    rig.fs.forgetting.forget_knowledge()
    inode = (await handlers.ops.lookup(handlers.parent, b"brief", None)).st_ino
    assert (await told.read(handlers))[b"brief"] == (0, 0.0)
    await handlers.ops.getattr(inode, None)
    rig.now.advance(10)
    size, timeout = (await told.read(handlers))[b"brief"]
    assert size == 5
    assert 0 < timeout <= 30
    rig.now.advance(30)
    assert await told.read(handlers) == {}


def watched(monkeypatch, owner, name):
    """Return the list to which each call of a method adds its arguments from now on; the method does its work."""
    calls, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **more: calls.append(args) or method(*args, **more))
    return calls


async def test_a_create_believes_the_lookup_before_it(handlers, monkeypatch) -> None:
    """A create uses the result of the lookup before it instead of a second one."""
    looks = watched(monkeypatch, handlers.rig.fs.overlay.known, "peek_child")
    handlers.create(b"file", b"content")
    assert len(looks) == 1


async def test_one_look_at_the_listing_tells_that_a_name_is_new(handlers, monkeypatch) -> None:
    """A name that is about to be made is searched for once in the listing, as a file and as a directory together."""
    looks = watched(monkeypatch, handlers.rig.fs.overlay.listings, "span_of")
    handlers.create(b"file", b"content")
    assert len(looks) == 1


async def test_a_first_change_of_a_key_looks_for_the_one_before_once(handlers, monkeypatch) -> None:
    """The journal searches its index once for the change that a put follows."""
    looks = watched(monkeypatch, handlers.rig.journal._transactions.index, "get")
    handlers.create(b"file", b"content")
    assert len(looks) == 1


EXCLUSIVE = os.O_CREAT | os.O_EXCL | os.O_WRONLY


@pytest.mark.parametrize("when", ["at once", "after a file elsewhere", "after a second"])
async def test_a_create_does_not_believe_a_lookup_that_is_out_of_date(handlers, when: str) -> None:
    """A create with O_EXCL notices a file that was made after the lookup."""
    ops, rig = handlers.ops, handlers.rig
    assert at_once(ops.lookup(handlers.parent, b"file", None)).st_ino == 0
    await rig.kernel.write("/ns/file", b"theirs")
    if when == "after a file elsewhere":
        handlers.create(b"other", b"content")
    if when == "after a second":
        rig.now.advance(1.5)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await ops.create(handlers.parent, b"file", 0o644, EXCLUSIVE, None)
    assert caught.value.errno == errno.EEXIST


async def test_a_create_below_a_directory_that_was_renamed_is_where_it_is_now(handlers) -> None:
    """A create below a directory that was renamed since the lookup goes to the new place."""
    ops, kernel = handlers.ops, handlers.rig.kernel
    await kernel.mkdir("/ns/old")
    inode = (await ops.lookup(handlers.parent, b"old", None)).st_ino
    assert (await ops.lookup(inode, b"file", None)).st_ino == 0
    await kernel.rename("/ns/old", "/ns/new")
    info, _ = await ops.create(inode, b"file", 0o644, EXCLUSIVE, None)
    await ops.flush(info.fh)
    await ops.release(info.fh)
    assert [change.key for change in handlers.rig.journal.under(handlers.rig.namespace, "")] == ["new/file"]
