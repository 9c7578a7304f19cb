"""The request loop of pyfuse3, made to take the end of a connection as an end."""

import errno

import pyfuse3
import pytest

from kvfs.fuse.session import ends_well


async def test_an_aborted_read_is_an_end_and_any_other_failure_is_one() -> None:
    """ECONNABORTED while a request is read means a lost connection, and ends the loop as any other failure does."""

    async def loop(number: int) -> None:
        raise OSError(number, "fuse_session_receive_buf failed")

    wrapped = ends_well(loop)
    await wrapped(errno.ECONNABORTED)
    with pytest.raises(OSError, match="receive_buf") as raised:
        await wrapped(errno.EIO)
    assert raised.value.errno == errno.EIO


def test_pyfuse3_has_the_loop_that_is_wrapped() -> None:
    """The `main` of pyfuse3 looks the loop up by this name in the module, so the wrapped one is called."""
    assert callable(pyfuse3._session_loop)  # type: ignore[attr-defined]
