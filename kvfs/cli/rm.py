"""`kvfs rm SOURCE/KEY`: delete a key, or everything below a prefix, after a look at what that is."""

from typing import Final

import click

from kvfs.cli.asking import confirm
from kvfs.cli.completing import PLACE
from kvfs.cli.keys import SourceKeys, run_on_keys
from kvfs.cli.options import DRY_RUN, MATCH, WHERE, YES, flag
from kvfs.cli.output import complain, counted, first_of, say
from kvfs.cli.places import Access, access_options
from kvfs.core.errors import UserError
from kvfs.core.model import Key
from kvfs.core.prices import dollars
from kvfs.data.selection import Selection, parse_conditions
from kvfs.data.storeplace import StoreWriter

SHOWN: Final = 10


@click.command()
@click.argument("source", metavar="SOURCE/KEY", type=PLACE)
@flag("-r", "--recursive", "Delete everything below KEY too (without KEY: all keys of SOURCE).")
@MATCH
@WHERE
@DRY_RUN
@YES
@access_options
def rm(
    source: str,
    recursive: bool,
    match: tuple[str, ...],
    where: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    access: Access,
) -> None:
    """Delete a key, or with -r all keys below it too. kvfs shows them first."""
    choice = Selection(match=match, where=parse_conditions(where))
    if (choice.match or choice.where) and not recursive:
        raise click.UsageError("--match and --where choose among many keys: say -r")

    async def work(keys: SourceKeys) -> None:
        found = await (_below(keys, choice) if recursive else _one(keys))
        for line in first_of([f"{'would delete' if dry_run else 'delete'} {key}" for key in found], SHOWN):
            say(line)
        if dry_run:
            return
        if recursive and not yes:
            price = f", ${dollars({'deleted': len(found)}):.4f}" if keys.is_billed else ""
            confirm(f"Delete {len(found):,} keys{price}?")
        await _delete(keys, found)

    run_on_keys(source, access, work, writes=True)


async def _one(keys: SourceKeys) -> list[Key]:
    if await keys.look(keys.key) is None:
        raise UserError(f"there is no key {keys.key!r}; -r deletes what lies below it")
    return [keys.key]


async def _below(keys: SourceKeys, choice: Selection) -> list[Key]:
    found: list[Key] = []
    async for page in keys.below():
        found += [item.key for item in page if choice.chosen(item.key, item.metadata)]
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
