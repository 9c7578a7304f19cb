"""Facts about requests that a caller and the limiter exchange past the wrappers between them.

The caller says that somebody waits for an upload, and hears when a request really began: how long an answer took
says how much the server copes with, how long the limiter kept it waiting does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import trio


@dataclass(slots=True)
class Passage:
    """A request's way: `began` is when (trio's time) it was let through; until then, when it was asked for."""

    began: float


_urgent: ContextVar[bool] = ContextVar("urgent", default=False)
_passage: ContextVar[Passage | None] = ContextVar("passage", default=None)


@contextmanager
def urgently(urgent: bool = True) -> Iterator[None]:
    """Requests made inside, by tasks begun inside too, go first: somebody waits for them in a system call."""
    token = _urgent.set(urgent)
    try:
        yield
    finally:
        _urgent.reset(token)


@contextmanager
def passage() -> Iterator[Passage]:
    """The way of the one request made inside."""
    way = Passage(trio.current_time())
    token = _passage.set(way)
    try:
        yield way
    finally:
        _passage.reset(token)


# For the limiter.


def is_urgent() -> bool:
    """True when the request being made is urgent."""
    return _urgent.get()


def began() -> None:
    """The request being made is let through now."""
    way = _passage.get()
    if way is not None:
        way.began = trio.current_time()
