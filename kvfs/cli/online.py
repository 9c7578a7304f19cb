"""`kvfs doctor --online SOURCE`: facts of an account that only the API can tell, and findings of `kvfs verify`."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from kvfs.cli.output import duration_text
from kvfs.cli.own_account import open_account
from kvfs.config import CloudflareSource, parse_source
from kvfs.core.errors import UserError
from kvfs.host.endpoints import load_learned
from kvfs.store.rest.looks import Look, look

TIMEOUT = 10.0


def online(text: str, token_file: Path | None, state_dir: Path) -> Iterator[Look]:
    """Return every finding about the account of a Cloudflare source. Raises `UserError` for another source."""
    source = parse_source(text, os.environ)
    if not isinstance(source, CloudflareSource):
        raise UserError(f"--online asks an account: name cloudflare:[ACCOUNT], not {text}")
    yield from trio.run(_looks, source, token_file)
    yield _learned(source.base_url, state_dir)


async def _looks(source: CloudflareSource, token_file: Path | None) -> list[Look]:
    command = None if token_file is not None else os.environ.get("KVFS_TOKEN_COMMAND")
    async with open_account(source, token_file, command, TIMEOUT) as (client, account):
        return [one async for one in look(client, account)]


def _learned(base_url: str, state_dir: Path) -> Look:
    """Report what `kvfs verify` has found of this endpoint."""
    learned = load_learned(base_url, state_dir)
    if learned is None:
        return Look(
            "note", "kvfs verify SOURCE was not run: it tries whether this API behaves as kvfs assumes"
        )
    age = duration_text(max(0.0, time.time() - learned.at))
    if learned.differences:
        differences = ", ".join(learned.differences)
        return Look("warn", f"kvfs verify found {age} ago that this API differs: {differences}")
    stale = f"reads stay stale for {learned.stale_seconds:.0f} s"
    return Look("ok", f"kvfs verify found {age} ago that this API behaves as kvfs assumes; {stale}")
