"""Many things a few at a time, so that nobody else waits for long."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

import trio

T = TypeVar("T")
CHUNK: Final = 500  # rows of the journal touched between two checkpoints: a millisecond or two


def chunks(items: Iterable[T], most: int = CHUNK) -> Iterator[Sequence[T]]:
    """Yield the items in their order, so many at a time."""
    left = iter(items)
    while some := list(islice(left, most)):
        yield some


async def turn(number: int, *, shield: bool = False) -> None:
    """Give the other tasks a turn between two chunks; one chunk alone, an fsync's for instance, is done in one go."""
    if number:
        with trio.CancelScope(shield=shield):
            await trio.lowlevel.checkpoint()
