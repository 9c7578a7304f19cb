"""Answers of the vfs: what can be told at once is told; else there is a coroutine, and the caller awaits it.

The calls that the kernel makes most are plain functions that return an `Answer`, *because* most of them take no
waiting, and a coroutine for nothing costs more than some of them. Whoever gets an answer hands it on, goes on with
`then`, or awaits `answered`.
"""

from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeAlias, TypeVar, TypeVarTuple

T = TypeVar("T")
R = TypeVar("R")
More = TypeVarTuple("More")

Answer: TypeAlias = T | Coroutine[Any, Any, T]
"""The answer of a call, or the coroutine that waits for it: to be awaited once."""


def then(answer: Answer[T], act: Callable[[T, *More], Answer[R]], *more: *More) -> Answer[R]:
    """Go on with an answer, and `more`: now if it is there, else when it has come."""
    if answer.__class__ is CoroutineType:
        return _later(answer, act, *more)  # its class says what it is, not of what
    if not more:  # because to put an answer before the others, or before none, makes a list
        return act(answer)  # type: ignore[arg-type, call-arg]  # a cast would be a call
    return act(answer, *more)  # type: ignore[arg-type]


async def _later(coming: Coroutine[Any, Any, T], act: Callable[[T, *More], Answer[R]], *more: *More) -> R:
    return await answered(act(await coming, *more))


async def answered(answer: Answer[T]) -> T:
    """Return the answer, waiting for it if need be."""
    if answer.__class__ is CoroutineType:
        return await answer  # type: ignore[no-any-return]
    return answer  # type: ignore[return-value]
