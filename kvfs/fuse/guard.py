"""The one guard around every handler: our errors become errnos, anything else EIO; a bound on waiting.

pyfuse3 ends the whole mount on any exception but FUSEError, so nothing else may leave a handler.
"""

import functools
import logging
from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import pyfuse3
import trio

from kvfs.core.errors import FileError, KvfsError
from kvfs.fuse import convert
from kvfs.vfs.rename.rename import SLACK

log = logging.getLogger("kvfs.fuse")

P = ParamSpec("P")
R = TypeVar("R")
Ops = TypeVar("Ops")

Handler = Callable[Concatenate[Ops, P], Coroutine[Any, Any, R]]
Answer: TypeAlias = R | Coroutine[Any, Any, R]
"""Of a prompt handler: the answer, or the coroutine that waits for it."""
PromptHandler = Callable[Concatenate[Ops, P], Answer[R]]


def guarded(handler: Handler[Ops, P, R]) -> Handler[Ops, P, R]:
    """Wrap a handler of `Operations` (whose `bound` is the deadline in seconds)."""

    @functools.wraps(handler)
    async def guard(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as exc:
            raise _told(handler.__name__, args, exc) from exc

    return guard


def prompt(handler: PromptHandler[Ops, P, R]) -> Handler[Ops, P, R]:
    """`guarded` for the hot handlers: a plain function that answers, or hands out what there is to wait for.

    A coroutine for nothing costs a fifth of a microsecond, which the caller waits for with an idle processor.
    """

    @functools.wraps(handler)
    async def guard(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            found = handler(self, *args, **kwargs)
            if found.__class__ is CoroutineType:
                return await found  # type: ignore[no-any-return]  # its class says what it is, not of what
            return found  # type: ignore[return-value]
        except pyfuse3.FUSEError:
            raise
        except Exception as exc:
            raise _told(handler.__name__, args, exc) from exc

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
        name = handler.__name__.lstrip("_")  # the rest of a handler is named for it
        log.warning("%s%r: no answer within %g s (ETIMEDOUT)", name, _plain(args), seconds)
        raise pyfuse3.FUSEError(convert.TIMED_OUT)

    return bound


def _told(name: str, args: tuple[Any, ...], error: Exception) -> pyfuse3.FUSEError:
    """What the kernel is to hear of an error; whoever has to know more is told."""
    if isinstance(error, KvfsError):
        number = convert.errno_of(error)
        _tell(name, args, number, error)
        return pyfuse3.FUSEError(number)
    log.error("%s%r failed: a bug of kvfs, please report it", name, _plain(args), exc_info=error)
    return pyfuse3.FUSEError(convert.INPUT_OUTPUT)


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
