"""`kvfs serve`: the store, the application and hypercorn put together, and taken apart again.

The one place of this room that chooses a store.
"""

import ipaddress
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from kvfs.core.errors import UserError
from kvfs.host.token_file import usable_token
from kvfs.server.app import build_app
from kvfs.server.disconnects import patient_listeners, use_connections
from kvfs.server.fault_words import parse_faults
from kvfs.server.seeding import Seed, sow
from kvfs.server.shell import App
from kvfs.server.stubs import LOCAL_ACCOUNT, STRICT_ACCOUNT
from kvfs.server.tokens import load_or_create_token
from kvfs.store.embedded.sqlite_store import open_sqlite

KEEP_ALIVE: Final = 75  # seconds; longer than clients keep idle connections, so that they close first
GRACE: Final = 5  # seconds for requests under way when the server is told to stop
UNREAD_SECONDS: Final = 30  # a client that reads nothing for so long is gone: it must not hold up the end
BACKLOG: Final = 512

_CLIENT_GONE: Final = (trio.BusyResourceError, trio.BrokenResourceError, trio.ClosedResourceError)

log = logging.getLogger("kvfs.server")
hypercorn_log = logging.getLogger("kvfs.server.hypercorn")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of the server. `port` 0 takes any; `token` wins over `token_file`.

    `faults` is the text that `parse_faults` reads; even when empty it opens their control, None keeps it shut.
    `strict` refuses credentials and account ids as the API does. `seeds` are written before it is ready.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 8787
    token_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    faults: str | None = None
    allow_any_host: bool = False
    strict: bool = False
    seeds: tuple[Seed, ...] = ()


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is ready. `url` is the clients' base URL; `token_file`: None when the token was given."""

    url: str
    host: str
    port: int
    token: str = field(repr=False)
    token_file: Path | None = None
    account: str = LOCAL_ACCOUNT


def run_server(options: ServeOptions, *, announce: Callable[[Serving], None]) -> None:
    """Serve until SIGTERM or SIGINT. `announce` is called when the server is ready."""
    trio.run(_serve_until_signal, options, announce)


@asynccontextmanager
async def serving(options: ServeOptions, *, now: Callable[[], float] = time.time) -> AsyncIterator[Serving]:
    """Yield a server for as long as the context lasts; `now` is its clock, epoch seconds. Raises `UserError`.

    Leaving it stops accepting and gives what is under way `GRACE` seconds.
    """
    faults = None if options.faults is None else parse_faults(options.faults)
    use_connections()
    with _listening(options) as listener, patient_listeners():
        token, token_file = _token(options)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        account = STRICT_ACCOUNT if options.strict else LOCAL_ACCOUNT
        ready = Serving(f"http://{shown}:{port}/client/v4", host, port, token, token_file, account)
        async with open_sqlite(options.store, now=now) as store:
            store_of = store.accounts.for_account
            for seed in options.seeds:
                await sow(store_of(account), seed, now())
            app = build_app(store_of, token=token, faults=faults, strict=options.strict, now=now)
            async with trio.open_nursery() as nursery:
                stop = trio.Event()
                await nursery.start(_run_hypercorn, app, _config(listener), stop)
                try:
                    yield ready
                finally:
                    stop.set()


async def _serve_until_signal(options: ServeOptions, announce: Callable[[Serving], None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with serving(options) as ready:
            announce(ready)
            async for number in signals:
                log.info("stopping: %s", signal.Signals(number).name)
                break


async def _run_hypercorn(
    app: App, config: Config, stop: trio.Event, *, task_status: trio.TaskStatus[list[str]]
) -> None:
    """Run until `stop`; shielded, because only its own way of stopping lets requests end."""
    with trio.CancelScope(shield=True):
        await hypercorn_serve(
            app,  # type: ignore[arg-type]  # hypercorn's types of ASGI are its own
            config,
            shutdown_trigger=stop.wait,
            task_status=task_status,
            mode="asgi",
        )


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for what hypercorn reports when a client goes away at the wrong moment."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, _CLIENT_GONE)


hypercorn_log.addFilter(_is_news)


def _config(listener: socket.socket) -> Config:
    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # hypercorn closes it
    config.backlog = BACKLOG
    config.errorlog = hypercorn_log
    config.graceful_timeout = GRACE
    config.include_server_header = False
    config.keep_alive_timeout = KEEP_ALIVE
    config.keep_alive_max_requests = 1_000_000
    return config


def _token(options: ServeOptions) -> tuple[str, Path | None]:
    if options.token is None:
        assert options.token_file is not None, "a server has a token or a file of one"
        return load_or_create_token(options.token_file), options.token_file
    if not usable_token(options.token):
        raise UserError("the token is empty or has characters that no header can hold")
    return options.token, None


@contextmanager
def _listening(options: ServeOptions) -> Iterator[socket.socket]:
    """Yield the socket to serve on, listening. Raises `UserError`."""
    address = _address(options)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_SECONDS * 1000)
        try:
            listener.bind((str(address), options.port))
            listener.listen(BACKLOG)
        except (OSError, OverflowError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            raise UserError(f"cannot listen on {options.host}:{options.port}: {reason}") from exc
        yield listener


def _address(options: ServeOptions) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of `host`, which must be this machine's own unless any is allowed."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if options.host == "localhost" else options.host)
    except ValueError as exc:
        raise UserError(f"{options.host!r} is not an IP address to listen on") from exc
    if not address.is_loopback and not options.allow_any_host:
        raise UserError(
            f"{options.host} can be reached from other machines: allow that with --allow-any-host"
            " (the API speaks plain http; put something that speaks https in front)"
        )
    return address
