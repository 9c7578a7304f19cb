"""`kvfs install`: the mount helper, systemd units, completion and man pages, put in place or taken away."""

import os
from pathlib import Path

import click

from kvfs.cli.exits import Exit
from kvfs.cli.options import DRY_RUN, flag, path
from kvfs.cli.output import complain, say
from kvfs.cli.pieces import MARK, Piece, pieces
from kvfs.core.errors import UserError
from kvfs.host.state import write_whole


@click.command()
@flag("--user", "Install for you alone, in your home, without root.")
@DRY_RUN
@flag("--remove", "Remove the installed files.")
@click.option("--root", type=path, help="Put everything below this directory (for packages).")
@click.pass_context
def install(ctx: click.Context, user: bool, dry_run: bool, remove: bool, root: Path | None) -> int:
    """Put the mount helper, systemd units, completion and man pages in place.

    \b
    kvfs install --dry-run       show which files it would write
    sudo kvfs install            for mount -t kvfs, fstab and systemctl
    kvfs install --user          for systemctl --user, without root
    kvfs install --remove        remove the files
    """
    if not user and root is None and os.geteuid() != 0 and not dry_run:
        raise UserError(
            "only root can install for the whole system: sudo kvfs install, or kvfs install --user"
        )
    cli = ctx.find_root().command
    assert isinstance(cli, click.Group)
    left = [
        piece for piece in pieces(cli, user=user) if not _handled(piece, root, dry_run=dry_run, remove=remove)
    ]
    if left:
        return Exit.FAILED
    if not dry_run and root is None:
        scope = " --user" if user else ""
        say(f"systemd reads its units anew with: systemctl{scope} daemon-reload")
    return Exit.OK


def _handled(piece: Piece, root: Path | None, *, dry_run: bool, remove: bool) -> bool:
    """Write or remove one file and name it; False if it is somebody else's and stays."""
    target = piece.path if root is None else root / piece.path.relative_to("/")
    if target.exists() and MARK not in target.read_text(errors="replace"):
        complain(f"{target} is not kvfs's: it stays as it is")
        return False
    if remove:
        if target.exists():
            say(f"{'would remove' if dry_run else 'removed'} {target}")
            if not dry_run:
                target.unlink()
        return True
    say(f"{'would write' if dry_run else 'wrote'} {target}")
    if not dry_run:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, piece.content.encode(), piece.mode)
    return True
