"""The one guard around every handler: our errors become errnos, anything else EIO; a bound on waiting; who called.

pyfuse3 ends the whole mount on any exception but FUSEError, so nothing else may leave a handler.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Coroutine
from time import perf_counter_ns as clock
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import pyfuse3
import trio

from kvfs.core.callers import LOOKS, SLACK, Call, Callers, calling, door
from kvfs.core.durations import SKIP, add, add_timed
from kvfs.core.errors import FileError, KvfsError, OutOfTimeError, TimedOutError
from kvfs.fuse import convert
from kvfs.fuse.system_calls import FAILED, SystemCalls
from kvfs.fuse.words import words
from kvfs.vfs.answers import Answer
from kvfs.vfs.filesystem import FileSystem

log = logging.getLogger("kvfs.fuse")

P = ParamSpec("P")
R = TypeVar("R")
Ops = TypeVar("Ops")

FuseHandler = Callable[Concatenate[Ops, P], Coroutine[Any, Any, R]]
PlainHandler = Callable[Concatenate[Ops, P], Answer[R]]


class _Door(Protocol):
    """The part of a handler's object that the guard needs.

    `hindrance` returns why requests to the store wait at the moment, in words; "" when they do not.
    """

    callers: Callers
    system_calls: SystemCalls
    hindrance: Callable[[], str]


@overload
def guarded(handler: FuseHandler[Ops, P, R]) -> FuseHandler[Ops, P, R]: ...
@overload
def guarded(handler: PlainHandler[Ops, P, R]) -> FuseHandler[Ops, P, R]: ...
def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler of `Operations`: a function that answers, or hands out the coroutine that waits.

    What waits is bounded by what the caller's system call has left, *because* a program that waits in a handler
    cannot even be killed.
    """
    return _guarded(handler, is_bounded=True)


def unbounded(handler: FuseHandler[Ops, P, R]) -> FuseHandler[Ops, P, R]:
    """Wrap a handler like `guarded` that may wait for as long as it makes progress: it sees to that itself."""
    return _guarded(handler, is_bounded=False)


def _guarded(handler: Callable[..., Any], *, is_bounded: bool) -> Callable[..., Any]:
    """Wrap a handler.

    A coroutine for nothing costs a fifth of a microsecond, which the caller waits for with an idle processor. So
    do other things: only what waits has a deadline, and only some of the answers that take no waiting are timed.
    """
    operation, is_by_context = handler.__name__, _names_caller(handler)

    @functools.wraps(handler)  # pyfuse3 passes everything by position
    async def guard(*all_args: Any) -> Any:
        self: Any = all_args[0]  # no parameter of its own, because to join it with the others makes a list
        callers: Callers = self.callers
        thread = 0
        if not is_by_context:
            caller = callers.held.get(all_args[1]) or callers.own  # a handle
        elif (context := all_args[-1]) is not None:
            thread = context.pid
            caller = callers.by_thread.get(thread) or callers.meet(thread, context.uid)
        else:  # only without a kernel
            caller = callers.own
        try:
            times = caller.times[operation]
        except KeyError:
            times = caller.begin(operation)
        if skip := times[SKIP]:
            times[SKIP] = skip - 1
            began = 0
        else:
            began = clock()
        call = None
        door.caller = caller
        try:
            found: Any = handler(*all_args)
            door.caller = None
            if found.__class__ is CoroutineType:
                times[SKIP] = skip  # it is timed for itself
                began, call = clock(), Call(caller)
                calling.set(call)
                waiting = _Waiting(self, operation, thread, all_args[1:], call)
                return await waiting.answer(found, is_bounded=is_bounded)
            if thread and thread in self.system_calls.latest:
                self.system_calls.passed(thread, operation, all_args[1:], found, trio.current_time())
            return found
        except pyfuse3.FUSEError:
            door.caller = None
            raise
        except Exception as exc:
            door.caller = None
            raise _told(self, handler, all_args[1:], exc) from exc
        finally:
            if began:
                if call is not None:
                    _ended(call, operation, clock() - began)
                else:
                    add_timed(times, clock() - began)
                    if caller.calls < LOOKS:
                        callers.call_again(caller)

    return guard


class _Waiting:
    """A request that waits, as a part of a system call. A deadline costs as much as a whole lookup."""

    __slots__ = ("_args", "_calls", "_operation", "_whole")

    def __init__(self, door: _Door, operation: str, thread: int, args: tuple[Any, ...], call: Call) -> None:
        self._calls = door.system_calls
        self._operation, self._args = operation, args
        self._whole = self._calls.begin(thread, operation, args, trio.current_time())
        call.until = self._whole.until

    async def answer(self, coming: Coroutine[Any, Any, R], *, is_bounded: bool) -> R:
        """Await the answer. With `is_bounded` it comes in time, or `TimedOutError` is raised."""
        answer: object = FAILED
        try:
            if not is_bounded:
                answer = found = await coming
                return found
            with trio.move_on_at(self._whole.until + SLACK):
                answer = found = await coming
                return found
            raise TimedOutError(f"no answer within {self._calls.bound:g} s")
        finally:
            now = trio.current_time()
            self._calls.end(self._whole, self._operation, self._args, answer, now)


def unseen(handler: PlainHandler[Ops, P, R]) -> FuseHandler[Ops, P, R]:
    """Wrap a handler of what the kernel does by itself: no process asked for it, and it answers at once."""

    @functools.wraps(handler)
    async def guard(self: Ops, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return handler(self, *args, **kwargs)  # type: ignore[return-value]
        except Exception as exc:
            raise _told(self, handler, args, exc) from exc  # type: ignore[arg-type]

    return guard


def _names_caller(handler: Callable[..., object]) -> bool:
    """True if the kernel says who calls: it does so with a context, which comes last; else with a handle only."""
    return list(inspect.signature(handler).parameters)[-1] == "ctx"


def _ended(call: Call, operation: str, spent: int) -> None:
    """Count an operation that may have waited: meanwhile others may have been met, and the caller folded."""
    caller = call.caller.counted()
    add(caller.times.get(operation) or caller.begin(operation), spent)
    caller.waits += call.has_waited


def _told(
    operations: _Door, handler: Callable[..., Any], args: tuple[Any, ...], error: Exception
) -> pyfuse3.FUSEError:
    """Convert an error for the kernel, and report it to the log and to listeners."""
    if isinstance(error, KvfsError):
        number = convert.errno_of(error)
        _tell(operations, handler, args, number, error)
        return pyfuse3.FUSEError(number)
    said = _words(operations, handler, args)
    log.error("%s failed: a bug of kvfs, please report it", said, exc_info=error)
    return pyfuse3.FUSEError(convert.INPUT_OUTPUT)


def _tell(
    operations: _Door, handler: Callable[..., Any], args: tuple[Any, ...], number: int, error: KvfsError
) -> None:
    """Log trouble with the store, which is the user's business; an ordinary refusal is only the caller's."""
    is_late = isinstance(error, TimedOutError | OutOfTimeError)
    level = logging.DEBUG if isinstance(error, FileError) and not is_late else logging.WARNING
    if log.isEnabledFor(level):
        reason = operations.hindrance() if is_late else ""
        said = f"{error}: {reason}" if reason else str(error)
        log.log(level, "%s: %s: %s", _words(operations, handler, args), convert.name_of(number), said)


def _words(operations: object, handler: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return the call in words; its name alone where there is no file system behind it."""
    fs = getattr(operations, "_fs", None)
    return words(fs, handler, args) if isinstance(fs, FileSystem) else handler.__name__
