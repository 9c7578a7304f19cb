"""The root of a mount: asked of the server, or taken from this machine's memory while the server is away."""

import logging
import os
import time
from dataclasses import dataclass, replace

import trio

from kvfs.config import (
    CloudflareSource,
    Config,
    base_url_hint,
    keys_wanted,
    namespace_hint,
    source_identity,
)
from kvfs.core.errors import (
    DeniedError,
    InvalidError,
    NamespaceNotFoundError,
    StoreError,
    UnavailableError,
    UserError,
)
from kvfs.core.model import Namespace
from kvfs.core.names import DirRef
from kvfs.daemon.build import Stores
from kvfs.daemon.outlook import AWAY, kind_of
from kvfs.host.claims import claim, state_dirs_of
from kvfs.host.credentials import TOKEN_PAGE
from kvfs.host.sources import SourceRecord, read_source, write_source
from kvfs.host.state import read_record, record_path
from kvfs.store.base import Store
from kvfs.vfs.options import RootRef
from kvfs.vfs.roots import find_namespace

log = logging.getLogger("kvfs.daemon")

_PROBE_SECONDS = (2.0, 30.0)  # between two looks for the server: at first, and at most


@dataclass(frozen=True, slots=True)
class Start:
    """The state a mount begins with. With `is_offline` the server did not answer, and this is its last known answer."""

    place: RootRef | None
    namespaces: list[Namespace]
    is_offline: bool = False


async def find_start(config: Config, stores: Stores) -> Start:
    """Find the root of the mount and the list of namespaces.

    Asks the server, so that a wrong token or name is known at once. When it does not answer, a source that was
    mounted before starts with what is known of it. Raises `UserError` with one line that says what to do.
    """
    source = config.source
    known = None if config.require_server else _known(config)
    try:
        namespaces = await _listed(stores, patient=known is None)
        start = Start(place_in(config, namespaces), namespaces)
    except DeniedError as exc:
        raise UserError(f"the token is not accepted for {source}: {exc}{_permission(config)}") from exc
    except (NamespaceNotFoundError, InvalidError) as exc:
        raise UserError(str(exc)) from exc
    except UnavailableError as exc:
        if known is None or known.identity != source_identity(config):
            how = "does not answer" if kind_of(str(exc))[0] == AWAY else "answers with an error"
            raise UserError(f"the server of {source} {how}: {exc}{_advice(config)}") from exc
        log.warning("the server does not answer (%s): mounted offline, with what this machine knows", exc)
        namespaces = known.listed()
        return Start(place_in(config, namespaces), namespaces, is_offline=True)
    except StoreError as exc:
        raise UserError(f"{source}: {exc}") from exc
    remember(config, start)
    return start


def _known(config: Config) -> SourceRecord | None:
    """Return what this machine knows of the source: of this mount, or, where that is new, of one that could write."""
    return read_source(config.journal_path) or read_source(config.source_journal_path)


async def _listed(stores: Stores, *, patient: bool) -> list[Namespace]:
    """Ask for some seconds, and longer only if the server is there and slow, and nothing else is known."""
    try:
        return await (stores.first or stores.reading).list_namespaces()
    except UnavailableError as exc:
        if stores.first is None or not patient or _is_hopeless(exc) or stores.breaker.is_open():
            raise
    return await stores.reading.list_namespaces()


def _is_hopeless(error: UnavailableError) -> bool:
    """Return whether asking on would not help, because another service answers there."""
    said = [one.status for one in (error, error.__cause__) if isinstance(one, UnavailableError)]
    return any(400 <= status < 500 and status != 429 for status in said)


def _permission(config: Config) -> str:
    """Name the permission and account that the token needs; hint at a namespace given as an account."""
    source = config.source
    if not isinstance(source, CloudflareSource):
        return ""
    words = f"; it needs the permission for account {source.account}: {TOKEN_PAGE}"
    hint = namespace_hint(source)
    return f"{words} ({hint})" if hint else words


def _advice(config: Config) -> str:
    source = config.source
    hint = base_url_hint(source.base_url) if isinstance(source, CloudflareSource) else ""
    return f"; {hint}" if hint else ""


def place_in(config: Config, namespaces: list[Namespace]) -> RootRef | None:
    """Find the root, None for the list of namespaces. Raises `NamespaceNotFoundError`."""
    wanted, prefix = keys_wanted(config)
    return (find_namespace(namespaces, wanted).id, DirRef(prefix, len(prefix))) if wanted else None


def remember(config: Config, start: Start) -> None:
    """Keep what a mount without the server needs, and what `kvfs status` says of one that is not mounted."""
    namespace, ref = start.place if start.place is not None else ("", DirRef.ROOT)
    record = SourceRecord(
        source=str(config.source),
        identity=source_identity(config),
        mountpoint=str(config.mountpoint),
        separator=config.separator,
        namespace=namespace,
        prefix=ref.prefix,
        since=time.time(),
        namespaces={one.id: one.title for one in start.namespaces},
    )
    try:
        write_source(config.journal_path, record)
    except OSError as exc:
        log.warning("what is known of %s is not kept: %s", config.source, exc.strerror)


def claim_place(config: Config, start: Start) -> None:
    """Claim the keys by the ids of the server's answer, or by remembered ones. Raises `UserError`."""
    record = read_record(record_path(config.mountpoint, config.state_dir))
    if record is None or record.pid != os.getpid():
        return  # nobody keeps a record of this mount
    namespace, ref = start.place if start.place is not None else ("", DirRef.ROOT)
    try:
        claim(replace(record, namespace=namespace, prefix=ref.prefix), state_dirs_of(config.state_dir))
    except OSError as exc:
        log.warning("which keys this mount has is not kept: %s", exc.strerror)


async def until_answered(store: Store) -> list[Namespace]:
    """Ask until the server answers. A refused token is logged, and may be accepted later."""
    pause, most = _PROBE_SECONDS
    while True:
        await trio.sleep(pause)
        try:
            return await store.list_namespaces()
        except StoreError as exc:
            level = logging.WARNING if isinstance(exc, DeniedError) else logging.INFO
            log.log(level, "still offline: %s", exc)
        pause = min(2 * pause, most)
