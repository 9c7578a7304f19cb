"""RELEASE: a change through a mapping after the last close is recorded, within a bound."""

import errno
import os

import pyfuse3
import pytest
import trio
from support.rig import open_rig

from kvfs.core.digest import INLINE_BYTES
from kvfs.fuse.operations import Operations

PATIENCE = 60.0  # virtual seconds, well above `--timeout`


async def test_a_release_that_waits_for_a_hung_disk_is_answered(
    tmp_path, autojump_clock, monkeypatch, expect_log
):
    """A release that waits for a hung disk answers ETIMEDOUT.

    The handle is gone all the same, and the log names the file.
    """
    async with open_rig(tmp_path, timeout=5.0) as rig:
        operations = Operations(rig.fs, uid=0, gid=0)
        file = await rig.kernel.open("/ns/f", os.O_CREAT | os.O_RDWR)
        await rig.kernel.flush(file)
        rig.fs.files.contents.write(file.number, 0, b"x" * 10)
        rig.fs.files.contents.write(
            file.number, 5, b"y" * INLINE_BYTES
        )  # no stream: one buffer, to be spooled

        async def hangs(value):
            await trio.sleep_forever()

        monkeypatch.setattr(rig.journal, "spool", hangs)
        expect_log("what was written after its last close is not kept")
        expect_log("no answer within")
        with trio.fail_after(PATIENCE), pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.release(file.number)
        assert caught.value.errno == errno.ETIMEDOUT
        assert len(rig.fs.handles) == 0
        monkeypatch.undo()
        rig.kernel._hold(file.path, -1)
        assert await rig.kernel.read("/ns/f") == b""
