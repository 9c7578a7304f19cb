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
from kvfs.fuse.words import words
from kvfs.vfs.filesystem import FileSystem
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
            raise _told(self, handler, args, exc) from exc

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
            raise _told(self, handler, args, exc) from exc

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
        log.warning("%s: ETIMEDOUT: no answer within %g s", _words(self, handler, args), seconds)
        raise pyfuse3.FUSEError(convert.TIMED_OUT)

    return bound


def _told(
    operations: object, handler: Callable[..., Any], args: tuple[Any, ...], error: Exception
) -> pyfuse3.FUSEError:
    """What the kernel is to hear of an error; whoever has to know more is told."""
    if isinstance(error, KvfsError):
        number = convert.errno_of(error)
        _tell(operations, handler, args, number, error)
        return pyfuse3.FUSEError(number)
    said = _words(operations, handler, args)
    log.error("%s failed: a bug of kvfs, please report it", said, exc_info=error)
    return pyfuse3.FUSEError(convert.INPUT_OUTPUT)


def _tell(
    operations: object, handler: Callable[..., Any], args: tuple[Any, ...], number: int, error: KvfsError
) -> None:
    """Ordinary refusals are the caller's business; trouble with the store is the user's."""
    level = logging.DEBUG if isinstance(error, FileError) else logging.WARNING
    if log.isEnabledFor(level):
        log.log(level, "%s: %s: %s", _words(operations, handler, args), convert.name_of(number), error)


def _words(operations: object, handler: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The call in words; its name alone where there is no file system behind it."""
    fs = getattr(operations, "_fs", None)
    return words(fs, handler, args) if isinstance(fs, FileSystem) else handler.__name__.lstrip("_")
