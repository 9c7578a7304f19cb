"""`kvfs cat SOURCE/KEY`: one value, byte for byte."""

import sys

import click

from kvfs.cli.completing import PLACE
from kvfs.cli.keys import SourceKeys, run_on_keys
from kvfs.cli.options import flag
from kvfs.cli.places import Access, access_options
from kvfs.core.errors import UserError


@click.command()
@click.argument("source", metavar="SOURCE/KEY", type=PLACE)
@flag("-m", "--metadata", "show_metadata", "Write the metadata, not the value.")
@access_options
def cat(source: str, show_metadata: bool, access: Access) -> None:
    """Write a value to standard output as it is."""

    async def work(keys: SourceKeys) -> None:
        if show_metadata:
            item = await keys.look(keys.key)
            if item is None:
                raise UserError(f"there is no key {keys.key!r}")
            click.echo(item.metadata or b"null")
            return
        read = await keys.store.get(keys.namespace, keys.key)
        if read is None:
            raise UserError(f"there is no key {keys.key!r}")
        sys.stdout.buffer.write(read.value)
        sys.stdout.buffer.flush()

    run_on_keys(source, access, work)
