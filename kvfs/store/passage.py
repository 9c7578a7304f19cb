"""Facts about requests that a caller and the limiter exchange past the wrappers between them.

The caller says that somebody waits for an upload, and hears when a request really began: how long an answer took
says how much the server copes with, how long the limiter kept it waiting does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf

import trio


@dataclass(slots=True)
class Passage:
    """A request's way: `began` is when (trio's time) it was let through; until then, when it was asked for.

    `answered` is when the first word of an answer came, if anybody noted it. `scope` is the caller's, to bound the
    wait by its deadline: time in the limiter's queue does not count for that.
    """

    began: float
    outer: "Passage | None" = None
    answered: float | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    _left: float = inf  # seconds to the deadline, while it is in the queue

    @property
    def seconds(self) -> float:
        """The seconds that the answer took, or has taken so far."""
        return (self.answered if self.answered is not None else trio.current_time()) - self.began


_urgent: ContextVar[bool] = ContextVar("urgent", default=False)
_passage: ContextVar[Passage | None] = ContextVar("passage", default=None)


@contextmanager
def urgently(urgent: bool = True) -> Iterator[None]:
    """Let requests made inside, by tasks begun inside too, go first, because a system call waits for them."""
    token = _urgent.set(urgent)
    try:
        yield
    finally:
        _urgent.reset(token)


@contextmanager
def passage() -> Iterator[Passage]:
    """Yield the way of the one request made inside. One inside another is the way of the same request."""
    way = Passage(trio.current_time(), _passage.get())
    token = _passage.set(way)
    try:
        yield way
    finally:
        _passage.reset(token)


def _ways() -> Iterator[Passage]:
    way = _passage.get()
    while way is not None:
        yield way
        way = way.outer


# For the limiter and those behind it.


def is_urgent() -> bool:
    """True when the request being made is urgent."""
    return _urgent.get()


def queued() -> None:
    """Note that the request being made may have to wait for its turn; it may be in a queue already."""
    for way in _ways():
        if way.scope.deadline < inf:
            way._left, way.scope.deadline = way.scope.deadline - trio.current_time(), inf


def began() -> None:
    """Note that the request being made is let through now."""
    for way in _ways():
        way.began, way.answered = trio.current_time(), None
        if way._left < inf:
            way._left, way.scope.deadline = inf, way.began + way._left


def heard() -> None:
    """Note that the first word of an answer to the request being made is there."""
    for way in _ways():
        way.answered = trio.current_time()
