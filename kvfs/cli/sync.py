"""`kvfs sync` sends pending changes now; `kvfs refresh` forgets cached knowledge."""

from pathlib import Path

import click

from kvfs.cli.daemons import (
    ask_mount,
    ask_to_send,
    chosen_mounts,
    daemon_of,
    mount_containing,
    report_left,
)
from kvfs.cli.exits import Exit
from kvfs.cli.options import QUIET, STATE_DIR, STOP, path
from kvfs.host.requests import RefreshRequest, SyncRequest


@click.command()
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@STOP
@QUIET
@STATE_DIR
def sync(directory: Path | None, timeout: float | None, quiet: bool, state: Path) -> int:
    """Send what is pending in DIR (without it, in all your mounts), and wait until it is at the server.

    The exit status is 3 if changes could not be sent, or met changes of others. They are listed, and kept.
    """
    worst: int = Exit.OK
    for mountpoint in chosen_mounts(directory, state):
        with daemon_of(mountpoint, state) as client:
            answer = ask_to_send(client, SyncRequest(timeout), quiet=quiet)
        worst = max(worst, report_left(answer, mountpoint, kept="they stay in the journal"))
    return worst


@click.command()
@click.argument("target", metavar="PATH", type=path)
@STATE_DIR
def refresh(target: Path, state: Path) -> None:
    """Forget what was read at and below PATH, so that the next look asks the server."""
    mountpoint, inside = mount_containing(target)
    ask_mount(mountpoint, state, RefreshRequest(inside))
