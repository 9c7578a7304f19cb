"""Readers and writers: how entries come from a place and go to one. A store, a directory and a file all look like this.

A reader is asked twice: `scan` names the items, without values where these cost requests; `take` brings the values of
named items, in their order. A writer is given batches; each is at the target when `write` returns, and `position` says
where a later run goes on.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from kvfs.core.model import Key
from kvfs.data.items import Item, Loaded, Problem

TAKE_ITEMS: Final = 1000  # items that are named to `take` at a time, at most


class Scanned(Struct, frozen=True):
    """A part of a scan. A scan that is begun with `mark` goes on behind it; "" begins anew."""

    items: Sequence[Item]
    problems: Sequence[Problem] = ()
    mark: str = ""


class Taken(Struct, frozen=True):
    """The first of the items asked for, with their values; the problems of others; and the items that are left."""

    loaded: Sequence[Loaded]
    left: Sequence[Item]
    problems: Sequence[Problem] = ()


class Reader(Protocol):
    """A source of a copy."""

    def scan(self, mark: str) -> AsyncGenerator[Scanned]:
        """Yield all items from a mark on."""

    async def take(self, items: Sequence[Item]) -> Taken:
        """Return the values of some of `items`, from the first one on; at least one of them is answered."""

    def fingerprint(self) -> str:
        """Return a text that changes when a scan would find something else; "" where that cannot be told."""

    async def aclose(self) -> None:
        """Close what is open."""


async def read_all(
    take: Callable[[Sequence[Item]], Awaitable[Taken]],
    items: Sequence[Item],
    use: Callable[[Sequence[Loaded]], object],
) -> list[Problem]:
    """Take the values of all `items`, and give each part to `use`. Return the values that could not be read."""
    problems: list[Problem] = []
    for start in range(0, len(items), TAKE_ITEMS):
        left = items[start : start + TAKE_ITEMS]
        while left:
            taken = await take(left)
            left = taken.left
            problems += taken.problems
            use(taken.loaded)
    return problems


class Writer(Protocol):
    """A target of a copy."""

    @property
    def pairs(self) -> int:
        """Return the number of entries that a batch should have now."""

    @property
    def position(self) -> str:
        """Return the position from which a later run goes on."""

    async def open(self, position: str) -> None:
        """Begin, or go on at a position."""

    async def write(self, batch: Sequence[Loaded]) -> Sequence[Problem]:
        """Write a batch; return the items that could not be written. The others are at the target at return."""

    async def delete(self, keys: Sequence[tuple[Key, str]]) -> Sequence[Problem]:
        """Remove entries, each with the origin that a scan of the target gave it."""

    async def finish(self) -> None:
        """Complete the copy."""

    async def aclose(self) -> None:
        """Close what is open."""
