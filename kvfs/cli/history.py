"""`kvfs history`: the versions overwritten or deleted at a path, those that are kept, and if the present one would."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from kvfs.cli.asking import confirm
from kvfs.cli.completing import PLACE
from kvfs.cli.daemons import ask_mount
from kvfs.cli.options import STATE_DIR, YES, flag, json_option
from kvfs.cli.output import duration_text, say, say_json, size_text
from kvfs.cli.past import Past, PastPlace, find_place, versions_of, written
from kvfs.cli.unsent import kept_source
from kvfs.core.model import How
from kvfs.history.moments import time_text
from kvfs.history.shelf import clear
from kvfs.host.replies import AtHand
from kvfs.host.requests import ClearHistoryRequest

SHOWN: Final = 200
WORDS: Final = {
    How.WRITE: "overwritten",
    How.DELETE: "deleted",
    How.RENAME: "renamed to {}",
    How.REPLACE: "replaced by {}",
    How.ATTRIBUTES: "attributes changed",
    How.DISCARD: "discarded",
}


@click.command(
    epilog="kvfs history notes.txt; kvfs history DIR says what was deleted below it; kvfs restore brings it back."
)
@click.argument("place", metavar="PATH|SOURCE[/PATH]", type=PLACE)
@json_option()
@flag("--all", "everything", f"Show all versions, not only the last {SHOWN}.")
@flag("--clear", "forgets", "Forget the whole history of the source.")
@YES
@STATE_DIR
def history(place: str, as_json: bool, everything: bool, forgets: bool, yes: bool, state: Path) -> None:
    """Show what was overwritten or deleted through the mount at PATH, or below it, and whether it is kept.

    The last line says what would be kept of PATH now. What was not on this machine when it was replaced is not kept.
    """
    found = find_place(place, state)
    if forgets:
        return _clear(found, state, yes=yes)
    now = written(found, state)
    pasts = sorted(
        (past for versions in versions_of(found).values() for past in versions),
        key=lambda past: past.version.at,
    )
    if as_json:
        return say_json([_item(past) for past in pasts])
    shown = pasts if everything else pasts[-SHOWN:]
    if len(shown) < len(pasts):
        say(f"… and {len(pasts) - len(shown):,} before these: --all")
    for past in shown:
        say(_line(past, found))
    if not pasts:
        say(f"nothing was overwritten or deleted at {place}, or it is not kept any more")
    for line in _now_lines(found, now):
        say(line)
    return None


def _clear(place: PastPlace, state: Path, *, yes: bool) -> None:
    if not yes:
        confirm(f"Forget everything that was overwritten or deleted in {place.record.source}?")
    if place.mountpoint is not None:
        ask_mount(place.mountpoint, state, ClearHistoryRequest())
    else:
        kept_source(place.record.source, state)
        clear(place.directory)
    say(f"the history of {place.record.source} is empty")


def what(past: Past) -> str:
    """Describe in words what became of a version."""
    version = past.version
    return WORDS[version.how].format(version.other)


def _line(past: Past, place: PastPlace) -> str:
    version = past.version
    words = f"{time_text(version.at)}  {size_text(version.size):>10}  {what(past)}"
    if len(past.names) > len(place.names):
        words = f"{words}  {'/'.join(past.names[len(place.names) :])}"
    if version.why:
        return f"{words}  not kept: {version.why}"
    if version.expiration is not None:
        words += f"  expires {time_text(version.expiration)}"
    if version.known_at is not None and version.at - version.known_at > 60:
        words += f"  as it was read {duration_text(version.at - version.known_at)} before"
    return words


def _item(past: Past) -> dict[str, Any]:
    version = past.version
    return {
        "path": past.path,
        "at": version.at,
        "how": str(version.how),
        "other": version.other,
        "size": version.size if version.size >= 0 else None,
        "kept": version.is_kept,
        "why": version.why,
        "digest": version.digest.hex(),
        "metadata": json.loads(version.metadata) if version.metadata is not None else None,
        "expiration": version.expiration,
        "since": version.since,
        "read_at": version.known_at,
    }


def _now_lines(place: PastPlace, now: AtHand | None) -> Iterator[str]:
    """Yield the lines that say whether the present value would be kept if it were overwritten or deleted."""
    if now is None:
        yield f"{place.record.source} is not mounted"
        return
    if now.bounds == "0":
        yield f"{place.mountpoint} keeps no history (--history 0)"
        return
    if not now.keeps:
        yield f"{place.mountpoint} keeps no history: it is read-only, or kvfs log says why not"
        return
    at_hand, away = now.at_hand, now.away
    if at_hand + away == 1:
        yield (
            "now: it would be kept"
            if at_hand
            else "now: it would not be kept, because its value is not on this machine; reading it brings it here"
        )
    elif away:
        yield (
            f"now: {at_hand:,} of {at_hand + away:,} files would be kept;"
            " the values of the others are not on this machine: read them first"
        )
    elif at_hand:
        yield f"now: all {at_hand:,} files would be kept"
