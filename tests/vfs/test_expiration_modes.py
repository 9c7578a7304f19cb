"""`--expiration`: an mtime in the future, or an attribute, says when a key expires."""

import pytest
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.errors import InvalidError, NoAttributeError
from kvfs.core.times import SECOND

EXPIRATION, TTL = "user.kvfs.expiration", "user.kvfs.ttl"


@pytest.fixture
async def by_attribute(tmp_path):
    """Yield a mount with `--expiration=attribute`."""
    async with open_rig(tmp_path, now=Clock(), expiration="attribute") as rig:
        yield rig


@pytest.mark.parametrize("ahead", [-5, 3, 20, 59, 70, 10**6, 10**9])
async def test_an_mtime_is_an_mtime_whatever_its_date(by_attribute, ahead):
    """With `attribute` no mtime is refused whatever its date, and the key does not expire; over a remount too."""
    rig = by_attribute
    await rig.kernel.write("/ns/f", b"x")
    then = int(rig.now()) + ahead
    assert (await rig.kernel.utimens("/ns/f", then)).mtime == then
    await rig.drain()
    assert (await rig.stored())["f"].expiration is None
    rig.restart()
    assert (await rig.kernel.stat("/ns/f")).mtime == then
    rig.now.advance(max(ahead, 0) + 100)
    assert await rig.kernel.exists("/ns/f")
    assert rig.fs.attributes.expirations == 0


async def test_an_expiration_is_set_shown_and_listed_by_attributes(by_attribute):
    """An expiration set by attribute leaves the mtime, stays after a touch, and ends when the attribute is removed."""
    rig, kernel = by_attribute, by_attribute.kernel
    await kernel.write("/ns/f", b"x")
    await kernel.setxattr("/ns/f", "user.colour", b"red")
    before = (await kernel.stat("/ns/f")).mtime_ns
    assert await kernel.listxattr("/ns/f") == ["user.colour"]
    expiration = int(rig.now()) + 500
    await kernel.setxattr("/ns/f", EXPIRATION, b"%d" % expiration)
    assert await kernel.listxattr("/ns/f") == ["user.colour", TTL, EXPIRATION]
    assert await kernel.getxattr("/ns/f", TTL) == b"500"
    assert (await kernel.stat("/ns/f")).mtime_ns == before
    await kernel.utimens("/ns/f", 5)
    await rig.drain()
    assert (await rig.stored())["f"].expiration == expiration
    await kernel.removexattr("/ns/f", EXPIRATION)
    assert await kernel.listxattr("/ns/f") == ["user.colour"]
    with pytest.raises(NoAttributeError):
        await kernel.getxattr("/ns/f", TTL)
    assert (await kernel.stat("/ns/f")).mtime == 5
    await rig.drain()
    assert (await rig.stored())["f"].expiration is None


@pytest.mark.parametrize("mode", ["mtime", "attribute"])
async def test_milliseconds_for_seconds_are_kept_and_logged(tmp_path, expect_log, mode):
    """JavaScript's Date.now() is taken as it is, by attribute or by touch, and the log says what was meant."""
    async with open_rig(tmp_path, now=Clock(), expiration=mode) as rig:
        moment = int(rig.now() * 1000)
        await rig.kernel.write("/ns/f", b"x")
        await rig.kernel.setxattr("/ns/f", EXPIRATION, b"%d" % (moment // 1000 + 500))
        expect_log(f"'f' expires far from now: KV counts seconds, and {moment} .*write {moment // 1000}")
        if mode == "attribute":
            await rig.kernel.setxattr("/ns/f", EXPIRATION, b"%d" % moment)
        else:
            await rig.kernel.utimens("/ns/f", moment)
        assert await rig.kernel.getxattr("/ns/f", EXPIRATION) == b"%d" % moment


async def test_another_clients_expiration_is_no_mtime(by_attribute):
    """Another client's expiration shows as an attribute and not as mtime, and the key is gone in time."""
    rig, kernel = by_attribute, by_attribute.kernel
    await rig.other("f", b"x", ahead=100)
    assert (await kernel.stat("/ns/f")).mtime <= rig.now()
    assert await kernel.listxattr("/ns/f") == [TTL, EXPIRATION]
    rig.now.advance(100)
    assert not await kernel.exists("/ns/f")


@pytest.mark.parametrize("later", [0, 30])
@pytest.mark.parametrize("order", [(TTL, EXPIRATION), (EXPIRATION, TTL)])
async def test_a_copy_of_both_attributes_has_the_very_expiration(by_attribute, order, later):
    """A copy of both attributes, in any order and with a ttl some seconds old, has the very same expiration."""
    rig, kernel = by_attribute, by_attribute.kernel
    await rig.other("f", b"x", ahead=100)
    read = {name: await kernel.getxattr("/ns/f", name) for name in order}
    rig.now.advance(later)
    await kernel.write("/ns/g", b"x")
    for name in order:
        await kernel.setxattr("/ns/g", name, read[name])
    assert await kernel.getxattr("/ns/g", EXPIRATION) == read[EXPIRATION]


async def test_a_ttl_that_was_read_and_set_again_is_no_change(by_attribute):
    """A ttl that was read and set again, as `rsync -X` does when the second has changed, sends nothing."""
    rig, kernel = by_attribute, by_attribute.kernel
    await rig.other("f", b"x", ahead=100)
    ttl = await kernel.getxattr("/ns/f", TTL)
    rig.now.advance(2)
    await kernel.setxattr("/ns/f", TTL, ttl)
    assert rig.journal.pending() == []


async def test_a_ttl_set_after_an_expiration_counts_where_it_is_no_copy_of_it(by_attribute):
    """A ttl after an expiration counts if it is no copy of it: shorter, much longer, or set a moment later."""
    rig, kernel = by_attribute, by_attribute.kernel
    await kernel.write("/ns/f", b"x")
    for ttl, wait in ((500, 0), (1500, 0), (1020, 2)):
        await kernel.setxattr("/ns/f", EXPIRATION, b"%d" % (int(rig.now()) + 1000))
        rig.now.advance(wait)
        await kernel.setxattr("/ns/f", TTL, b"%d" % ttl)
        assert await kernel.getxattr("/ns/f", TTL) == b"%d" % ttl


async def test_an_expiration_too_soon_is_refused_in_either_mode(by_attribute):
    """KV's floor refuses an expiration that is set too soon, in either mode."""
    kernel = by_attribute.kernel
    await kernel.write("/ns/f", b"x")
    with pytest.raises(InvalidError):
        await kernel.setxattr("/ns/f", TTL, b"59")


async def test_who_saves_by_replacing_keeps_the_expiration(by_attribute):
    """A save by replacing keeps the expiration, as with mtimes, because the new file has none of its own."""
    rig, kernel = by_attribute, by_attribute.kernel
    await rig.other("f", b"x", ahead=500)
    await kernel.stat("/ns/f")
    await kernel.write("/ns/new", b"y")
    await kernel.rename("/ns/new", "/ns/f")
    assert await kernel.getxattr("/ns/f", TTL) == b"500"
    await kernel.rename("/ns/f", "/ns/g")
    await rig.drain()
    assert (await rig.stored())["g"].expiration == int(rig.now()) + 500


async def test_with_mtime_a_date_to_come_is_logged_and_counted(mount, kernel, caplog, expect_log):
    """With `mtime` a future date is logged and counted, and not listed, so that nobody copies it.

    A past date is neither.
    """
    caplog.set_level("INFO", "kvfs.vfs")
    await kernel.write("/ns/f", b"x")
    await kernel.setattr("/ns/f", mtime_ns=(int(mount.now()) + 500) * SECOND)
    await kernel.utimens("/ns/f", 5)
    assert mount.fs.attributes.expirations == 1
    told = [record.getMessage() for record in caplog.records if "because its mtime" in record.getMessage()]
    assert len(told) == 1
    assert "'f' expires at 20" in told[0]
    expect_log("'f' expires far from now")
    await kernel.setattr("/ns/f", mtime_ns=2**52 * SECOND)  # no calendar has that year
    assert await kernel.listxattr("/ns/f") == []
