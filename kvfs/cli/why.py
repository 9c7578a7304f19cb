"""`kvfs why`: the reason that keeps one path from the server, or its last failure."""

import re
from pathlib import Path

import click

from kvfs.cli.daemons import ask_mount, mount_containing
from kvfs.cli.exits import Exit
from kvfs.cli.options import STATE_DIR, path
from kvfs.cli.output import duration_text, say, size_text
from kvfs.history.moments import time_text
from kvfs.host.requests import WhyRequest


@click.command()
@click.argument("target", metavar="PATH", type=path)
@STATE_DIR
def why(target: Path, state: Path) -> int:
    """Say why PATH is not at the server yet, or what failed there last: the reason, what to do, when it goes on."""
    mountpoint, inside = mount_containing(target)
    answer = ask_mount(mountpoint, state, WhyRequest(inside))
    change = answer.change
    if change is None:
        say(f"{inside}: nothing of it waits to be sent")
    else:
        what = "its deletion" if change.kind == "delete" else size_text(change.size)
        say(f"{inside}: {what} {change.state}, {duration_text(change.age)} old")
    if change is not None and change.failed_at is not None:
        say(f"  last try  {time_text(change.failed_at)}")
    for reason in answer.reasons:
        say(f"  reason    {reason.reason}")
        found = re.search(r"HTTP (\d+)(?:, code (\d+))?", reason.reason)
        if found is not None:
            code = f", Cloudflare's code {found[2]}" if found[2] else ""
            say(f"  answer    HTTP status {found[1]}{code}")
        if reason.advice:
            say(f"  way out   {reason.advice}")
        if reason.next_try_seconds is not None:
            say(f"  next try  in {duration_text(reason.next_try_seconds)}")
    for line in answer.log:
        say(f"  log       {line}")
    return Exit.OK
