"""Config → objects: which store, wrapped how, seen through which caches. Nothing here runs yet."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from kvfs.cache.lister import Lister
from kvfs.cache.listings import Listings
from kvfs.cache.loader import Loader
from kvfs.cache.namespace_table import NamespaceTable
from kvfs.cache.patience import StalePatience
from kvfs.cache.values import Clean, Values
from kvfs.config import CloudflareSource, Config
from kvfs.core import bulksize
from kvfs.core.errors import JournalError, UnavailableError, UserError
from kvfs.core.model import Change, Key, KeyInfo, Namespace, NamespaceId
from kvfs.core.names import CONTROL, Naming
from kvfs.host.credentials import Credentials
from kvfs.host.endpoints import Learned, load_learned
from kvfs.host.kinds_file import KindsFile, account_identity
from kvfs.host.renewing import Renewing
from kvfs.host.state import requests_path
from kvfs.journal.journal import Journal
from kvfs.store.base import Store
from kvfs.store.breaker import PAUSE, PROBE, Breaker, Breaking
from kvfs.store.confirming import Confirming
from kvfs.store.denials import Doubting, Refusals, Renewable
from kvfs.store.paying import Paying
from kvfs.store.ratelimit import Budget, Limiting, Priority
from kvfs.store.retry import Retrying
from kvfs.store.sharing import shared_budget
from kvfs.vfs.file.outside import Invalidator, Uploader
from kvfs.vfs.filesystem import FileSystem
from kvfs.vfs.options import Options, RootRef
from kvfs.vfs.view.known import Known
from kvfs.vfs.view.lastseen import LastSeen
from kvfs.vfs.view.overlay import Overlay
from kvfs.workers import WranglerSource, configured_namespaces

if TYPE_CHECKING:
    from kvfs.store.rest.client import RestStore

log = logging.getLogger("kvfs.daemon")

_ATTEMPTS = 8
_SPARE: Final = 1.5  # factor on the longest staleness seen, because it was measured once
_FIRST = 3.0  # seconds after which a server that refuses connections, or is none, fails a mount


@dataclass(frozen=True, slots=True)
class Stores:
    """One store seen twice: by callers that wait in a system call, and by the sender, which retries itself."""

    reading: Store
    writing: Store
    rest: "RestStore | None" = None
    budget: Budget | None = None
    breaker: Breaker = field(default_factory=Breaker)
    refusals: Refusals | None = None
    first: Store | None = None
    """`reading` with the patience of somebody who waits for a mount."""
    renewing: Renewing | None = None
    """To be served, if there are credentials."""
    readers: Paying | None = None
    """Of `reading`, if requests are paid for."""
    writers: Paying | None = None
    """Of `writing`."""
    route: Callable[[], str] | None = None
    """Which way a source takes that has several, in words for the user."""

    def trouble(self) -> str:
        """Return why requests fail at the moment; "" while they do not."""
        return self.breaker.reason or (self.refusals.reason if self.refusals is not None else "")

    def ask_again(self) -> None:
        """Forget that the token was refused: the next calls are requests."""
        if self.refusals is not None:
            self.refusals.ask_again()


@asynccontextmanager
async def open_stores(config: Config, credentials: Credentials | None) -> AsyncIterator[Stores]:
    """Open the store of a source, ready for use. Each kind of source imports its own libraries only."""
    if isinstance(config.source, WranglerSource):
        async with open_wrangler(config.source, config.timeout) as found:
            yield Stores(found, found, route=getattr(found, "describe", None))
        return
    if not isinstance(config.source, CloudflareSource):
        from kvfs.store.embedded.sqlite_store import open_sqlite

        async with open_sqlite(config.source.file) as embedded:
            yield Stores(embedded, embedded)
        return
    if credentials is None:
        raise UserError("no API token")
    source = config.source
    path = requests_path(source.base_url, source.account)
    with shared_budget(path, config.rate_requests, config.rate_seconds) as budget:
        async with _cloudflare_stores(config, source, credentials, budget) as stores:
            yield stores


@asynccontextmanager
async def _cloudflare_stores(
    config: Config, source: CloudflareSource, credentials: Credentials, budget: Budget
) -> AsyncIterator[Stores]:
    from kvfs.store.rest.client import open_rest
    from kvfs.store.rest.odd_keys import OddKeys
    from kvfs.store.rest.request import read_in_large_pieces

    read_in_large_pieces()
    breaker = Breaker(min(PAUSE, config.timeout), min(PROBE, config.timeout / 6))

    def told(headers: Mapping[str, str]) -> None:
        breaker.heard()
        budget.told(headers)

    async with open_rest(
        base_url=source.base_url,
        account=source.account,
        token=credentials,
        timeout=config.timeout,
        on_answer=told,
    ) as rest:
        renewing = Renewing(credentials)
        stores = layered(OddKeys(rest), config, renewing, budget, breaker)
        yield replace(stores, rest=rest, renewing=renewing)


def layered(
    store: Store, config: Config, token: Renewable, budget: Budget, breaker: Breaker | None = None
) -> Stores:
    """Wrap `store` in the layers that every request to the API passes."""
    breaker = breaker or Breaker(min(PAUSE, config.timeout), min(PROBE, config.timeout / 6))
    refusals = Refusals(token, patience=config.timeout)
    limited = Limiting(store, budget, Priority.FOREGROUND)
    foreground = Doubting(limited, refusals)
    retrying = Retrying(foreground, attempts=_ATTEMPTS, deadline=config.timeout, stays=True)
    reading = Paying(Confirming(Breaking(retrying, breaker)))
    upload = Doubting(Limiting(store, budget, Priority.UPLOAD), refusals)
    writing = Paying(Confirming(Breaking(upload, breaker, patient=True)))
    patience = min(_FIRST, config.timeout)
    # a refusal that passes may take longer than an outage that fails a mount
    first = Breaking(Doubting(Retrying(limited, attempts=_ATTEMPTS, deadline=patience), refusals), breaker)
    return Stores(reading, writing, None, budget, breaker, refusals, first, readers=reading, writers=writing)


@asynccontextmanager
async def open_wrangler(source: WranglerSource, timeout: float) -> AsyncIterator[Store]:
    """Open the store that the Workers of a project see: local state, or a dev server by its URL."""
    from kvfs.store.miniflare.miniflare_store import WranglerStore, open_explorer
    from kvfs.store.rest.request import read_in_large_pieces

    if source.state is None:
        read_in_large_pieces()
        try:
            async with open_explorer(source.origin, timeout) as explorer:
                yield explorer
        except UnavailableError as exc:
            raise UserError(str(exc)) from exc
        return

    def configured() -> Sequence[Namespace]:
        try:
            return configured_namespaces(source)
        except UserError as exc:  # edited while it is mounted
            raise UnavailableError(str(exc)) from exc

    configured_namespaces(source)
    async with WranglerStore.open(source.state, configured, timeout=timeout) as store:
        yield store


@dataclass(frozen=True, slots=True)
class ReadParts:
    """The caches and the parts that fill them."""

    table: NamespaceTable
    listings: Listings
    values: Values
    loader: Loader
    overlay: Overlay


def build_reading(
    config: Config, stores: Stores, journal: Journal, *, at_root: bool, now: Callable[[], float] = time.time
) -> ReadParts:
    """Build caches and overlay. With `at_root` the mount's root is a namespace, so `.kvfs` is no key's name."""
    naming = Naming(config.separator, frozenset({CONTROL}) if at_root else frozenset())
    listings = Listings(config.cache_ttl, now)
    values = Values(config.cache_size, config.cache_ttl, now)

    def shadowed(namespace: NamespaceId, key: Key) -> bool:
        return journal.get(namespace, key) is not None

    loader = Loader(stores.reading, values, listings, now, shadowed, config.timeout)
    if (file := kinds_file(config)) is not None:
        loader.reading.kinds.recall(file.read())
    lister = Lister(stores.reading, listings, now)
    if stores.readers is not None:
        stores.readers.payer = loader.caller_of
    if stores.writers is not None:
        stores.writers.payer = journal.reader.author
    known = Known(journal, listings, values, naming, now, config.cache_ttl)
    overlay = Overlay(known, lister, loader)
    overlay.last_seen = LastSeen(enabled=config.on_conflict != "overwrite", cache_bytes=config.cache_size)
    table = NamespaceTable(stores.reading, config.cache_ttl, now)
    table.patience = overlay.haste.patience = StalePatience(config.timeout, stores.breaker.is_open)
    return ReadParts(table, listings, values, loader, overlay)


def build_filesystem(
    config: Config,
    reading: ReadParts,
    sender: Uploader,
    invalidator: Invalidator,
    place: RootRef | None,
    now: Callable[[], float] = time.time,
) -> FileSystem:
    """Build the file system over the caches."""
    options = Options(
        timeout=config.timeout,
        max_pending=config.max_pending,
        durable=config.durable_close,
        read_only=config.read_only,
        umask=config.umask,
        exact_sizes=config.sizes == "exact",
        local_names=config.local_names,
        expiration_is_mtime=config.expiration == "mtime",
        root=place,
    )
    return FileSystem(reading.overlay, reading.table, sender, invalidator, now, options)


def kinds_file(config: Config) -> KindsFile | None:
    """Return the file that remembers binary values; None for a store that answers all in bulk."""
    source = config.source
    if not isinstance(source, CloudflareSource):
        return None
    return KindsFile(config.state_dir, account_identity(source.base_url, source.account))


def settle_window(config: Config) -> float:
    """Return the seconds after a write in which reads are not believed: `--settle`, or more as `kvfs verify` saw."""
    learned = _learned(config)
    if learned is None or not config.settle or learned.stale_seconds * _SPARE <= config.settle:
        return config.settle
    seconds = learned.stale_seconds * _SPARE
    log.info("kvfs verify saw reads %.0f s old here: settling takes %.0f s", learned.stale_seconds, seconds)
    return seconds


def first_pairs(config: Config) -> int:
    """Return the pairs of the first bulk body: as many as take `_QUICK` by the measure of `kvfs verify`."""
    learned = _learned(config)
    return bulksize.first_pairs(learned.pair_seconds if learned is not None else None)


def _learned(config: Config) -> Learned | None:
    source = config.source
    return load_learned(source.base_url, config.state_dir) if isinstance(source, CloudflareSource) else None


def settle_into(reading: ReadParts, changes: Sequence[Change], now: float) -> None:
    """Make clean knowledge of changes that the store shows by now, as old as their acknowledgement."""
    by_namespace: dict[NamespaceId, tuple[list[KeyInfo], list[Key]]] = {}
    for change in changes:
        place = change.place
        present, absent = by_namespace.setdefault(change.namespace, ([], []))
        last_seen = reading.overlay.last_seen
        if change.is_tombstone:
            if not change.by_command:
                last_seen.removed(place)
            absent.append(change.key)
            reading.values.drop(place)
            continue
        if not change.by_command:
            last_seen.wrote(place, reading.overlay.journal.digest(change))
        present.append(KeyInfo(change.key, change.metadata, change.expiration))
        at = change.acked_at if change.acked_at is not None else now
        try:
            held = reading.overlay.reads.at_hand(*place)
        except JournalError:  # the disk answers something else than was recorded
            held = None
        reading.overlay.reads.settles(change)
        if held is None:  # it made room for others, or was never whole in memory
            reading.values.put_size(place, change.size, at)
        else:
            clean = Clean(held.value, change.metadata, change.expiration, at, held.digest)
            reading.values.put(place, clean)
    for namespace, (present, absent) in by_namespace.items():
        reading.listings.settled.note(namespace, present, absent)
        reading.listings.apply(namespace, present, absent)
