"""Helpers of the commands on single stores: open SOURCE[/KEY], list keys, say times and prices in words."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio

from kvfs.cli.asking import confirm
from kvfs.cli.output import complain, duration_text
from kvfs.cli.places import Access, OpenStore, StoreWords, access_of, parse_store
from kvfs.cli.sides import CopySide, Sides, keep_kinds, known_kinds
from kvfs.core.errors import UserError
from kvfs.core.expiry import is_expired
from kvfs.core.kinds import Kinds
from kvfs.core.model import Key, NamespaceId
from kvfs.data.items import HARMLESS, Item, Problem
from kvfs.data.plan import Plan
from kvfs.data.storeplace import StoreReader
from kvfs.host.state import private_directory
from kvfs.store.base import Store

SHOWN: Final = 20  # values that could not be read


@dataclass(frozen=True, slots=True)
class SourceKeys:
    """A namespace that is open, and the key or prefix behind its name."""

    opened: OpenStore
    namespace: NamespaceId
    rest: str
    kinds: Kinds
    access: Access

    @property
    def store(self) -> Store:
        """Return the store that holds the keys."""
        return self.opened.store

    @property
    def is_billed(self) -> bool:
        """True if requests cost something."""
        return self.opened.rest is not None

    @property
    def key(self) -> Key:
        """Return the key that was named. Raises `UserError` when none was."""
        if not self.rest:
            raise UserError("name a key: SOURCE/KEY")
        return Key(self.rest)

    async def listed(self, prefix: str) -> AsyncGenerator[list[Item]]:
        """Yield pages of the keys that begin so and have not expired."""
        async with aclosing(StoreReader(self.store, self.namespace, prefix, self.kinds).scan("")) as parts:
            async for part in parts:
                now = time.time()
                yield [item for item in part.items if not is_expired(item.expiration, now)]

    async def look(self, key: Key) -> Item | None:
        """Return one key as the listing has it, by one request."""
        page = await self.store.list_keys(self.namespace, prefix=key, limit=10)
        for line in page.keys:
            if line.key == key and not is_expired(line.expiration, time.time()):
                return Item(line.key, line.key, line.metadata, line.expiration)
        return None


@asynccontextmanager
async def open_keys(words: StoreWords, access: Access, *, writes: bool = False) -> AsyncIterator[SourceKeys]:
    """Open the namespace that a command names."""
    private_directory(access.state_dir)
    async with AsyncExitStack() as stack:
        side: CopySide = await Sides(access, stack).open(words, is_target=writes)
        assert side.store is not None
        namespace = side.namespace or await side.store.get(words.namespace)
        kinds = known_kinds(side, access)
        yield SourceKeys(side.store, namespace, words.rest, kinds, access)
        await keep_kinds(side, access, kinds)


def run_on_keys(
    source: str,
    options: dict[str, Any],
    work: Callable[[SourceKeys], Awaitable[int]],
    *,
    writes: bool = False,
) -> int:
    """Run `work` on the namespace that SOURCE names; return the exit status. With `writes` it changes keys."""
    access = access_of(options)
    words = parse_store(source, access)

    async def run() -> int:
        async with open_keys(words, access, writes=writes) as keys:
            return await work(keys)

    return trio.run(run)


def is_below(key: str, rest: str) -> bool:
    """True if a key is named by the path `rest`, or lies below it."""
    return not rest or rest.endswith("/") or key == rest or key.startswith(f"{rest}/")


def expires_text(expiration: int | None, now: float) -> str:
    """Return `in 42 min`, or `never`."""
    return "never" if expiration is None else f"in {duration_text(max(0.0, expiration - now))}"


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
    failures = [problem for problem in problems if problem.kind not in HARMLESS]
    for problem in failures[:SHOWN]:
        complain(str(problem))
    if len(failures) > SHOWN:
        complain(f"… and {len(failures) - SHOWN:,} more that could not be read")
    return bool(failures)


def agree(plan: Plan, question: str, *, yes: bool, always: bool = False) -> None:
    """Ask before it costs or deletes much. Raises as `confirm`."""
    if yes or not (always or plan.must_ask_to_read):
        return
    confirm(question)
