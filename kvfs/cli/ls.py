"""`kvfs ls SOURCE[/PREFIX]`: namespaces, or the keys of one, as directories or all of them."""

import time
from functools import partial

import click
import trio

from kvfs.cli.completing import PLACE
from kvfs.cli.keys import SourceKeys, fields_of, line_of, run_on_keys
from kvfs.cli.options import IN_FULL, flag, json_option
from kvfs.cli.output import json_line, say
from kvfs.cli.places import Access, access_options, parse_store
from kvfs.cli.sides import namespaces_of
from kvfs.core.errors import UserError
from kvfs.data.items import Item


@click.command()
@click.argument("source", metavar="SOURCE[/PREFIX]", type=PLACE)
@IN_FULL
@flag("-R", "--recursive", "List all keys below, instead of one level.")
@json_option("Print a line of JSON for each.")
@access_options
def ls(source: str, is_long: bool, recursive: bool, as_json: bool, access: Access) -> None:
    """List namespaces, or keys with their metadata and expirations."""
    words = parse_store(source, access)
    if words.namespace is not None:
        work = partial(_list, is_long=is_long, recursive=recursive, as_json=as_json)
        return run_on_keys(source, access, work)
    for one in trio.run(namespaces_of, words, access):
        if as_json:
            click.echo(json_line({"id": one.id, "title": one.title}))
        else:
            say(f"{one.id}  {one.title}")
    return None


async def _list(keys: SourceKeys, *, is_long: bool, recursive: bool, as_json: bool) -> None:
    found, last = 0, ""
    start = len(keys.rest) if not keys.rest or keys.rest.endswith("/") else len(keys.rest) + 1
    now = time.time()
    async for page in keys.below():
        for item in page:
            found += 1
            directory = "" if recursive else _directory(item, start)
            if directory and directory == last:
                continue
            last = directory
            _show(item, directory, now, is_long=is_long, as_json=as_json)
    if not found and keys.rest:
        raise UserError(f"no key is {keys.rest!r}, or lies below it")


def _directory(item: Item, start: int) -> str:
    """Return the directory of a key one level below `start`; "" for a key of that level itself."""
    end = item.key.find("/", start)
    return "" if end < 0 else item.key[: end + 1]


def _show(item: Item, directory: str, now: float, *, is_long: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json_line({"directory": directory} if directory else fields_of(item)))
    elif directory:
        say(f"{'':>10}  {directory}" if is_long else directory)
    else:
        say(line_of(item, now) if is_long else item.key)
