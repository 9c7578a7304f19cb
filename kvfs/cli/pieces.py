"""The files that `kvfs install` puts in place, each with its path, content and mode. Nothing is written here.

mount helper      mount -t kvfs, and lines of fstab (system only)
units             kvfs@PROFILE.service for systemd: the profile of the configuration file names source and directory
completion        bash, zsh, fish
man pages         from the same source as `--help`
"""

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
from click.shell_completion import FishComplete, ZshComplete
from click_man.core import generate_man_page

from kvfs import __version__

MARK: Final = "installed by `kvfs install`"
"""Stands in each file: a file without it is somebody else's and stays as it is."""

_UNIT: Final = """\
# {mark}
[Unit]
Description=Workers KV of the profile %i (kvfs)
Documentation=man:kvfs(1)
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
NotifyAccess=main
ExecStart={command} mount --foreground --profile %i
# At its end the daemon sends what is pending, and asks for more time as long as that goes on.
TimeoutStopSec=90
TimeoutStartSec=90
WatchdogSec=60
Restart=on-failure
RestartSec=5
{hardening}
[Install]
WantedBy={target}
"""
_BACKUP: Final = """\
# {mark}
# {place}/backup-NAME.env says what is backed up where:
#   KVFS_BACKUP_SOURCE=cloudflare:ACCOUNT/NAMESPACE
#   KVFS_BACKUP_DIR=/var/backups/kvfs/NAMESPACE
#   KVFS_BACKUP_KEEP=7d,4w
[Unit]
Description=Backup of Workers KV: %i (kvfs)
Documentation=man:kvfs-backup(1)
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
EnvironmentFile={place}/backup-%i.env
ExecStart={command} backup
UMask=0077
{hardening}"""
_BACKUP_TIMER: Final = """\
# {mark}
[Unit]
Description=Nightly backup of Workers KV: %i (kvfs)

[Timer]
OnCalendar=daily
RandomizedDelaySec=1h
Persistent=true

[Install]
WantedBy=timers.target
"""
_SYSTEM: Final = """\
# A token: systemd-creds encrypt - /etc/credstore.encrypted/kvfs-token, and then
# LoadCredentialEncrypted=kvfs-token
LoadCredential=kvfs-token
StateDirectory=kvfs
StateDirectoryMode=0700
Environment=KVFS_STATE_DIR=/var/lib/kvfs
"""
_BASH: Final = """\
# {mark}
_kvfs() {{
    local IFS=$'\\n' answer kind value
    COMPREPLY=()
    answer=$(COMP_LINE="$COMP_LINE" COMP_POINT=$COMP_POINT COMP_WORD="${{COMP_WORDS[COMP_CWORD]}}" \\
        _KVFS_COMPLETE=bash_complete "$1" 2>/dev/null)
    for answer in $answer; do
        IFS=',' read -r kind value <<<"$answer"
        case $kind in
            dir) compopt -o plusdirs ;;
            file) compopt -o default -o bashdefault ;;
            plain)
                [[ $value =~ ^[[:alnum:]_./:@=+,%-]*$ ]] || printf -v value %q "$value"
                COMPREPLY+=("$value")
                ;;
        esac
    done
    # a word that can be gone on with gets no space after it
    if [[ ${{#COMPREPLY[@]}} -gt 0 && ${{COMPREPLY[0]}} == *[:/] ]]; then compopt -o nospace; fi
}}
complete -o nosort -F _kvfs kvfs
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """One file. `path` is absolute; `kvfs install --root` puts it below another root."""

    path: Path
    content: str
    mode: int = 0o644


def pieces(cli: click.Group, *, user: bool) -> Iterator[Piece]:
    """Return everything that is installed for the whole system, or for one user."""
    home = Path.home()
    data = (
        Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") if user else Path("/usr/local/share")
    )
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") if user else Path("/etc")
    command = shlex.join(own_command())
    if not user:
        script = f'#!/bin/sh\n# {MARK}: for mount(8) and fstab(5)\nexec {command} mount-helper "$@"\n'
        yield Piece(Path("/sbin/mount.kvfs"), script, 0o755)
    units = config / "systemd" / ("user" if user else "system")
    unit = _UNIT.format(
        mark=MARK,
        command=command.replace("%", "%%"),
        hardening="" if user else _SYSTEM,
        target="default.target" if user else "multi-user.target",
    )
    yield Piece(units / "kvfs@.service", unit)
    place = "%h/.config/kvfs" if user else "/etc/kvfs"
    yield Piece(units / "kvfs-backup@.service", _backup_unit(command, place, user=user))
    yield Piece(units / "kvfs-backup@.timer", _BACKUP_TIMER.format(mark=MARK))
    yield Piece(data / "bash-completion/completions/kvfs", _BASH.format(mark=MARK))
    yield Piece(data / "zsh/site-functions/_kvfs", _zsh(cli))
    fish = config / "fish/completions" if user else data / "fish/vendor_completions.d"
    yield Piece(fish / "kvfs.fish", f"# {MARK}\n" + FishComplete(cli, {}, "kvfs", "_KVFS_COMPLETE").source())
    for name, page in _man_pages(cli):
        yield Piece(data / "man/man1" / f"{name}.1", page)


def _backup_unit(command: str, place: str, *, user: bool) -> str:
    return _BACKUP.format(
        mark=MARK, command=command.replace("%", "%%"), place=place, hardening="" if user else _SYSTEM
    )


def own_command() -> list[str]:
    """Return the words that start this very kvfs, wherever it is installed."""
    script = Path(sys.executable).with_name("kvfs")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "kvfs"]


def _zsh(cli: click.Group) -> str:
    """Return Click's script. It begins with #compdef, so the mark is its second line.

    Its function has the name of the file, because otherwise zsh runs the file itself the second time, without an
    answer.
    """
    source = ZshComplete(cli, {}, "kvfs", "_KVFS_COMPLETE")
    first, _, rest = source.source().replace(source.func_name, "_kvfs").lstrip().partition("\n")
    return f"{first}\n# {MARK}\n{rest}"


def _man_pages(cli: click.Group) -> Iterator[tuple[str, str]]:
    """Yield a page for kvfs and one for each command that is shown."""
    context = click.Context(cli, info_name="kvfs")
    yield from _pages(cli, context)


def _pages(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    page = generate_man_page(context, version=__version__)
    yield context.command_path.replace(" ", "-"), f'.\\" {MARK}\n{page}'
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _pages(below, click.Context(below, info_name=name, parent=context))
