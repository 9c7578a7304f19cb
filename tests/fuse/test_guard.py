"""The guard around handlers: it lets out nothing but FUSEError, and bounds every wait."""

import errno
import inspect

import pyfuse3
import pytest
import trio

from kvfs.core import errors
from kvfs.core.callers import Callers
from kvfs.fuse import convert
from kvfs.fuse.guard import guarded, unbounded
from kvfs.fuse.operations import Operations
from kvfs.fuse.system_calls import SystemCalls
from kvfs.vfs.answers import Answer


class Handlers:
    """A handler class in place of `Operations`."""

    def __init__(self) -> None:
        self.callers = Callers()
        self.system_calls = SystemCalls(1.0)
        self.hindrance = lambda: "the limit is used up"

    @guarded
    async def fail(self, error: BaseException) -> None:
        raise error

    @guarded
    async def wait(self, number: int) -> None:
        await trio.sleep_forever()

    @guarded
    def answer(self, value: int) -> Answer[int]:
        return value if value < 0 else self._later(value)

    @unbounded
    async def take_long(self, value: int) -> int:
        await trio.sleep(100)
        return value

    async def _later(self, value: int) -> int:
        await trio.sleep(0.5)
        return value


async def test_a_bug_answers_eio_and_is_logged_with_its_traceback(expect_log, caplog) -> None:
    """A ValueError in a handler is EIO to the caller; pyfuse3 never sees it."""
    expect_log("fail.*a bug of kvfs")
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().fail(ValueError("boom"))
    assert caught.value.errno == errno.EIO
    assert "boom" in caplog.text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NotFoundError("x"), errno.ENOENT),
        (errors.NameNotTextError("x"), errno.EILSEQ),
        (errors.FileTooBigError("x"), errno.EFBIG),
        (errors.StaleError("x"), errno.ESTALE),
    ],
)
async def test_our_errors_become_errnos(error: errors.KvfsError, expected: int) -> None:
    """The table gives each of our errors its errno, and ordinary refusals are no warnings."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().fail(error)
    assert caught.value.errno == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.QuotaError("x"), errno.EDQUOT),
        (errors.DeniedError("x"), errno.EACCES),
        (errors.RateLimitedError("x"), errno.EIO),
        (errors.JournalFullError("x"), errno.ENOSPC),
        (errors.KvfsError("x"), errno.EIO),
    ],
)
async def test_trouble_with_the_store_is_told(error: errors.KvfsError, expected: int, expect_log) -> None:
    """Trouble with the store is logged with the errno's name, because the caller cannot know of it."""
    expect_log(errno.errorcode[expected])
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().fail(error)
    assert caught.value.errno == expected


async def test_waiting_is_bounded(autojump_clock, expect_log) -> None:
    """A handler that waits for ever answers ETIMEDOUT; one that answers in time, or bounds itself, does not."""
    expect_log("no answer within 1 s")
    assert await Handlers().answer(7) == 7
    assert await Handlers().answer(-7) == -7
    assert await Handlers().take_long(8) == 8
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await Handlers().wait(1)
    assert caught.value.errno == errno.ETIMEDOUT


async def test_cancelling_from_outside_is_not_swallowed(autojump_clock) -> None:
    """A cancellation from outside passes the guard: when the daemon ends, a handler gives no answer."""
    with trio.move_on_after(0.1) as scope:
        await Handlers().wait(1)
    assert scope.cancelled_caught


def test_every_handler_is_guarded() -> None:
    """Each method that pyfuse3 calls went through the guard, and every FileError has its errno."""
    for name, method in vars(Operations).items():
        if callable(method) and not name.startswith("_"):
            assert hasattr(method, "__wrapped__"), name
            assert inspect.iscoroutinefunction(method), name
    for kind in errors.FileError.__subclasses__():
        assert convert.errno_of(kind("x")) != errno.EIO, kind
