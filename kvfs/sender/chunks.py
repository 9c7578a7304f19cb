"""Many changes a few at a time, so that nobody else waits for long."""

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final

import trio

from kvfs.core.model import Change

CHUNK: Final = 500  # rows of the journal touched between two checkpoints: a millisecond or two


def chunks(changes: Iterable[Change], *, most_bytes: float = inf) -> Iterator[Sequence[Change]]:
    """Yield the changes in their order, so many at a time."""
    some: list[Change] = []
    size = 0
    for change in changes:
        if len(some) >= CHUNK or (some and size + change.size > most_bytes):
            yield some
            some, size = [], 0
        some.append(change)
        size += change.size
    if some:
        yield some


async def turn(number: int, *, shield: bool = False) -> None:
    """Give the other tasks a turn between two chunks; one chunk alone, an fsync's for instance, is done in one go."""
    if number:
        with trio.CancelScope(shield=shield):
            await trio.lowlevel.checkpoint()
