"""An open file keeps its version for its holders, and for nobody else."""

import os

import pytest
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.digest import digest
from kvfs.core.model import Entry

OLD, NEW = b"the first version\n", b"something else, and longer\n"


@pytest.fixture(params=[False, True], ids=["asking", "caching"])
async def mount(tmp_path, request):
    """Yield a mount below a kernel that believes what it was told, or asks each time."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="keep-both") as rig:
        rig.kernel.caching, rig.kernel.eager = request.param, False
        yield rig


@pytest.fixture
async def held(mount):
    """Make a file that a program has open, and that another client has written since."""
    await mount.other("f", OLD)
    file = await mount.kernel.open("ns/f")
    assert await mount.kernel.pread(file, 0, 99) == OLD
    await mount.other("f", NEW, b'{"k":"v"}')
    yield file
    await mount.kernel.close(file)


async def refreshed(mount):
    """Do `kvfs refresh`."""
    await mount.fs.forgetting.refresh(["ns"])


async def expired(mount):
    """Let more time pass than `--cache-ttl`."""
    mount.now.advance(61)


knowing = pytest.mark.parametrize("know", [refreshed, expired], ids=lambda way: way.__name__)


@knowing
async def test_who_opens_the_name_gets_what_is_there(mount, kernel, held, know):
    """An open of the name gets the present content, size and metadata; the old handle keeps its bytes and its size."""
    assert await kernel.read("ns/f") == OLD
    await know(mount)
    assert (await kernel.stat("ns/f")).size == len(NEW)
    assert await kernel.read("ns/f") == NEW
    assert await kernel.getxattr("ns/f", "user.k") == b"v"
    assert await kernel.pread(held, 0, 99) == OLD
    attr = await kernel.fstat(held)
    assert (attr.size, attr.links) == (len(OLD), 0)
    assert attr.ino != (await kernel.stat("ns/f")).ino


@knowing
async def test_each_holder_keeps_its_own(mount, kernel, held, know):
    """Three handles on three versions of one name keep each its own."""
    await know(mount)
    second = await kernel.open("ns/f")
    await mount.other("f", b"third")
    await know(mount)
    assert await kernel.read("ns/f") == b"third"
    assert await kernel.pread(second, 0, 99) == NEW
    assert await kernel.pread(held, 0, 99) == OLD
    await kernel.close(second)


@knowing
async def test_the_same_content_is_one_file(mount, kernel, know):
    """A file written anew with the same bytes is not parted, and has the newest metadata."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f")
    await mount.other("f", OLD, b'{"k":"v"}')
    await know(mount)
    other = await kernel.open("ns/f")
    assert (await kernel.fstat(file)).ino == (await kernel.fstat(other)).ino
    assert await kernel.getxattr("ns/f", "user.k") == b"v"
    await kernel.close(file)
    await kernel.close(other)


@knowing
async def test_an_append_goes_to_what_is_there(mount, kernel, held, know, autojump_clock):
    """`>>` while `tail -f` has the file open goes to the present content, without a conflict."""
    await know(mount)
    file = await kernel.open("ns/f", os.O_WRONLY | os.O_APPEND)
    await kernel.pwrite(file, 0, b"more\n")
    await kernel.close(file)
    await mount.drain()
    assert await mount.stored() == {"f": Entry(NEW + b"more\n", b'{"k":"v"}')}
    assert await kernel.pread(held, 0, 99) == OLD
    assert mount.events == []


@knowing
async def test_a_writer_that_lost_the_name_is_saved_beside_it(mount, kernel, know, autojump_clock):
    """A writer that lost the name is saved in a copy beside it, with an event; fsync and later writes go there, too."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f", os.O_RDWR)
    await mount.other("f", NEW)
    await know(mount)
    assert await kernel.read("ns/f") == NEW
    await kernel.pwrite(file, 0, b"THE")
    await kernel.fsync(file)
    stored = await mount.stored()
    [copy] = set(stored) - {"f"}
    assert ".kvfs-conflict-" in copy
    assert (stored["f"].value, stored[copy].value) == (NEW, b"THE" + OLD[3:])
    await kernel.pwrite(file, 0, b"the")
    await kernel.close(file)
    await mount.drain()
    assert (await mount.stored())[copy].value == OLD
    assert await kernel.read("ns/f") == NEW
    assert sorted(await kernel.listdir("ns")) == ["f", copy]
    assert [(event.key, event.copy) for event in mount.events] == [("f", copy)]


async def test_a_writer_that_lost_the_name_overwrites_if_asked_to(tmp_path, autojump_clock):
    """With `--on-conflict=overwrite` a writer that lost the name overwrites, and the last one to write wins."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="overwrite") as mount:
        await mount.other("f", OLD)
        file = await mount.kernel.open("ns/f", os.O_RDWR)
        await mount.other("f", NEW)
        await mount.fs.forgetting.refresh(["ns"])
        assert await mount.kernel.read("ns/f") == NEW
        await mount.kernel.pwrite(file, 0, b"THE")
        await mount.kernel.close(file)
        await mount.drain()
        assert await mount.stored() == {"f": Entry(b"THE" + OLD[3:])}
        assert await mount.kernel.read("ns/f") == b"THE" + OLD[3:]


@knowing
async def test_what_is_written_here_is_what_is_there(mount, kernel, know, autojump_clock):
    """A file that is being written here is not parted from its name: the conflict is found when it is sent."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f", os.O_RDWR)
    await kernel.pwrite(file, 0, b"THE")
    await mount.other("f", NEW)
    await know(mount)
    assert await kernel.read("ns/f") == b"THE" + OLD[3:]
    await kernel.close(file)
    assert await kernel.read("ns/f") == b"THE" + OLD[3:]
    await mount.drain()
    assert (await mount.stored())["f"].value == NEW
    assert len(await mount.stored()) == 2


@knowing
async def test_a_writer_that_was_saved_is_parted_as_well(mount, kernel, know, autojump_clock):
    """A writer whose content is at the server is parted too when another client has written over it."""
    file = await kernel.open("ns/f", os.O_RDWR | os.O_CREAT)
    await kernel.pwrite(file, 0, OLD)
    await kernel.fsync(file)
    await mount.drain()
    await mount.other("f", NEW)
    await know(mount)
    assert await kernel.read("ns/f") == NEW
    assert await kernel.pread(file, 0, 99) == OLD
    await kernel.close(file)
    await mount.drain()
    assert await mount.stored() == {"f": Entry(NEW)}


async def test_what_is_open_is_served_while_the_server_is_away(mount, kernel, held):
    """While the server is away open files are served, because nobody can be asked."""
    mount.now.advance(61)
    mount.store.fail("*")
    assert await kernel.read("ns/f") == OLD
    mount.store.clear()


async def test_a_file_that_is_open_costs_no_more_than_any_other(mount, kernel):
    """A file that is open costs one look at its value in the time that the caches count, however often it is opened."""
    await mount.other("f", OLD)
    file = await kernel.open("ns/f")
    before = mount.store.count()
    for _ in range(5):
        assert await kernel.read("ns/f") == OLD
    assert mount.store.count() == before
    mount.now.advance(61)
    for _ in range(5):
        assert await kernel.read("ns/f") == OLD
    assert mount.store.count("bulk_get") + mount.store.count("get") == 2
    await kernel.close(file)


async def test_a_name_that_another_client_removed_is_gone(mount, kernel, held):
    """A name that another client removed is gone, and a holder keeps its content."""
    await mount.other("f", None)
    await mount.fs.forgetting.refresh(["ns"])
    assert not await kernel.exists("ns/f")
    assert await kernel.pread(held, 0, 99) == OLD


async def test_a_writer_that_lost_the_name_is_compared_with_what_it_saved(tmp_path, autojump_clock):
    """A writer replaces the content that it saved last, and not the one with which it opened the file."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="overwrite") as mount:
        await mount.kernel.write("ns/f", OLD)
        await mount.drain()
        file = await mount.kernel.open("ns/f", os.O_RDWR)
        await mount.kernel.pwrite(file, 0, b"mine")
        await mount.kernel.flush(file)
        await mount.drain()
        await mount.other("f", NEW)
        mount.now.advance(61)
        assert await mount.kernel.read("ns/f") == NEW
        await mount.kernel.pwrite(file, 0, b"ours")
        await mount.kernel.close(file)
        change = mount.journal.get(mount.namespace, "f")
        assert change.base == digest(b"mine" + OLD[4:])
