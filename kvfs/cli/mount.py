"""`kvfs mount`: makes the checks that can be made at once, then serves here or hands over to the background."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from kvfs.cli.exits import Exit
from kvfs.cli.fstab import expanded
from kvfs.cli.helping import SectionedCommand
from kvfs.cli.logs import set_up_logging
from kvfs.cli.options import SOURCE, credential_options, flag, mount_options, named_profile, path
from kvfs.cli.output import say
from kvfs.cli.premount import check_fuse, check_mountpoint, check_pyfuse3, check_source_outside
from kvfs.cli.spawn import ReadyPipe, received_secret, start_in_background
from kvfs.cli.waiting import Waiting
from kvfs.config import (
    SOURCE_SYNTAX,
    CloudflareSource,
    Config,
    Source,
    base_url_hint,
    keys_wanted,
    load_credentials,
    parse_source,
    source_identity,
)
from kvfs.core.errors import UserError
from kvfs.host.claims import claimed, remembered_id, state_dirs_of
from kvfs.host.credentials import Credentials
from kvfs.host.mounts import real_mountpoint
from kvfs.host.process import import_nothing_below
from kvfs.host.profiles import config_file, settings_of
from kvfs.host.sources import store_of
from kvfs.host.state import MountRecord, birth, control_path, private_directory
from kvfs.store.miniflare.dev import route_of
from kvfs.workers import WranglerSource

DEV_DEFAULTS: Final = {"cache_ttl": 1.0, "write_back": 0.2}
"""Of `wrangler:` sources: what the Worker wrote shows within a second, and the Worker sees what was saved."""


class MountCommand(SectionedCommand):
    """`kvfs mount`, which takes `-o a,b=c` as mount(8) does: each word is the option of that name."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {
        "The account": (
            *("token_file", "token_command", "insecure", "preview"),
            *("rate_requests", "rate_seconds", "require_server"),
        ),
        "Writing": (
            "read_only",
            "write_back",
            "durable_close",
            "on_conflict",
            "max_pending",
            "history",
            "local_names",
        ),
        "Reading": ("cache_ttl", "cache_size", "sizes", "poll_interval", "settle"),
        "What it looks like": (
            *("separator", "expiration", "uid", "gid", "umask", "allow_other"),
            "mount_flags",
        ),
        "Waiting": ("timeout", "drain_timeout"),
        "The daemon": (
            *("foreground", "quiet", "profile", "in_fstab", "state_dir"),
            *("log_level", "log_format", "log_file"),
        ),
    }

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the options that `-o` holds in the place of `-o`."""
        words: list[str] = []
        rest = iter(args)
        for word in rest:
            if word == "--":
                words += [word, *rest]
            elif word.startswith("-o"):
                text = word[2:] or next(rest, "")
                found = expanded(text, option_names())
                os.environ.update(found.environ)
                words += found.words
            else:
                words.append(word)
        ctx.default_map = _from_file(_profile_in(words))
        try:
            return super().parse_args(ctx, words)
        except click.BadParameter as exc:
            name = exc.param.name if exc.param is not None else None
            if name is None or ctx.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP:
                raise
            words_of_file = f"{exc.message}, in {config_file(os.environ)}"
            raise click.BadParameter(words_of_file, ctx, exc.param) from exc


def _profile_in(words: list[str]) -> str | None:
    """Return the profile that the words or KVFS_PROFILE choose: it is needed before the other options are read."""
    for number, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("--profile="):
            return word.partition("=")[2]
        if word == "--profile" and number + 1 < len(words):
            return words[number + 1]
    return os.environ.get("KVFS_PROFILE") or None


def _from_file(profile: str | None) -> dict[str, Any]:
    """Return the settings of the configuration file by the names of parameters."""
    file = config_file(os.environ)
    settings = settings_of(file, profile)
    known = option_names()
    found: dict[str, Any] = {"source": settings.source, "directory": settings.directory}
    for name, value in settings.values.items():
        if name not in known or name in ("profile", "foreground"):
            raise UserError(
                f"{settings.origins[name]}: there is no option {name!r} (kvfs mount --help lists them)"
            )
        if known[name] != isinstance(value, bool):
            raise UserError(
                f"{settings.origins[name]}: {name} is {'true or false' if known[name] else 'no switch'}"
            )
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        found[name.replace("-", "_")] = value if isinstance(value, bool) else text
    return {name: value for name, value in found.items() if value is not None}


def option_names() -> dict[str, bool]:
    """Return the long options of `kvfs mount`, and True for those that take no value."""
    options = [param for param in mount.params if isinstance(param, click.Option) and not param.hidden]
    return {word[2:]: bool(one.is_flag) for one in options for word in one.opts if word.startswith("--")}


@click.command(
    cls=MountCommand,
    epilog=f"SOURCE is {SOURCE_SYNTAX}. A token is never an argument: see --token-file, --token-command.",
)
@click.argument("source", type=SOURCE)
@click.argument("directory", metavar="DIR", type=path)
@flag("-f", "--foreground", "Stay in the foreground, and log to the terminal.")
@credential_options
@named_profile("Use options, SOURCE and DIR of this profile.")
@click.option("-o", "in_fstab", metavar="A,B=C", expose_value=False, help="Set options by name, as in fstab.")
@mount_options
@flag("--quiet", "Print errors only.")
@click.option("--tell", is_flag=True, hidden=True)
@click.option("--ready-fd", type=click.IntRange(0, 1 << 20), hidden=True)
@click.option("--secret-fd", type=click.IntRange(0, 1 << 20), hidden=True)
def mount(
    source: str,
    directory: Path,
    foreground: bool,
    profile: str | None,
    token_file: Path | None,
    token_command: str | None,
    insecure: bool,
    preview: bool,
    quiet: bool,
    tell: bool,
    ready_fd: int | None,
    secret_fd: int | None,
    **values: Any,
) -> int:
    """Mount SOURCE on the empty directory DIR, and return when it can be used."""
    with ReadyPipe(ready_fd, tells=tell) as pipe:
        parsed = parse_source(source, os.environ, insecure=insecure, preview=preview)
        values |= _quicker(parsed)
        secret = received_secret(secret_fd) if secret_fd is not None else None
        credentials = load_credentials(parsed, token_file, os.environ, token_command, secret)
        parsed = with_account(parsed, credentials, quiet=quiet or ready_fd is not None)
        config = build_config(source=parsed, mountpoint=real_mountpoint(directory), **values)
        check_pyfuse3(load=foreground or ready_fd is not None)
        check_mountpoint(config)
        check_source_outside(config)
        check_fuse(allow_other=config.allow_other)
        prepare_state(config)
        if ready_fd is not None or foreground:
            return _serve(config, credentials, pipe)
    if isinstance(parsed, WranglerSource) and parsed.state is not None and not quiet:
        say(route_of(parsed.state))
    extra = [f"--token-file={token_file}"] if token_file is not None else []
    extra += ["--insecure"] if insecure else []
    return start_in_background(config, credentials, extra, token_command, quiet=quiet)


def with_account(source: Source, credentials: Credentials | None, *, quiet: bool = False) -> Source:
    """Return the source with its account, which is asked for if the source names none. Raises `UserError`."""
    if credentials is None or not isinstance(source, CloudflareSource) or source.account:
        return source
    import trio

    from kvfs.cli.own_account import account_of  # httpx and the rest: few mounts need it here

    with Waiting(f"asking {urlsplit(source.base_url).netloc} which account the token sees", quiet=quiet):
        try:
            return replace(source, account=trio.run(account_of, source, credentials))
        except UserError as exc:
            hint = base_url_hint(source.base_url)
            raise UserError(f"{exc}; {hint}" if hint else str(exc)) from exc


def _quicker(source: Source) -> dict[str, float]:
    """Return defaults for a source on this machine that a developer changes from two sides: a Worker and the mount."""
    if not isinstance(source, WranglerSource):
        return {}
    context = click.get_current_context()
    given = {
        name for name in DEV_DEFAULTS if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    return {name: DEV_DEFAULTS[name] for name in DEV_DEFAULTS.keys() - given}


def build_config(**values: Any) -> Config:
    """Return a `Config` of the given values; None stands for the field's default."""
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
    # pyfuse3, httpx and the rest: only the daemon pays for them
    from kvfs.daemon.kernelside import KernelSide
    from kvfs.daemon.run import run_daemon
    from kvfs.fuse.operations import Operations
    from kvfs.fuse.session import KernelInvalidator, Session
    from kvfs.log.reserve import STARTING, make_way

    kernel = KernelSide(Operations, Session, KernelInvalidator)
    set_up_logging(config.log_level, config.log_file, as_json=config.log_format == "json")
    record = MountRecord(
        mountpoint=os.fspath(config.mountpoint),
        source=str(config.source),
        pid=os.getpid(),
        socket=os.fspath(control_path(config.mountpoint, config.state_dir)),
        since=time.time(),
        born=birth(os.getpid()),
        journal=os.fspath(config.journal_path),
        store=store_of(source_identity(config)),
        is_read_only=config.read_only,
    )
    state_dirs = state_dirs_of(config.state_dir)
    namespace, prefix = keys_wanted(config)
    namespace = remembered_id(record.store, namespace, state_dirs)
    record = replace(record, namespace=namespace, prefix=prefix)

    def ready() -> None:
        if not pipe.ready():
            say(f"{config.source} is mounted on {config.mountpoint}; Ctrl-C ends it")

    import_nothing_below(config.mountpoint)
    make_way(config.journal_path, STARTING)
    with claimed(record, state_dirs):
        return run_daemon(config, credentials, ready, kernel, pipe.doing) or Exit.OK
