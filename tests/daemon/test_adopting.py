"""Writes that commands make beside a mount: shown at once, and compared like anybody else's."""

import os

import pytest
import trio
from support.clock import Clock
from support.history import contents
from support.journals import small_disk
from support.rig import open_rig

from kvfs.core.errors import InvalidError
from kvfs.core.model import ChangeState
from kvfs.daemon.adopting import SLICE, Adopting
from kvfs.host.requests import handlers_of
from kvfs.host.told import MOST_BYTES, ToldWrite, told_file

OURS, TOLD = b"what the mount wrote", b"what a command wrote, and longer"
SETTLE = 90


@pytest.fixture
async def mount(tmp_path):
    """A mount that has just written `f`; the store has it, and may answer with older values for `SETTLE` seconds."""
    async with open_rig(tmp_path, now=Clock(), on_conflict="keep-both", settle=SETTLE) as rig:
        await rig.kernel.write("ns/f", OURS)
        await rig.drain()
        rig.now.advance(1)
        yield rig


async def tell(mount, value, key="f", *, stores=True, ago=0.0, metadata=None):
    """A command has written this (None: deleted it), and says so; with `stores` the store shows it already."""
    if stores:
        await mount.other(key, value, metadata)
    handler = handlers_of(Adopting(mount.fs, mount.journal, SETTLE, mount.now))["told"]
    write = ToldWrite(mount.namespace, key, mount.now() - ago, value, metadata)
    with told_file(mount.base, [write]) as file:
        return (await handler({"file": str(file)}, None))["count"]


@pytest.mark.parametrize("stores", [True, False], ids=["fresh store", "stale store"])
async def test_it_shows_at_once_and_for_good(mount, stores):
    """Content, size and metadata; also while the store answers with what was before, and when it has settled."""
    kernel = mount.kernel
    assert await kernel.read("ns/f") == OURS
    assert await tell(mount, TOLD, stores=stores, metadata=b'{"k":"v"}') == 1
    assert await kernel.read("ns/f") == TOLD
    assert (await kernel.stat("ns/f")).size == len(TOLD)
    assert await kernel.getxattr("ns/f", "user.k") == b"v"
    await mount.other("f", TOLD, b'{"k":"v"}')
    mount.now.advance(SETTLE + 1)
    await mount.settle()
    assert mount.journal.get(mount.namespace, "f") is None
    assert await kernel.read("ns/f") == TOLD


async def test_a_deletion_shows_at_once(mount):
    """The name is gone, whatever the store answers yet."""
    assert await tell(mount, None, stores=False) == 1
    assert await mount.kernel.listdir("ns") == []


@pytest.mark.parametrize("value", [TOLD, None], ids=["written", "deleted"])
async def test_nothing_is_left_of_a_file_that_was_open(mount, value):
    """A file that is open when a command writes or deletes it leaves no node behind when it is closed."""
    before = mount.fs.inodes.count
    file = await mount.kernel.open("ns/f")
    assert await tell(mount, value) == 1
    assert await mount.kernel.pread(file, 0, 99) == OURS
    await mount.kernel.close(file)
    assert mount.fs.inodes.count == before


async def test_a_new_key_shows_at_once(mount):
    """A new key shows at once, also one that the mount knew to be absent."""
    assert await mount.kernel.listdir("ns") == ["f"]
    assert await tell(mount, TOLD, "new", stores=False) == 1
    assert sorted(await mount.kernel.listdir("ns")) == ["f", "new"]
    assert await mount.kernel.read("ns/new") == TOLD


async def test_a_large_value_shows_at_once(mount):
    """It lies in the spool, as any large value."""
    large = TOLD * 10_000
    assert await tell(mount, large, stores=False) == 1
    assert await mount.kernel.read("ns/f") == large


async def test_others_have_their_turn_between_many_values(mount):
    """Thousands of values show a few at a time, so that no call waits for all of them."""
    shown, longest = 0, 0

    async def watch():
        nonlocal shown, longest
        while True:
            found = mount.journal.totals.settling_count
            shown, longest = found, max(longest, found - shown)
            await trio.lowlevel.checkpoint()

    handler = handlers_of(Adopting(mount.fs, mount.journal, SETTLE, mount.now))["told"]
    writes = [ToldWrite(mount.namespace, f"k{n}", mount.now(), b"x") for n in range(10 * SLICE)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        with told_file(mount.base, writes) as file:
            assert await handler({"file": str(file)}, None) == {"count": len(writes)}
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert longest <= 2 * SLICE


async def test_a_full_disk_costs_one_line_of_the_log(mount, expect_log):
    """One of many values that cannot be shown now is named, and the others are counted."""
    expect_log(r"'k0' and 9 other keys shows later: .*No space left")
    handler = handlers_of(Adopting(mount.fs, mount.journal, SETTLE, mount.now))["told"]
    writes = [ToldWrite(mount.namespace, f"k{n}", mount.now(), b"x" * 900) for n in range(10)]
    with told_file(mount.base, writes) as file, small_disk(mount.journal.path, 0):
        assert await handler({"file": str(file)}, None) == {"count": 0}


async def test_a_change_that_is_not_at_the_server_stays_and_is_compared(mount):
    """A change that was made here since is not hidden, and both versions are kept."""
    await mount.kernel.write("ns/f", b"newer")
    assert await tell(mount, TOLD) == 0
    assert await mount.kernel.read("ns/f") == b"newer"
    await mount.drain()
    found = await mount.stored()
    assert found["f"].value == TOLD
    assert [entry.value for key, entry in found.items() if key != "f"] == [b"newer"]


@pytest.mark.parametrize("ago", [2, SETTLE + 1])
async def test_what_a_command_wrote_long_ago_hides_nothing_newer(mount, ago):
    """A write here after it was sent since; or it may have settled, and the store answers for it."""
    assert await tell(mount, TOLD, stores=False, ago=ago) == 0
    assert await mount.kernel.read("ns/f") == OURS


async def test_what_may_have_arrived_before_a_write_of_the_mount_hides_nothing(mount):
    """A write of the mount was on its way when the command's request began: it may be what the store has in the end."""
    await mount.kernel.write("ns/f", b"newer")
    mount.now.advance(2)
    await mount.drain()
    assert await tell(mount, TOLD, stores=False, ago=1) == 0
    assert await mount.kernel.read("ns/f") == b"newer"


@pytest.mark.parametrize("told", [[(3, 0), (2, 1)], [(2, 1), (3, 0)]], ids=["in order", "out of order"])
async def test_of_two_commands_the_later_one_shows(mount, told):
    """Each is told when it ends; the one whose request began later shows, whoever comes first."""
    mount.now.advance(9)
    values = [TOLD, b"what a later command wrote"]
    for ago, number in told:
        await tell(mount, values[number], stores=False, ago=ago)
    assert await mount.kernel.read("ns/f") == values[1]


async def test_it_is_compared_with_what_a_program_has_read(mount):
    """A program that read what was there before and writes it over keeps both."""
    kernel = mount.kernel
    file = await kernel.open("ns/f", os.O_RDWR)
    assert await kernel.pread(file, 0, 99) == OURS
    await tell(mount, TOLD)
    assert await kernel.pread(file, 0, 99) == OURS
    assert await kernel.read("ns/f") == TOLD
    await kernel.pwrite(file, 0, b"WHAT")
    await kernel.close(file)
    await mount.drain()
    found = await mount.stored()
    assert found.pop("f").value == TOLD
    assert [entry.value for entry in found.values()] == [b"WHAT" + OURS[4:]]


async def test_a_program_that_has_read_it_writes_it_over(mount):
    """Nothing is compared with anything older."""
    await tell(mount, TOLD)
    assert await mount.kernel.read("ns/f") == TOLD
    await mount.kernel.write("ns/f", b"next")
    await mount.drain()
    assert {key: entry.value for key, entry in (await mount.stored()).items()} == {"f": b"next"}


async def test_it_survives_a_crash(mount):
    """It survives a crash, as any change that has not settled."""
    await tell(mount, TOLD, stores=False)
    mount.restart()
    assert mount.journal.get(mount.namespace, "f").state is ChangeState.SETTLING
    assert mount.journal.value(mount.journal.get(mount.namespace, "f")) == TOLD


async def test_what_is_no_list_of_writes_is_refused(mount, tmp_path):
    """Garbage, a directory, nothing, a file that is too large."""
    handler = handlers_of(Adopting(mount.fs, mount.journal, SETTLE, mount.now))["told"]
    (tmp_path / "garbage").write_bytes(b"\xc1")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MOST_BYTES + 1)
    for name in ("garbage", ".", "missing", "large"):
        with pytest.raises(InvalidError):
            await handler({"file": str(tmp_path / name)}, None)


@pytest.mark.parametrize("told", [TOLD, OURS[::-1]], ids=["longer", "as long"])
async def test_the_history_has_what_a_command_wrote_beside_an_open_file(mount, told):
    """A program that saves over what a command wrote leaves that as a version, and not what it had read before."""
    mount.now.advance(SETTLE + 1)
    await mount.settle()
    file = await mount.kernel.open("ns/f", os.O_RDWR)
    await mount.kernel.pwrite(file, 0, b"!")
    assert await tell(mount, told) == 1
    await mount.kernel.close(file)
    mount.history.close()
    assert contents(mount.history.shelf.directory) == [("f", "write", told)]
