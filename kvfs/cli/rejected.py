"""`kvfs rejected`: the changes the server refused for ever; only the user decides what becomes of them."""

import json
from pathlib import Path

import click

from kvfs.cli.daemons import ask, chosen_mounts, daemon_of, state_of
from kvfs.cli.guard import Exit
from kvfs.cli.options import STATE_DIR, path
from kvfs.cli.output import say, size_text
from kvfs.core.errors import UserError
from kvfs.host.control import Message


@click.group(no_args_is_help=False)  # the help would be more than one line of complaint
def rejected() -> None:
    """List, retry or discard changes that the server refused.

    Their content stays readable in the mount until then.
    """


@rejected.command("list")
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON array, as documented in docs/status.md.")
@STATE_DIR
def list_rejected(directory: Path | None, as_json: bool, state_dir: Path | None) -> int:
    """List them, with the number that retry and discard take and the server's reason."""
    items = []
    for mountpoint in chosen_mounts(directory, state_of(state_dir)):
        answer = _ask(mountpoint, state_dir, {"request": "rejected_list"})
        items += [{"mountpoint": str(mountpoint), **item} for item in answer.get("items", [])]
    if as_json:
        click.echo(json.dumps(items, indent=2))
        return Exit.OK
    for item in items:
        size = size_text(float(item.get("size", 0)))
        say(f"{item.get('seq')}  {item['mountpoint']}/{item.get('path')}  {size}  {item.get('error')}")
    return Exit.OK


@rejected.command("retry")
@click.argument("directory", metavar="DIR", type=path)
@click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that were refused.")
@STATE_DIR
def retry(directory: Path, numbers: tuple[int, ...], everything: bool, state_dir: Path | None) -> int:
    """Send them again with what is pending."""
    return _settle("rejected_retry", "will be sent again", directory, numbers, everything, state_dir)


@rejected.command("discard")
@click.argument("directory", metavar="DIR", type=path)
@click.argument("numbers", metavar="[NUMBER]...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that were refused.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@STATE_DIR
def discard(
    directory: Path, numbers: tuple[int, ...], everything: bool, yes: bool, state_dir: Path | None
) -> int:
    """Give them up: what was written is gone, and the file is again what the server has."""
    if not yes:
        click.confirm("What was written will be lost. Discard it?", abort=True)
    return _settle("rejected_discard", "discarded", directory, numbers, everything, state_dir)


def _settle(
    request: str,
    outcome: str,
    directory: Path,
    numbers: tuple[int, ...],
    everything: bool,
    state_dir: Path | None,
) -> int:
    if not numbers and not everything:
        raise click.UsageError("name the NUMBERs that `kvfs rejected list` shows, or --all")
    [mountpoint] = chosen_mounts(directory, state_of(state_dir))
    answer = _ask(mountpoint, state_dir, {"request": request, "seqs": list(numbers), "all": everything})
    count = int(answer.get("count", 0))
    if count < len(numbers):
        raise UserError(f"{len(numbers) - count} of these numbers are not in `kvfs rejected list`")
    say(f"{count} {'change' if count == 1 else 'changes'} {outcome}")
    return Exit.OK


def _ask(mountpoint: Path, state_dir: Path | None, request: Message) -> Message:
    with daemon_of(mountpoint, state_of(state_dir)) as client:
        return ask(client, request)
