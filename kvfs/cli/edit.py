"""`kvfs edit SOURCE/KEY`: a value in your editor; metadata and expiration stay, and nobody's change is lost."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import click
import trio

from kvfs.cli.completing import PLACE
from kvfs.cli.keys import SourceKeys, run_on_keys
from kvfs.cli.options import flag
from kvfs.cli.output import complain
from kvfs.cli.places import Access, access_options
from kvfs.core.errors import KvfsError, UserError
from kvfs.core.expiry import EXPIRED, Gone, expiration_to_send
from kvfs.core.limits import VALUE_BYTES
from kvfs.core.model import Entry
from kvfs.host.state import private_directory

FALLBACKS: Final = ("sensible-editor", "nano", "vi")


@click.command()
@click.argument("source", metavar="SOURCE/KEY", type=PLACE)
@flag("--force", "Write the value even if somebody changed it meanwhile.")
@access_options
def edit(source: str, force: bool, access: Access) -> None:
    """Edit a value with $VISUAL or $EDITOR."""

    run_on_keys(source, access, partial(_edit, force=force), writes=True)


async def _edit(keys: SourceKeys, *, force: bool) -> None:
    before = await _read(keys)
    directory = private_directory(keys.access.state / "edits")
    file = await trio.to_thread.run_sync(_write, directory, keys.key, before.value if before else b"")
    try:
        await trio.to_thread.run_sync(_run_editor, file)
        value = await trio.to_thread.run_sync(file.read_bytes)
        if before is not None and value == before.value:
            complain("nothing was changed")
        else:
            await _save(keys, before, value, force=force)
    except BaseException:
        complain(f"what you wrote is in {file}")
        raise
    shutil.rmtree(file.parent, ignore_errors=True)  # with what the editor left there, as name~


async def _save(keys: SourceKeys, before: Entry | None, value: bytes, *, force: bool) -> None:
    if len(value) > VALUE_BYTES:
        raise UserError(f"a value has at most {VALUE_BYTES} bytes (25 MiB), this one {len(value)}")
    now_there = await _read(keys)
    if now_there != before and not force:
        raise UserError(
            f"somebody changed {keys.key!r} meanwhile: look at it with kvfs cat, and edit again or with --force"
        )
    expiration: int | Gone | None = expiration_to_send(before.expiration if before else None, time.time())
    if expiration is EXPIRED:
        raise KvfsError(f"{keys.key!r} expired meanwhile: kvfs put writes it anew")
    assert not isinstance(expiration, Gone)
    await keys.store.put(
        keys.namespace, keys.key, Entry(value, before.metadata if before else None, expiration)
    )


async def _read(keys: SourceKeys) -> Entry | None:
    """Return the whole entry, because the value's own request does not give the metadata."""
    item = await keys.look(keys.key)
    read = await keys.store.get(keys.namespace, keys.key) if item is not None else None
    if item is None or read is None:
        return None
    return Entry(read.value, item.metadata, item.expiration if read.expiration is None else read.expiration)


def _write(directory: Path, key: str, value: bytes) -> Path:
    """Write the value into a private file whose name ends as the key does, for the editor's colours."""
    name = "".join(char if char.isalnum() or char in "._-" else "_" for char in key.rpartition("/")[2])[-80:]
    file = Path(tempfile.mkdtemp(dir=directory)) / (name.lstrip(".") or "value")
    file.touch(0o600)
    file.write_bytes(value)
    return file


def _run_editor(file: Path) -> None:
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    for command in [chosen] if chosen else FALLBACKS:
        try:
            done = subprocess.run([*shlex.split(command), os.fspath(file)], check=False)
        except FileNotFoundError:
            continue
        except ValueError as exc:
            raise UserError(f"the editor {command!r} cannot be run: {exc}") from exc
        if done.returncode:
            raise UserError(f"{command} ended with status {done.returncode}: nothing was written")
        return
    raise UserError(f"there is no editor {chosen or ', '.join(FALLBACKS)}: set EDITOR")
