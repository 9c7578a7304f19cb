"""`kvfs log`: the log of a mount, found by its mount point."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from kvfs.cli.options import STATE_DIR, flag, path
from kvfs.cli.output import printable, say
from kvfs.core.errors import UserError
from kvfs.host.mounts import real_mountpoint
from kvfs.host.sources import known_sources
from kvfs.host.state import log_path, records

SHOWN: Final = 100  # lines
_LOOK_SECONDS: Final = 0.2
_TAIL_BYTES: Final = 256 * 1024


@click.command()
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@flag("-f", "--follow", "Go on with new lines as they are written.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    default=SHOWN,
    show_default=True,
    help="Show this many of the last lines.",
)
@STATE_DIR
def log(directory: Path | None, follow: bool, lines: int, state: Path) -> None:
    """Show the log of the mount on DIR, also after it has ended. Without DIR, show that of your only mount."""
    mountpoint = _chosen(directory, state)
    file = log_path(mountpoint, state)
    if not file.exists():
        raise UserError(
            f"{file} does not exist: nothing was mounted on {mountpoint} before,"
            " or in the foreground, or with --log-file"
        )
    with open(file, "rb") as stream:
        for line in _last_lines(stream, lines):
            say(line)
        while follow:
            for raw in _new_lines(stream, file):
                say(raw)
            sys.stdout.flush()
            time.sleep(_LOOK_SECONDS)


def _chosen(directory: Path | None, state: Path) -> Path:
    """Return the mount point of a log: the one named, or the only one there is."""
    if directory is not None:
        return real_mountpoint(directory)
    known = {Path(record.mountpoint) for record in records(state)}
    if not known:
        known = {Path(record.mountpoint) for _, record in known_sources(state)}
    found = sorted(one for one in known if log_path(one, state).exists())
    if len(found) == 1:
        return found[0]
    names = ", ".join(map(printable, map(str, found))) or "none"
    raise UserError(f"name the DIR of a mount; those with a log are: {names}")


def _last_lines(stream: BinaryIO, count: int) -> list[str]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _TAIL_BYTES))
    lines = stream.read().decode(errors="replace").splitlines()
    return lines[len(lines) - min(count, len(lines)) :]


def _new_lines(stream: BinaryIO, file: Path) -> Iterator[str]:
    """Yield the lines added since. After a rotation, read the next log from its beginning."""
    yield from stream.read().decode(errors="replace").splitlines()
    try:
        is_put_away = file.stat().st_ino != os.fstat(stream.fileno()).st_ino
    except FileNotFoundError:
        return
    if is_put_away:
        with open(file, "rb") as following:
            os.dup2(following.fileno(), stream.fileno())
        stream.seek(0)
