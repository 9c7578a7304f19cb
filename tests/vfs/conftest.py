"""A mount below the kernel: one namespace `ns`, and `mount.now.advance` to let time pass.

A test that has one key sent twice also takes `autojump_clock`: the sender waits a second in between.
"""

import pytest
from support.clock import Clock
from support.rig import open_rig


@pytest.fixture
async def mount(tmp_path):
    """A `Rig` with a store, a journal and a file system."""
    async with open_rig(tmp_path, now=Clock()) as rig:
        yield rig


@pytest.fixture
def kernel(mount):
    """System calls on the mount."""
    return mount.kernel
