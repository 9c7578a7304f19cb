"""`kvfs rm SOURCE/KEY`: delete a key, or everything below a prefix, after a look at what that is."""

from typing import Any, Final

import click

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.keys import SourceKeys, agree, is_below, run_on_keys
from kvfs.cli.options import DRY_RUN, MATCH, WHERE, YES
from kvfs.cli.output import complain, counted, say
from kvfs.cli.places import access_options
from kvfs.core.errors import UserError
from kvfs.core.model import Key
from kvfs.data.plan import DELETE_PRICE, Plan
from kvfs.data.selection import Selection, parse_conditions
from kvfs.data.storeplace import StoreWriter

SHOWN: Final = 10


@click.command()
@click.argument("source", metavar="SOURCE/KEY", type=PLACE)
@click.option("-r", "--recursive", is_flag=True, help="Everything below KEY too (all of SOURCE without KEY).")
@MATCH
@WHERE
@DRY_RUN
@YES
@access_options
def rm(source: str, recursive: bool, dry_run: bool, yes: bool, **options: Any) -> int:
    """Delete a key, or with -r what lies below, after showing it."""
    choice = Selection(match=options.pop("match"), where=parse_conditions(options.pop("where")))
    if (choice.match or choice.where) and not recursive:
        raise click.UsageError("--match and --where choose among many keys: say -r")

    async def work(keys: SourceKeys) -> int:
        found = await (_below(keys, choice) if recursive else _one(keys))
        for key in found[:SHOWN]:
            say(f"{'would delete' if dry_run else 'delete'} {key}")
        if len(found) > SHOWN:
            say(f"… and {len(found) - SHOWN:,} more")
        if dry_run:
            return Exit.OK
        plan = Plan(0, deletes=len(found), writes_billed=keys.is_billed)
        price = f", ${len(found) * DELETE_PRICE:.4f}" if keys.is_billed else ""
        agree(plan, f"Delete {len(found):,} keys{price}?", yes=yes, always=recursive)
        await _delete(keys, found)
        return Exit.OK

    return run_on_keys(source, options, work, writes=True)


async def _one(keys: SourceKeys) -> list[Key]:
    if await keys.look(keys.key) is None:
        raise UserError(f"there is no key {keys.key!r}; -r deletes what lies below it")
    return [keys.key]


async def _below(keys: SourceKeys, choice: Selection) -> list[Key]:
    found: list[Key] = []
    async for page in keys.listed(keys.rest):
        found += [
            item.key
            for item in page
            if is_below(item.key, keys.rest) and choice.chosen(item.key, item.metadata)
        ]
    if not found:
        raise UserError(f"nothing to delete: no key is {keys.rest!r}, or lies below it")
    return found


async def _delete(keys: SourceKeys, found: list[Key]) -> None:
    writer = StoreWriter(keys.store, keys.namespace)
    done = 0
    for start in range(0, len(found), 1000):
        chunk = found[start : start + 1000]
        await writer.delete([(key, key) for key in chunk])
        done += len(chunk)
    complain(f"deleted {counted(done, 'key')}")
