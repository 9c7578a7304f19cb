"""`kvfs pending` names the changes that are not at the server; `kvfs recover` writes them into ordinary files."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kvfs.cli.completing import KEPT
from kvfs.cli.options import QUIET, STATE_DIR, json_option, path
from kvfs.cli.output import duration_text, json_line, say, size_text
from kvfs.cli.unsent import UnsentSource, items_of, kept_source, names_of, opened, say_items
from kvfs.cli.waiting import Waiting
from kvfs.core.errors import UserError
from kvfs.core.model import Change
from kvfs.host.control import Message
from kvfs.host.requests import PendingListRequest
from kvfs.host.sources import SourceRecord
from kvfs.host.state import private_opener

if TYPE_CHECKING:
    from kvfs.journal.journal import Journal

INDEX: Final = "kvfs-recovered.ndjson"


@click.command()
@click.argument("source", metavar="[SOURCE|DIR]", required=False, type=KEPT)
@json_option()
@STATE_DIR
def pending(source: str | None, as_json: bool, state: Path) -> None:
    """List changes that the server does not have yet, of SOURCE or DIR, or of all sources, mounted or not."""
    items = items_of(source, state, PendingListRequest(), lambda kept: kept.pending)
    say_items(items, _pending_line, "nothing is pending", as_json=as_json)


def _pending_line(item: Message) -> str:
    what = "delete" if item["kind"] == "delete" else f"put {size_text(float(item['size']))}"
    reason = f": {item['error']}" if item["error"] else ""
    seconds = item["next_try_seconds"]
    again = f"; next try in {duration_text(seconds)}" if seconds is not None else ""
    place = item["mountpoint"] or item["source"]
    return f"{place}/{item['path']}  {what}  {duration_text(item['age'])} old{reason}{again}"


@click.command()
@click.argument("source", type=KEPT)
@click.argument("directory", metavar="DIR", type=path)
@QUIET
@STATE_DIR
def recover(source: str, directory: Path, quiet: bool, state: Path) -> None:
    """Write pending changes of the unmounted SOURCE into ordinary files below DIR. No server or token is needed.

    The journal keeps everything. DIR/kvfs-recovered.ndjson has a line a change: path, key, metadata, expiration,
    deletions too. SOURCE is a name that kvfs status shows, or its mount point.
    """
    kept = kept_source(source, state)
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise UserError(f"{directory} is not empty: name a new directory")
    with Waiting("reading the journal", quiet=quiet) as waiting, opened(kept.journal, kept.record) as journal:
        count, size = _write_all(journal, kept, directory, waiting)
    say(f"wrote {count} values, {size_text(size)}, to {directory}; the journal keeps them")


def _write_all(journal: "Journal", kept: UnsentSource, directory: Path, waiting: Waiting) -> tuple[int, int]:
    changes = [*journal.pending(), *journal.rejected()]
    above = {names[:depth] for change in changes if not change.is_tombstone
             for names in [names_of(change, kept.record)] for depth in range(1, len(names))}  # fmt: skip
    count = size = 0
    with open(directory / INDEX, "x", encoding="utf-8", opener=private_opener) as index:
        for change in changes:
            names = names_of(change, kept.record)
            if names in above:
                names = names_of(change, kept.record, is_directory_too=True)
            index.write(json_line(_line(change, names, kept.record)) + "\n")
            if change.is_tombstone:
                continue
            target = directory.joinpath(*names)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(target, "xb", opener=private_opener) as file:
                file.write(journal.value(change))
            os.utime(target, (change.recorded_at, change.recorded_at))
            count, size = count + 1, size + change.size
            waiting.say(f"wrote {count:,} of {len(changes):,} changes, {size_text(size)}")
    return count, size


def _line(change: Change, names: tuple[str, ...], record: SourceRecord) -> Message:
    metadata = json.loads(change.metadata) if change.metadata is not None else None
    return {
        "path": "/".join(names),
        "kind": str(change.kind),
        "namespace": change.namespace,
        "namespace_title": record.namespaces.get(change.namespace),
        "key": change.key,
        "metadata": metadata,
        "expiration": change.expiration,
        "recorded_at": change.recorded_at,
    }
