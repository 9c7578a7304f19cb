"""Helpers of the commands on single stores: open SOURCE[/KEY], list keys, say times and prices in words."""

import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar

import trio

from kvfs.cli.output import complain, duration_text, first_of
from kvfs.cli.places import Access, parse_store
from kvfs.cli.sides import open_sides
from kvfs.core.errors import UserError
from kvfs.core.expiry import LAST_DATE, is_expired, year_of
from kvfs.core.kinds import Kinds
from kvfs.core.model import Key, NamespaceId
from kvfs.data.items import HARMLESS, Item, Problem
from kvfs.data.storeplace import StoreReader
from kvfs.store.base import Store

T = TypeVar("T")

FAR_SECONDS: Final = 2 * 365 * 86_400  # from here on a date says more than days
SHOWN: Final = 20  # values that could not be read


@dataclass(frozen=True, slots=True)
class SourceKeys:
    """A namespace that is open, and the key or prefix behind its name. `is_billed`: its requests cost something."""

    store: Store
    namespace: NamespaceId
    rest: str
    kinds: Kinds
    is_billed: bool
    access: Access

    @property
    def key(self) -> Key:
        """Return the key that was named. Raises `UserError` when none was."""
        if not self.rest:
            raise UserError("name a key: SOURCE/KEY")
        return Key(self.rest)

    async def below(self) -> AsyncGenerator[list[Item]]:
        """Yield pages of the keys that have not expired, and are named by the path `rest` or lie below it."""
        reader = StoreReader(self.store, self.namespace, self.rest, self.kinds)
        async with aclosing(reader.scan("")) as parts:
            async for part in parts:
                now = time.time()
                yield [
                    item
                    for item in part.items
                    if _is_below(item.key, self.rest) and not is_expired(item.expiration, now)
                ]

    async def look(self, key: Key) -> Item | None:
        """Return one key as the listing has it, by one request."""
        page = await self.store.list_keys(self.namespace, prefix=key, limit=10)
        for line in page.keys:
            if line.key == key and not is_expired(line.expiration, time.time()):
                return Item(line.key, line.key, line.metadata, line.expiration)
        return None


def run_on_keys(
    source: str, access: Access, work: Callable[[SourceKeys], Awaitable[T]], *, writes: bool = False
) -> T:
    """Run `work` on the namespace that SOURCE names; return its result. With `writes` it changes keys."""
    words = parse_store(source, access)

    async def run() -> T:
        async with open_sides(access) as sides:
            side = await sides.open(words, is_target=writes)
            assert side.store is not None
            namespace = side.namespace or await side.store.get(words.namespace)
            is_billed = side.store.rest is not None
            return await work(
                SourceKeys(side.store.store, namespace, words.rest, side.kinds, is_billed, access)
            )

    return trio.run(run)


def _is_below(key: str, rest: str) -> bool:
    """True if a key is named by the path `rest`, or lies below it."""
    return not rest or rest.endswith("/") or key == rest or key.startswith(f"{rest}/")


def expires_text(expiration: int | None, now: float) -> str:
    """Return `in 42 min`, a date where that is far, or `never`."""
    if expiration is None:
        return "never"
    if expiration > LAST_DATE:
        return f"year {year_of(expiration)}"
    if expiration - now > FAR_SECONDS:
        return time.strftime("%Y-%m-%d", time.gmtime(expiration))
    return f"in {duration_text(max(0.0, expiration - now))}"


def line_of(item: Item, now: float) -> str:
    """Return the line of a key with its expiration and metadata, for people."""
    metadata = (item.metadata or b"").decode()
    return f"{expires_text(item.expiration, now):>10}  {item.key}  {metadata}".rstrip()


def fields_of(item: Item) -> dict[str, object]:
    """Return the fields of a key for programs."""
    fields: dict[str, object] = {"key": item.key}
    if item.expiration is not None:
        fields["expiration"] = item.expiration
    if item.metadata is not None:
        fields["metadata"] = json.loads(item.metadata)
    if item.size is not None:
        fields["size"] = item.size
    return fields


def complain_of(problems: Sequence[Problem]) -> bool:
    """Name values that could not be read, at least the first of them; return whether there are any."""
    failures = [str(problem) for problem in problems if problem.kind not in HARMLESS]
    for line in first_of(failures, SHOWN, rest="more that could not be read"):
        complain(line)
    return bool(failures)
