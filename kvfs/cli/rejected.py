"""`kvfs rejected`: the changes the server refused for ever; only the user decides what becomes of them."""

from collections.abc import Iterator
from pathlib import Path

import click

from kvfs.cli.asking import confirm
from kvfs.cli.completing import KEPT
from kvfs.cli.daemons import ask, ask_items, daemon_of, living_mounts, state_of
from kvfs.cli.exits import Exit
from kvfs.cli.helping import HelpGroup
from kvfs.cli.options import STATE_DIR, YES, json_option
from kvfs.cli.output import counted, say, say_json, size_text
from kvfs.cli.unsent import items_of, kept_source, opened
from kvfs.core.errors import UserError
from kvfs.host.control import Message
from kvfs.host.mounts import mount_at, real_mountpoint
from kvfs.host.requests import DiscardRequest, RejectedListRequest, RetryRequest
from kvfs.host.state import records


@click.group(cls=HelpGroup, no_args_is_help=False)  # the help would be more than one line of complaint
def rejected() -> None:
    """List, retry or discard changes that the server refused, of sources that are mounted or not.

    Their content stays readable in the mount until then.
    """


@rejected.command("list")
@click.argument("source", metavar="[SOURCE|DIR]", required=False, type=KEPT)
@json_option()
@STATE_DIR
def list_rejected(source: str | None, as_json: bool, state_dir: Path | None) -> int:
    """List them, with the number that retry and discard take and the server's reason."""
    items = list(_items(source, state_of(state_dir)))
    if as_json:
        say_json(items)
        return Exit.OK
    for item in items:
        size, place = size_text(float(item.get("size", 0))), item["mountpoint"] or item["source"]
        say(f"{item.get('seq')}  {place}/{item.get('path')}  {size}  {item.get('error')}")
    return Exit.OK


def _items(source: str | None, state: Path) -> Iterator[Message]:
    """Return the refused changes of one source or of all, with their source and the mount point ("" for none)."""
    mountpoint = _mounted_at(source, state) if source is not None else None
    if mountpoint is None:
        yield from items_of(source, state, RejectedListRequest(), lambda kept: kept.rejected)
        return
    for item in ask_items(mountpoint, state, RejectedListRequest()):
        yield {"source": _source_of(mountpoint, state), "mountpoint": str(mountpoint), **item}


def _source_of(mountpoint: Path, state: Path) -> str:
    return next((one.source for one in records(state) if one.mountpoint == str(mountpoint)), "")


def _mounted_at(text: str, state: Path) -> Path | None:
    """Return the mount point of a source or directory that is mounted, None for one that is not."""
    for record in living_mounts(text, state):
        return Path(record.mountpoint)
    mountpoint = real_mountpoint(Path(text).absolute())
    mount = mount_at(mountpoint)
    return mountpoint if mount is not None and mount.is_kvfs else None


@rejected.command("retry")
@click.argument("source", metavar="SOURCE|DIR", type=KEPT)
@click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that were refused.")
@STATE_DIR
def retry(source: str, numbers: tuple[int, ...], everything: bool, state_dir: Path | None) -> int:
    """Send them again with what is pending."""
    chosen = _chosen(source, numbers, everything, state_of(state_dir))
    return _settle("retry", "will be sent again", source, chosen, state_of(state_dir))


@rejected.command("discard")
@click.argument("source", metavar="SOURCE|DIR", type=KEPT)
@click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that were refused.")
@YES
@STATE_DIR
def discard(
    source: str, numbers: tuple[int, ...], everything: bool, yes: bool, state_dir: Path | None
) -> int:
    """Discard your version; the file goes back to what is on the server."""
    chosen = _chosen(source, numbers, everything, state_of(state_dir))
    if chosen and not yes:
        confirm("What was written will be lost. Discard it?")
    return _settle("discard", "discarded", source, chosen, state_of(state_dir))


def _chosen(source: str, numbers: tuple[int, ...], everything: bool, state: Path) -> list[int]:
    """Return the numbers that were meant, each of a change that is there."""
    if not numbers and not everything:
        raise click.UsageError("name the NUMBERs that `kvfs rejected list` shows, or --all")
    there = [int(item["seq"]) for item in _items(source, state)]
    if missing := [number for number in numbers if number not in there]:
        words = ", ".join(map(str, missing))
        raise UserError(f"{words}: not in `kvfs rejected list {source}`, which has {len(there)} changes")
    return there if everything else list(numbers)


def _settle(what: str, outcome: str, source: str, numbers: list[int], state: Path) -> int:
    mountpoint = _mounted_at(source, state)
    if mountpoint is not None:
        with daemon_of(mountpoint, state) as client:
            request = RetryRequest(numbers) if what == "retry" else DiscardRequest(numbers)
            count = int(ask(client, request).get("count", 0))
    else:
        kept = kept_source(source, state)
        with opened(kept.journal, kept.record) as journal:
            changes = [change for change in journal.rejected() if change.seq in numbers]
            for change in changes:
                (journal.retry if what == "retry" else journal.discard)(change.namespace, change.key)
        count = len(changes)
    say(f"{counted(count, 'change')} {outcome}")
    return Exit.OK
