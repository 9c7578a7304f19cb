"""`kvfs serve`: the REST API of Workers KV over an embedded store, for development and tests."""

import os
import re
import shlex
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvfs.cli.exits import Exit
from kvfs.cli.fork import in_background
from kvfs.cli.logs import set_up_logging
from kvfs.cli.options import LOG_LEVEL, option
from kvfs.cli.output import say
from kvfs.core.errors import UserError
from kvfs.host.state import default_data_dir, default_state_dir, private_directory
from kvfs.settings import FLAG, PATH, Kind

if TYPE_CHECKING:
    from kvfs.server.serving import ServeOptions, Serving


@click.command()
@option(PATH, "store", "Serve this store.  [default: that of local:]")
@option(FLAG, "ephemeral", "Use a new store and a new token, and remove them at the end.")
@option(
    Kind("[TITLE=]PLACE", str),
    "seed",
    "Fill a namespace from a directory or file; may be repeated.",
    multiple=True,
)
@option(Kind("HOST:PORT", str), "listen", "Listen there; port 0 takes a free port.", "127.0.0.1:8787")
@option(FLAG, "print-env", 'Serve in the background: eval "$(kvfs serve --print-env)".')
@option(PATH, "token-file", "Read the token there, or make one.  [default: in the state directory]")
@option(Kind("SPEC", str), "faults", "Misbehave as docs/server.md says; '' lets clients set the faults.")
@option(FLAG, "strict", "Refuse ids and credentials that the API would refuse.")
@option(FLAG, "allow-any-host", "Allow an address that other machines can reach.")
@LOG_LEVEL
def serve(
    store: Path | None,
    ephemeral: bool,
    seed: tuple[str, ...],
    listen: str,
    print_env: bool,
    token_file: Path | None,
    faults: str | None,
    strict: bool,
    allow_any_host: bool,
    log_level: str,
) -> int:
    """Serve the REST API of Workers KV over an embedded store, until SIGTERM or Ctrl-C."""
    host, port = parse_listen(listen)
    if ephemeral and store is not None:
        raise UserError("--ephemeral has a store of its own: leave --store out")
    if store is not None and not store.absolute().parent.is_dir():
        raise UserError(f"{store.absolute().parent} does not exist: make it first, or name another --store")
    from kvfs.server.seeding import Seed
    from kvfs.server.serving import (  # starlette and hypercorn: for this command alone
        ServeOptions,
        run_server,
    )

    seeds = tuple(Seed.parse(text) for text in seed)

    def run(announce: Callable[[str], None]) -> int:
        set_up_logging(log_level, None)
        with ExitStack() as stack:
            place = (
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kvfs-"))) if ephemeral else None
            )
            token, file = token_source(token_file, place)
            file_of_store = store or (place or default_data_dir()) / "store.sqlite"
            options = ServeOptions(
                store=file_of_store.absolute(),
                host=host,
                port=port,
                token_file=file,
                token=token,
                faults=faults,
                allow_any_host=allow_any_host,
                strict=strict,
                seeds=seeds,
            )
            show = exports if print_env else announcement
            run_server(options, announce=lambda ready: announce(show(options, ready)))
        return Exit.OK

    if print_env:
        return in_background(run, private_directory(default_state_dir()) / "serve.log")
    return run(say)


def token_source(token_file: Path | None, place: Path | None) -> tuple[str | None, Path | None]:
    """Return the token of the environment, or the file that holds it.

    `place` is the directory of an ephemeral server.
    """
    if token_file is not None:
        return None, token_file
    token = os.environ.get("KVFS_SERVE_TOKEN")
    if token is not None:
        return token, None
    return None, (place or private_directory(default_state_dir())) / "serve-token"


def announcement(options: "ServeOptions", ready: "Serving") -> str:
    """Return one line for people: what is served, where, and where the token is."""
    where = f"token in {ready.token_file}" if ready.token_file else "token as given"
    return f"serving {options.store} at {ready.url} ({where})"


def exports(options: "ServeOptions", ready: "Serving") -> str:
    """Return lines for `eval`: the variables that wrangler, the official SDKs and kvfs read, and the process to end."""
    variables = {
        "CLOUDFLARE_API_BASE_URL": ready.url,  # wrangler, kvfs
        "CLOUDFLARE_BASE_URL": ready.url,  # the SDKs
        "CLOUDFLARE_API_TOKEN": ready.token,
        "CLOUDFLARE_ACCOUNT_ID": ready.account,
        "KVFS_SERVE_PID": str(os.getpid()),
    }
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def parse_listen(text: str) -> tuple[str, int]:
    """Parse `127.0.0.1:8787`, `[::1]:8787` or `:8787`."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]*)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT", param_hint="--listen")
    return found[1] or found[2] or "127.0.0.1", int(found[3])
