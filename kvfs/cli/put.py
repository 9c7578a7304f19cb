"""`kvfs put SOURCE/KEY [VALUE]`: write one key with metadata and expiration."""

import sys
import time
from pathlib import Path

import click

from kvfs.cli.completing import PLACE
from kvfs.cli.keys import SourceKeys, run_on_keys
from kvfs.cli.options import flag, option, path
from kvfs.cli.output import complain
from kvfs.cli.places import Access, access_options
from kvfs.core.errors import UserError
from kvfs.core.expiry import milliseconds_hint
from kvfs.core.limits import EXPIRATION_SECONDS
from kvfs.core.model import Entry, Metadata
from kvfs.data.copier import fault_of
from kvfs.data.items import Item
from kvfs.settings import DURATION
from kvfs.store.wire.json import MalformedError, compact


@click.command()
@click.argument("source", metavar="SOURCE/KEY", type=PLACE)
@click.argument("value", required=False)
@click.option(
    "--file", "-f", "file", type=path, help="Read the value from a file.  [default: standard input]"
)
@click.option("--metadata", metavar="JSON", help="Set this metadata.")
@option(DURATION, "ttl", "Let the key expire after this time: 15m, 2h, 1d.", variable=False)
@click.option(
    "--expiration", type=int, metavar="SECONDS", help="Let the key expire at this time (seconds since 1970)."
)
@flag("--keep", "Keep the present metadata and expiration, unless given.")
@access_options
def put(
    source: str,
    value: str | None,
    file: Path | None,
    metadata: str | None,
    ttl: float | None,
    expiration: int | None,
    keep: bool,
    access: Access,
) -> None:
    """Write a value. Metadata and expiration that are not given are removed, as in the API."""
    new_metadata, expires = parse_metadata(metadata), parse_expiration(ttl, expiration)
    given = Entry(
        _value(value, file), new_metadata, expires
    )  # the last, because somebody may have to type it

    async def work(keys: SourceKeys) -> None:
        entry = given
        if keep:
            entry = await _kept(keys, entry)
        fault = fault_of(keys.key, Item(keys.key, "", entry.metadata, entry.expiration, len(entry.value)))
        if fault is not None:
            raise UserError(f"{keys.key[:60]!r} cannot be written: {fault[1]}")
        await keys.store.put(keys.namespace, keys.key, entry)

    run_on_keys(source, access, work, writes=True)


async def _kept(keys: SourceKeys, entry: Entry) -> Entry:
    item = await keys.look(keys.key)
    if item is None:
        return entry
    metadata = item.metadata if entry.metadata is None else entry.metadata
    return Entry(entry.value, metadata, item.expiration if entry.expiration is None else entry.expiration)


def parse_metadata(text: str | None) -> Metadata | None:
    """Parse metadata of a command line. Raises `BadParameter` for text that is no JSON."""
    if text is None:
        return None
    try:
        return compact(text.encode())
    except (MalformedError, UnicodeEncodeError) as exc:
        raise click.BadParameter(
            f'{text!r} is not JSON: write \'{{"role":"admin"}}\', or \'"text"\'', param_hint="--metadata"
        ) from exc


def parse_expiration(ttl: float | None, expiration: int | None) -> int | None:
    """Return the expiration from either option. Raises `BadParameter` below KV's minute."""
    if ttl is not None and expiration is not None:
        raise click.UsageError("--ttl and --expiration are two ways to say it: give one")
    if ttl is not None:
        expiration = int(time.time() + ttl)
    elif hint := milliseconds_hint(expiration):
        complain(f"--expiration: {hint}")
    if expiration is not None and expiration < time.time() + EXPIRATION_SECONDS - 1:
        way = (
            "" if ttl is not None else f", and {expiration} is a moment since 1970: a time from now is --ttl"
        )
        raise click.BadParameter(
            f"KV keeps nothing for less than {EXPIRATION_SECONDS} seconds from now{way}",
            param_hint="--expiration" if ttl is None else "--ttl",
        )
    return expiration


def _value(text: str | None, file: Path | None) -> bytes:
    if text is not None and file is not None:
        raise click.UsageError("the value is an argument or in a --file: give one")
    if text is not None:
        return text.encode(errors="surrogateescape")
    return file.read_bytes() if file is not None else sys.stdin.buffer.read()
