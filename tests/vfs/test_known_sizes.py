"""Sizes outlive the values that made room for others: they are shown while the store cannot be asked."""

import os

import pytest
from support.clock import Clock
from support.rig import open_rig

from kvfs.core.errors import DeniedError, UnavailableError
from kvfs.core.limits import VALUE_BYTES

AWAY = [UnavailableError("away"), DeniedError("revoked")]


@pytest.fixture
async def small(tmp_path):
    """A mount whose cache holds one value at a time."""
    async with open_rig(tmp_path, now=Clock(), cache_size=1) as rig:
        yield rig


@pytest.mark.parametrize("what", ["bulk_get", "*"])
@pytest.mark.parametrize("error", AWAY)
@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_size_that_was_known_is_shown_while_the_value_cannot_be_read(small, what, error, is_ours):
    """The most there can be is for files of which nothing is known. The names may be listed all the same."""
    kernel = small.kernel
    for name in ("f", "g"):
        await (kernel.write(f"/ns/{name}", b"12345") if is_ours else small.other(name, b"12345"))
    await small.drain()
    for name in ("f", "g"):
        assert (await kernel.stat(f"/ns/{name}")).size == 5
    assert small.reading.values.peek((small.namespace, "f")) is None
    assert await kernel.exists("/ns/g")
    small.now.advance(small.config.cache_ttl + 1)
    small.store.fail(what, error)
    assert (await kernel.stat("/ns/f")).size == 5
    file = await kernel.open("/ns/f", os.O_WRONLY | os.O_TRUNC)
    await kernel.close(file)
    assert (await kernel.stat("/ns/f")).size == 0


async def test_a_size_that_was_never_known_is_shown_as_the_most_there_can_be(mount, kernel):
    """A program that copies by the size misses nothing."""
    await mount.other("f", b"12345")
    assert await kernel.listdir("/ns") == ["f"]
    mount.store.fail("bulk_get")
    assert (await kernel.stat("/ns/f")).size == VALUE_BYTES


async def test_the_size_of_what_was_written_here_is_known_when_it_has_settled(mount, kernel):
    """The value is large, was never whole in memory, and its attributes were changed meanwhile."""
    file = await kernel.open("/ns/f", os.O_RDWR | os.O_CREAT)
    for offset in range(0, 700_000, 100_000):
        await kernel.pwrite(file, offset, b"x" * 100_000)
    await kernel.close(file)
    await kernel.setxattr("/ns/f", "user.a", b"1")  # before it was read back
    await mount.drain()
    calls = len(mount.store.calls)
    assert (await kernel.stat("/ns/f")).size == 700_000
    assert len(mount.store.calls) == calls
