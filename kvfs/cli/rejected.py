"""`kvfs rejected`: the changes the server refused for ever; only the user decides what becomes of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from msgspec import to_builtins

from kvfs.cli.asking import confirm
from kvfs.cli.completing import KEPT
from kvfs.cli.daemons import ask_mount, living_mounts
from kvfs.cli.helping import HelpGroup
from kvfs.cli.options import STATE_DIR, YES, flag, grouped, json_option
from kvfs.cli.output import counted, say, size_text
from kvfs.cli.unsent import items_of, kept_source, opened, say_items
from kvfs.core.errors import UserError
from kvfs.host.control import Message
from kvfs.host.mounts import mount_at, real_mountpoint
from kvfs.host.requests import DiscardRequest, RejectedListRequest, RetryRequest
from kvfs.host.state import records

MOST_NUMBERS: Final = 10_000  # of changes in one request, which is a line of so many bytes at most


@click.group(cls=HelpGroup, no_args_is_help=False)  # the help would be more than one line of complaint
def rejected() -> None:
    """List, retry or discard changes that the server refused, of sources that are mounted or not.

    Until you retry or discard a change, its content stays readable in the mount.
    """


@rejected.command("list")
@click.argument("source", metavar="[SOURCE|DIR]", required=False, type=KEPT)
@json_option()
@STATE_DIR
def list_rejected(source: str | None, as_json: bool, state: Path) -> None:
    """List refused changes: the number that retry and discard take, and the server's reason."""
    say_items(_items(source, state), _line, "nothing is refused", as_json=as_json)


def _line(item: Message) -> str:
    place = item["mountpoint"] or item["source"]
    return f"{item['seq']}  {place}/{item['path']}  {size_text(item['size'])}  {item['error']}"


def _items(source: str | None, state: Path) -> Iterator[Message]:
    """Return the refused changes of one source or of all, with their source and the mount point ("" for none)."""
    mountpoint = _mounted_at(source, state) if source is not None else None
    if mountpoint is None:
        yield from items_of(source, state, RejectedListRequest(), lambda kept: kept.rejected)
        return
    for item in ask_mount(mountpoint, state, RejectedListRequest()).items:
        source = next((one.source for one in records(state) if one.mountpoint == str(mountpoint)), "")
        yield {"source": source, "mountpoint": str(mountpoint), **to_builtins(item)}


def _mounted_at(text: str, state: Path) -> Path | None:
    """Return the mount point of a source or directory that is mounted, None for one that is not."""
    for record in living_mounts(text, state):
        return Path(record.mountpoint)
    mountpoint = real_mountpoint(Path(text).absolute())
    mount = mount_at(mountpoint)
    return mountpoint if mount is not None and mount.is_kvfs else None


_CHANGES: Final = grouped(
    click.argument("source", metavar="SOURCE|DIR", type=KEPT),
    click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1),
    flag("--all", "everything", "Take all changes that were refused."),
    STATE_DIR,
)


@rejected.command("retry")
@_CHANGES
def retry(source: str, numbers: tuple[int, ...], everything: bool, state: Path) -> None:
    """Send refused changes again."""
    chosen = _chosen(source, numbers, everything, state)
    _settle("retry", "will be sent again", source, chosen, state)


@rejected.command("discard")
@_CHANGES
@YES
def discard(source: str, numbers: tuple[int, ...], everything: bool, yes: bool, state: Path) -> None:
    """Discard refused changes: the file shows the value of the server again."""
    chosen = _chosen(source, numbers, everything, state)
    if chosen and not yes:
        confirm("What was written will be lost. Discard it?")
    _settle("discard", "discarded", source, chosen, state)


def _chosen(source: str, numbers: tuple[int, ...], everything: bool, state: Path) -> list[int]:
    """Return the numbers that were meant, each once, of changes that are there."""
    if not numbers and not everything:
        raise click.UsageError("name the NUMBERs that `kvfs rejected list` shows, or --all")
    there = [int(item["seq"]) for item in _items(source, state)]
    if missing := [number for number in numbers if number not in there]:
        words = ", ".join(map(str, missing))
        raise UserError(f"{words}: not in `kvfs rejected list {source}`, which has {len(there)} changes")
    return there if everything else list(dict.fromkeys(numbers))


def _settle(what: str, outcome: str, source: str, numbers: list[int], state: Path) -> None:
    mountpoint = _mounted_at(source, state)
    if mountpoint is not None:
        starts = range(0, len(numbers), MOST_NUMBERS)
        some = (numbers[start : start + MOST_NUMBERS] for start in starts)
        count = sum(_asked(mountpoint, state, what, few) for few in some)
    else:
        kept = kept_source(source, state)
        with opened(kept.journal, kept.record) as journal:
            changes = [change for change in journal.rejected() if change.seq in numbers]
            for change in changes:
                (journal.retry if what == "retry" else journal.discard)(change.namespace, change.key)
        count = len(changes)
    say(f"{counted(count, 'change')} {outcome}")
    if count < len(numbers):
        left = counted(len(numbers) - count, "change")
        raise UserError(f"{left} had changed meanwhile: kvfs rejected list {source} shows what is left")


def _asked(mountpoint: Path, state: Path, what: str, numbers: list[int]) -> int:
    """Have the daemon settle some; return how many it did."""
    request = RetryRequest(numbers) if what == "retry" else DiscardRequest(numbers)
    return ask_mount(mountpoint, state, request).count
