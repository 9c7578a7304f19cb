"""`kvfs du SOURCE[/PREFIX]`: how many keys and bytes, the largest, and when they expire. It reads every value."""

import heapq
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.keys import SourceKeys, complain_of, run_on_keys
from kvfs.cli.moving import agree_to_read
from kvfs.cli.options import YES, json_option
from kvfs.cli.output import say, size_text
from kvfs.cli.places import Access, access_options
from kvfs.core.content import is_text
from kvfs.data.items import Item, Loaded, Problem
from kvfs.data.place import read_all
from kvfs.data.plan import Plan
from kvfs.data.reading import BulkValues

SPANS: Final = (("1 h", 3600), ("1 d", 86_400), ("1 w", 604_800), ("30 d", 2_592_000))


@dataclass(slots=True)
class SourceUsage:
    """The totals of one source."""

    keys: int = 0
    size: int = 0
    binary: int = 0
    with_metadata: int = 0
    largest: list[tuple[int, str]] = field(default_factory=list)
    expiring: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)


@click.command()
@click.argument("source", metavar="SOURCE[/PREFIX]", type=PLACE)
@click.option(
    "--largest",
    type=click.IntRange(0),
    default=10,
    metavar="NUMBER",
    help="Show this many of the largest values.",
)
@json_option("Print one JSON object.")
@YES
@access_options
def du(source: str, largest: int, as_json: bool, yes: bool, access: Access) -> int:
    """Count keys and bytes. kvfs reads every value to learn its size, and says the price first."""

    async def work(keys: SourceKeys) -> int:
        items: list[Item] = []
        lists = 0
        async for page in keys.below():
            items += page
            lists += 1
        plan = Plan(
            len(items),
            unsized=len(items),
            lists=lists if keys.is_billed else 0,
            singles=keys.kinds.count(keys.namespace),
            reads_billed=keys.is_billed,
        )
        agree_to_read(plan, shows=keys.is_billed, yes=yes)
        usage = await _count(keys, items, largest)
        _report(usage, as_json=as_json)
        return Exit.LEFT if complain_of(usage.problems) else Exit.OK

    return run_on_keys(source, access, work)


async def _count(keys: SourceKeys, items: list[Item], largest: int) -> SourceUsage:
    usage, now = SourceUsage(), time.time()
    values = BulkValues(keys.store, keys.namespace, keys.kinds)

    def add(loaded: Sequence[Loaded]) -> None:
        for one in loaded:
            _add(usage, one.item, one.entry.value, largest, now)

    usage.problems = await read_all(values.take, items, add)
    return usage


def _add(usage: SourceUsage, item: Item, value: bytes, largest: int, now: float) -> None:
    usage.keys += 1
    usage.size += len(value)
    usage.binary += not is_text(value)
    usage.with_metadata += item.metadata is not None
    usage.expiring[_span(item.expiration, now)] += 1
    heapq.heappush(usage.largest, (len(value), item.key))
    if len(usage.largest) > largest:
        heapq.heappop(usage.largest)


def _span(expiration: int | None, now: float) -> str:
    if expiration is None:
        return "never"
    return next((f"within {name}" for name, seconds in SPANS if expiration - now <= seconds), "later")


def _report(usage: SourceUsage, *, as_json: bool) -> None:
    found = sorted(usage.largest, reverse=True)
    if as_json:
        fields = {"keys": usage.keys, "bytes": usage.size, "binary": usage.binary}
        fields["with_metadata"] = usage.with_metadata
        named = [{"key": key, "bytes": size} for size, key in found]
        click.echo(json.dumps({**fields, "expires": dict(usage.expiring), "largest": named}))
        return
    say(
        f"{usage.keys:,} keys, {size_text(usage.size)}; {usage.binary:,} binary, {usage.with_metadata:,} with metadata"
    )
    spans = [*(f"within {name}" for name, _ in SPANS), "later", "never"]
    say("expire: " + ", ".join(f"{usage.expiring[span]:,} {span}" for span in spans if usage.expiring[span]))
    for size, key in found:
        say(f"{size_text(size):>10}  {key}")
