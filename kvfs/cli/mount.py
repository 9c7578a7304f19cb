"""`kvfs mount`: check what can be checked at once, then serve here or hand over to the background."""

import os
import time
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from kvfs.cli.checks import check_fuse, check_mountpoint, check_source_outside
from kvfs.cli.guard import Exit
from kvfs.cli.logs import set_up_logging
from kvfs.cli.options import mount_options, option, path
from kvfs.cli.output import say
from kvfs.cli.spawn import ReadyPipe, start_in_background
from kvfs.config import SOURCE_SYNTAX, Config, Credentials, Source, load_credentials, parse_source
from kvfs.host.mounts import real_mountpoint
from kvfs.host.state import MountRecord, control_path, private_directory, record_path, recorded
from kvfs.store.miniflare.dev import route_of
from kvfs.workers import WranglerSource

DEV_DEFAULTS: Final = {"cache_ttl": 1.0, "write_back": 0.2}
"""Of `wrangler:` sources: what the Worker wrote shows within a second, and the Worker sees what was saved."""


@click.command(epilog=f"SOURCE is {SOURCE_SYNTAX}. A token is never an argument: see --token-file.")
@click.argument("source")
@click.argument("directory", metavar="DIR", type=path)
@click.option("-f", "--foreground", is_flag=True, help="Stay; the log goes to the terminal.")
@option("token-file", type=path, default=None, help="Read the API token there (mode 600).")
@option("insecure", is_flag=True, help="Allow a token over plain http to another machine.")
@click.option("--preview", is_flag=True, help="Take the preview_id of the binding in cloudflare:@BINDING.")
@mount_options
@click.option("--ready-fd", type=int, hidden=True)
def mount(
    source: str,
    directory: Path,
    foreground: bool,
    token_file: Path | None,
    insecure: bool,
    preview: bool,
    ready_fd: int | None,
    **values: Any,
) -> int:
    """Mount SOURCE on the empty directory DIR; returns when it can be used."""
    with ReadyPipe(ready_fd) as pipe:
        parsed = parse_source(source, os.environ, insecure=insecure, preview=preview)
        values |= _quicker(parsed)
        config = build_config(source=parsed, mountpoint=real_mountpoint(directory), **values)
        credentials = load_credentials(parsed, token_file, os.environ)
        check_mountpoint(config)
        check_source_outside(config)
        check_fuse(allow_other=config.allow_other)
        prepare_state(config)
        if ready_fd is not None or foreground:
            return _serve(config, credentials, pipe)
    if isinstance(parsed, WranglerSource) and parsed.state is not None:
        say(route_of(parsed.state))
    extra = [f"--token-file={token_file}"] if token_file is not None else []
    return start_in_background(config, [*extra, *(["--insecure"] if insecure else [])])


def _quicker(source: Source) -> dict[str, float]:
    """Defaults for a source on this machine that a developer changes from two sides: a Worker and the mount."""
    if not isinstance(source, WranglerSource):
        return {}
    context = click.get_current_context()
    given = {
        name for name in DEV_DEFAULTS if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return {name: DEV_DEFAULTS[name] for name in DEV_DEFAULTS.keys() - given}


def build_config(**values: Any) -> Config:
    """A `Config` of what was given; None stands for the field's default."""
    return Config(**{name: value for name, value in values.items() if value is not None})


def prepare_state(config: Config) -> None:
    """Make the private directories of this mount, or refuse those of somebody else."""
    for directory in (
        config.state_dir,
        config.state_dir / "mounts",
        config.state_dir / "sources",
        config.journal_path.parent,
        config.control_path.parent,
    ):
        private_directory(directory)


def _serve(config: Config, credentials: Credentials | None, pipe: ReadyPipe) -> int:
    from kvfs.daemon.run import run_daemon  # pyfuse3, httpx and the rest: only the daemon pays for them

    set_up_logging(config.log_level, config.log_file)
    record = MountRecord(
        mountpoint=os.fspath(config.mountpoint),
        source=str(config.source),
        pid=os.getpid(),
        socket=os.fspath(control_path(config.mountpoint, config.state_dir)),
        since=time.time(),
    )

    def ready() -> None:
        if not pipe.ready():
            say(f"{config.source} is mounted on {config.mountpoint}; Ctrl-C ends it")

    with recorded(record, record_path(config.mountpoint, config.state_dir)):
        return run_daemon(config, credentials, ready) or Exit.OK
