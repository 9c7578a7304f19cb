"""`kvfs serve`: the REST API of Workers KV over an embedded store, for development and tests."""

import os
import re
from pathlib import Path

import click

from kvfs.cli.guard import Exit
from kvfs.cli.logs import LEVELS, set_up_logging
from kvfs.cli.options import option, path
from kvfs.cli.output import say
from kvfs.core.errors import UserError
from kvfs.host.state import default_data_dir, default_state_dir, private_directory


@click.command()
@option("store", type=path, metavar="FILE", help="The store.  [default: that of a bare local:]")
@option("listen", default="127.0.0.1:8787", metavar="HOST:PORT", help="Where; port 0 takes a free one.")
@option("token-file", type=path, help="The token, made if need be.  [default: in the state directory]")
@option("faults", metavar="SPEC", help="Misbehave as docs/server.md says; '' only opens the control.")
@option("strict", is_flag=True, help="Refuse ids and credentials that the API would refuse.")
@option("allow-any-host", is_flag=True, help="Listen where other machines can reach it.")
@option("log-level", type=click.Choice(LEVELS), default="info", help="info has a line a request.")
def serve(
    store: Path | None,
    listen: str,
    token_file: Path | None,
    faults: str | None,
    strict: bool,
    allow_any_host: bool,
    log_level: str,
) -> int:
    """Serve the REST API of Workers KV over an embedded store, until SIGTERM or Ctrl-C."""
    host, port = parse_listen(listen)
    if store is not None and not store.absolute().parent.is_dir():
        raise UserError(f"{store.absolute().parent} does not exist: make it first, or name another --store")
    try:
        from kvfs.server.serving import ServeOptions, run_server  # starlette and hypercorn: an extra
    except ImportError as exc:
        raise UserError(f"{exc.name} is not installed: pip install 'kvfs[server]'") from exc
    set_up_logging(log_level, None)
    token = os.environ.get("KVFS_SERVE_TOKEN") if token_file is None else None
    if token is None and token_file is None:
        token_file = private_directory(default_state_dir()) / "serve-token"
    options = ServeOptions(
        store=store or default_data_dir() / "store.sqlite",
        host=host,
        port=port,
        token_file=token_file,
        token=token,
        faults=faults,
        strict=strict,
        allow_any_host=allow_any_host,
    )
    run_server(options, announce=say)
    return Exit.OK


def parse_listen(text: str) -> tuple[str, int]:
    """`127.0.0.1:8787`, `[::1]:8787` or `:8787`."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]*)):(\d{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise click.BadParameter(f"{text!r} is not HOST:PORT", param_hint="--listen")
    return found[1] or found[2] or "127.0.0.1", int(found[3])
