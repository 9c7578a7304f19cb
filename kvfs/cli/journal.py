"""`kvfs journal`: the changes of a journal that the server does not have yet, mounted or not."""

import os
import time
from pathlib import Path
from typing import Final

import click

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.journal_dump import Described, describe
from kvfs.cli.options import STATE_DIR, flag, json_option
from kvfs.cli.output import duration_text, say, say_json, size_text
from kvfs.config import Config, parse_source
from kvfs.core.errors import UserError

VERSION: Final = 1
"""Of the JSON: raised when a name goes or changes its meaning, not when one is added."""


@click.command()
@click.argument("place", metavar="SOURCE|PATH", type=PLACE)
@flag("--dump", "List every change.")
@json_option("Print one JSON object, as docs/status.md describes it.")
@STATE_DIR
def journal(place: str, dump: bool, as_json: bool, state: Path) -> int:
    """Show what the journal of a source holds, and change nothing. PATH is a file named journal.sqlite."""
    path = _path_of(place, state)
    try:
        found = describe(path)
    except OSError as exc:
        raise UserError(f"the journal {path} cannot be read: {exc}") from exc
    if as_json:
        say_json({"version": VERSION, **found})
    else:
        _draw(found, dump=dump)
    return Exit.OK if found["damage"] is None else Exit.FAILED


def _path_of(place: str, state_dir: Path) -> Path:
    path = Path(place)
    if not path.is_file():
        source = parse_source(place, os.environ, insecure=True)
        path = Config(source=source, mountpoint=Path("/"), state_dir=state_dir).journal_path
    if not path.is_file():
        raise UserError(f"{place} has no journal here: nothing was ever changed in a mount of it ({path})")
    return path


def _draw(found: Described, *, dump: bool) -> None:
    changes, segments = found["changes"], found["segments"]
    say(f"journal  {found['path']}")
    say(f"source   {' '.join(str(found['source']).split())}")
    say(f"log      {size_text(sum(one['bytes'] for one in segments))} in {len(segments)} segments")
    if found["damage"] is not None:
        say(f"damage   {found['damage']}")
    for state in ("pending", "rejected", "settling", "local"):
        some = [one for one in changes if one["state"] == state]
        say(f"{state:<8} {len(some):,} changes, {size_text(sum(one['size'] for one in some))}")
    for one in changes if dump else ():
        say(_line(one))


def _line(change: Described) -> str:
    what = size_text(change["size"]) if change["kind"] == "put" else "deletion"
    words = [str(change["seq"]), change["state"], change["namespace"], change["key"], what]
    words.append(f"{duration_text(max(0.0, time.time() - change['recorded_at']))} old")
    if change["waits_for"] is not None:
        words.append(f"after {change['waits_for']}")
    if change["error"]:
        words.append(change["error"])
    return "  ".join(words)
