"""Answers of the vfs: what can be told at once is told; else there is a coroutine, and the caller awaits it.

The calls that the kernel makes most are plain functions that return an `Answer`, *because* most of them take no
waiting, and a coroutine for nothing costs more than some of them. Whoever gets an answer hands it on, goes on with
`then`, or awaits `answered`.
"""

from collections.abc import Callable, Coroutine
from types import CoroutineType
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Answer: TypeAlias = T | Coroutine[Any, Any, T]
"""The answer of a call, or the coroutine that waits for it: to be awaited once."""


def then(answer: Answer[T], act: Callable[[T], Answer[R]]) -> Answer[R]:
    """Go on with an answer: now if it is there, else when it has come."""
    if answer.__class__ is CoroutineType:
        return _later(answer, act)  # its class says what it is, not of what
    return act(answer)  # type: ignore[arg-type]  # a cast would be a call


async def _later(coming: Coroutine[Any, Any, T], act: Callable[[T], Answer[R]]) -> R:
    return await answered(act(await coming))


async def answered(answer: Answer[T]) -> T:
    """Return the answer, waiting for it if need be."""
    if answer.__class__ is CoroutineType:
        return await answer  # type: ignore[no-any-return]
    return answer  # type: ignore[return-value]
