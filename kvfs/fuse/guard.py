"""The one guard around every handler: our errors become errnos, anything else EIO; a bound on waiting.

pyfuse3 ends the whole mount on any exception but FUSEError, so nothing else may leave a handler.
"""

import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio

from kvfs.core.errors import FileError, KvfsError
from kvfs.fuse import convert
from kvfs.vfs.renames import SLACK

log = logging.getLogger("kvfs.fuse")

P = ParamSpec("P")
R = TypeVar("R")
Ops = TypeVar("Ops")

Handler = Callable[Concatenate[Ops, P], Coroutine[Any, Any, R]]


def guarded(handler: Handler[Ops, P, R]) -> Handler[Ops, P, R]:
    """Wrap a handler of `Operations` (whose `bound` is the deadline in seconds)."""

    @functools.wraps(handler)
    async def guard(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except KvfsError as exc:
            number = convert.errno_of(exc)
            _tell(handler.__name__, args, number, exc)
            raise pyfuse3.FUSEError(number) from exc
        except Exception as exc:
            log.exception("%s%r failed: a bug of kvfs, please report it", handler.__name__, _plain(args))
            raise pyfuse3.FUSEError(convert.INPUT_OUTPUT) from exc

    return guard


def bounded(handler: Handler[Ops, P, R]) -> Handler[Ops, P, R]:
    """A guarded handler that may wait for the store: it answers within the bound, come what may."""
    return guarded(in_time(handler))


def in_time(handler: Handler[Ops, P, R]) -> Handler[Ops, P, R]:
    """What a guarded handler may wait for, within the bound: one that waits cannot even be killed.

    A deadline costs as much as a whole lookup: the hot handlers first answer what takes no waiting.
    """

    @functools.wraps(handler)
    async def bound(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> R:
        seconds: float = self.bound  # type: ignore[attr-defined]  # of Operations
        with trio.move_on_after(seconds + SLACK):
            return await handler(self, *args, **kwargs)
        log.warning("%s%r: no answer within %g s (ETIMEDOUT)", handler.__name__, _plain(args), seconds)
        raise pyfuse3.FUSEError(convert.TIMED_OUT)

    return bound


def _tell(name: str, args: tuple[Any, ...], number: int, error: KvfsError) -> None:
    """Ordinary refusals are the caller's business; trouble with the store is the user's."""
    if isinstance(error, FileError):
        log.debug("%s%r: %s: %s", name, _plain(args), convert.name_of(number), error)
    else:
        log.warning("%s%r: %s: %s", name, _plain(args), convert.name_of(number), error)


def _plain(args: tuple[Any, ...]) -> tuple[object, ...]:
    """Arguments for the log: numbers and names, never contents."""
    return tuple(
        arg if isinstance(arg, int) else arg[:64] if isinstance(arg, bytes) else type(arg).__name__
        for arg in args
    )
