"""`kvfs find SOURCE[/PREFIX]`: keys by name, metadata and expiration, from listings; by value where asked."""

import time
from collections.abc import Sequence
from typing import Any

import click

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.keys import SourceKeys, complain_of, fields_of, line_of, run_on_keys
from kvfs.cli.moving import agree_to_read
from kvfs.cli.options import IN_FULL, YES, flag, json_option, option
from kvfs.cli.output import json_line, say
from kvfs.cli.places import Access, access_options
from kvfs.core.content import is_text
from kvfs.data.items import Item, Loaded, Problem
from kvfs.data.place import read_all
from kvfs.data.plan import Plan
from kvfs.data.reading import BulkValues
from kvfs.data.selection import Selection, parse_conditions
from kvfs.settings import DURATION, SIZE


@click.command()
@click.argument("source", metavar="SOURCE[/PREFIX]", type=PLACE)
@click.option(
    "--key",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Find keys that match (* and ?); with several, any one.",
)
@click.option(
    "--meta",
    multiple=True,
    metavar="CONDITION",
    help="Find keys with such metadata: role=admin, n>5; with several, all.",
)
@option(DURATION, "expires-within", "Find keys that expire within this time: 15m, 2h, 1d.", variable=False)
@click.option("--expires/--never-expires", default=None, help="Find keys with an expiration, or without one.")
@click.option("--binary/--text", default=None, help="Find binary values, or text (reads values).")
@option(SIZE, "larger", "Find values with more bytes (reads values).", variable=False)
@option(SIZE, "smaller", "Find values with fewer bytes (reads values).", variable=False)
@IN_FULL
@flag("-0", "--null", "with_null", "End each key with NUL, for xargs -0.")
@json_option("Print a line of JSON for each.")
@YES
@access_options
def find(source: str, access: Access, **wanted: Any) -> int:
    """Find keys. kvfs only lists keys, unless an option asks about values."""
    choice = Selection(match=wanted["patterns"], where=parse_conditions(wanted["meta"]))

    async def work(keys: SourceKeys) -> int:
        return Exit.LEFT if complain_of(await _find(keys, choice, wanted)) else Exit.OK

    return run_on_keys(source, access, work)


async def _find(keys: SourceKeys, choice: Selection, wanted: dict[str, Any]) -> Sequence[Problem]:
    """Show the keys that fit; return the values that could not be read."""
    reads = any(wanted[name] is not None for name in ("binary", "larger", "smaller"))
    held: list[Item] = []
    async for page in keys.below():
        found = [item for item in page if _meets(item, choice, wanted)]
        if reads:
            held += found
        else:
            _show(found, wanted)
    if held:
        plan = Plan(len(held), singles=keys.kinds.count(keys.namespace), reads_billed=keys.is_billed)
        agree_to_read(plan, shows=False, yes=wanted["yes"])
        return await _by_value(keys, held, wanted)
    return ()


def _meets(item: Item, choice: Selection, wanted: dict[str, Any]) -> bool:
    within, expires = wanted["expires_within"], wanted["expires"]
    if within is not None and (item.expiration is None or item.expiration > time.time() + within):
        return False
    if expires is not None and (item.expiration is not None) != expires:
        return False
    return choice.chosen(item.key, item.metadata)


async def _by_value(keys: SourceKeys, items: Sequence[Item], wanted: dict[str, Any]) -> Sequence[Problem]:
    values = BulkValues(keys.store, keys.namespace, keys.kinds)

    def show(loaded: Sequence[Loaded]) -> None:
        _show([one.item for one in loaded if _value_meets(one.entry.value, wanted)], wanted)

    return await read_all(values.take, items, show)


def _value_meets(value: bytes, wanted: dict[str, Any]) -> bool:
    larger, smaller = wanted["larger"], wanted["smaller"]
    if (larger is not None and len(value) <= larger) or (smaller is not None and len(value) >= smaller):
        return False
    return wanted["binary"] is None or is_text(value) != wanted["binary"]


def _show(items: Sequence[Item], wanted: dict[str, Any]) -> None:
    now = time.time()
    for item in items:
        if wanted["as_json"]:
            click.echo(json_line(fields_of(item)))
        elif wanted["with_null"]:
            click.echo(item.key.encode() + b"\0", nl=False)
        else:
            say(line_of(item, now) if wanted["is_long"] else item.key)
