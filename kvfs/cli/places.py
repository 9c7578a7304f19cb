"""FROM, TO and SOURCE of the data commands: the meaning of the words, and the stores behind them.

A store is `cloudflare:[ACCOUNT]/NAMESPACE[/PREFIX]`, `local:[FILE]/NAMESPACE[/PREFIX]`; `-` is standard input or
output; what ends in the name of a format is a file, anything else a directory.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from kvfs.cli.completing import STORES
from kvfs.cli.options import CONFIG, STATE_DIR, Decorated, credential_options, grouped
from kvfs.cli.through import Through, find_through, key_of
from kvfs.config import (
    LocalSource,
    Source,
    load_credentials,
    parse_source,
)
from kvfs.core.errors import DeniedError, TitleExistsError, UnavailableError, UserError
from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.core.model import Namespace, NamespaceId
from kvfs.core.names import title_of
from kvfs.data.streams import FORMATS, Format, format_of
from kvfs.host.kinds_file import account_identity
from kvfs.host.renewing import Renewing
from kvfs.host.state import default_data_dir, requests_path
from kvfs.store.base import Store
from kvfs.store.confirming import Confirming
from kvfs.store.denials import Doubting, Refusals
from kvfs.store.ratelimit import Budget, Limiting, Priority
from kvfs.store.retry import Retrying
from kvfs.store.sharing import shared_budget
from kvfs.workers import WranglerSource

if TYPE_CHECKING:
    from kvfs.store.rest.client import RestStore

SYNTAX: Final = (
    "a store (cloudflare:[ACCOUNT]/NAMESPACE[/PREFIX], local:[FILE]/NAMESPACE[/PREFIX]), a directory,"
    " FILE.json, FILE.ndjson, FILE.tar, each also .gz or .zst, or - with --format"
)
ANSWER_SECONDS: Final = 30.0  # without progress; a bulk write is given longer (`store/rest`)
PATIENCE: Final = 4000.0  # seconds that one call may wait for the budget, or for a server that comes back
ATTEMPTS: Final = 12
SILENCES: Final = 2  # tries of a read of one key without an answer: most often the key is the reason


@dataclass(frozen=True, slots=True)
class StoreWords:
    """A store, perhaps a namespace of it (title or id), and a prefix or key; `through` a mount, if a path named it."""

    source: Source
    namespace: str | None
    rest: str
    text: str
    through: Through | None = None


@dataclass(frozen=True, slots=True)
class FileWords:
    """A file of entries; `path` is None for standard input or output."""

    path: Path | None
    format: Format
    text: str


@dataclass(frozen=True, slots=True)
class DirectoryWords:
    """A directory."""

    path: Path
    text: str


Words = StoreWords | FileWords | DirectoryWords


@dataclass(frozen=True, slots=True)
class Access:
    """The settings for reaching a store."""

    token_file: Path | None = None
    token_command: str | None = None
    insecure: bool = False
    preview: bool = False
    rate_requests: int = RATE_REQUESTS
    rate_seconds: float = float(RATE_SECONDS)
    state: Path = Path()

    @property
    def copies(self) -> Path:
        """Return the directory of what is kept of copies."""
        return self.state / "copies"


def access_options(command: Decorated) -> Decorated:
    """Give a command the options of `Access`, and it as `access`."""

    @wraps(command)
    def with_access(**values: Any) -> Any:
        found = {one.name: values.pop(one.name) for one in fields(Access)}
        return command(access=Access(**found), **values)

    options = grouped(credential_options, CONFIG["rate_requests"], CONFIG["rate_seconds"], STATE_DIR)
    return cast("Decorated", options(with_access))


# words


def parse_words(text: str, access: Access, *, format_: str | None = None) -> Words:
    """Parse FROM or TO. Raises `UserError`."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("cloudflare", "wrangler"):
        return _elsewhere(text, access)
    if colon and scheme == "local":
        return _local(text, rest)
    chosen = _format(format_)
    if text == "-":
        if chosen is None:
            raise UserError(
                "- is standard input or output: say --format json, ndjson or tar (and .gz or .zst)"
            )
        return FileWords(None, chosen, text)
    through = find_through(text, access.state)
    if through is not None:
        return _mounted(text, through, access)
    return _path(text, chosen)


def _mounted(text: str, through: Through, access: Access) -> StoreWords:
    words = parse_words(through.source, access)
    assert isinstance(words, StoreWords)
    names = through.names
    namespace = words.namespace
    if namespace is None and names:
        namespace, names = title_of(names[0]), names[1:]
    rest = key_of(names) + ("/" if names and text.endswith("/") else "")
    return replace(words, namespace=namespace, rest=words.rest + rest, text=text, through=through)


def parse_store(text: str, access: Access) -> StoreWords:
    """Parse SOURCE[/KEY] of a command that works on stores only. Raises `UserError`."""
    words = parse_words(text, access)
    if not isinstance(words, StoreWords):
        raise UserError(
            f"{text} is no store: write cloudflare:[ACCOUNT]/NAMESPACE[/KEY] or local:[FILE]/NAMESPACE[/KEY]"
        )
    return words


def _format(text: str | None) -> Format | None:
    if text is None:
        return None
    found = format_of(text)
    if found is None:
        raise UserError(f"--format is json, ndjson or tar, each also .gz or .zst, not {text!r}")
    return found


def _elsewhere(text: str, access: Access) -> StoreWords:
    preview = access.preview and text.startswith("cloudflare:@")
    source = parse_source(text, os.environ, insecure=access.insecure, preview=preview)
    assert not isinstance(source, LocalSource)
    return StoreWords(replace(source, namespace=None, prefix=""), source.namespace, source.prefix, text)


def _local(text: str, rest: str) -> StoreWords:
    """Return FILE and the rest of the path; FILE is its first part that is a file, or that is named as a store."""
    default = default_data_dir() / "store.sqlite"
    if not rest:
        return StoreWords(LocalSource(default), None, "", text)
    parts = os.path.expanduser(rest).split("/")
    for end in range(1, len(parts) + 1):
        file = Path(os.path.abspath("/".join(parts[:end]) or "/"))
        if file.is_file() or (parts[end - 1].endswith(STORES) and not file.is_dir()):
            if not file.parent.is_dir():
                raise UserError(
                    f"{file.parent} does not exist: make it first, or name another FILE in local:FILE"
                )
            namespace, _, inner = "/".join(parts[end:]).partition("/")
            return StoreWords(LocalSource(file), namespace or None, inner, text)
    if parts[0] == "" and len(parts) > 1 and parts[1] and not Path("/", parts[1]).is_dir():
        return StoreWords(LocalSource(default), parts[1], "/".join(parts[2:]), text)
    raise UserError(
        f"there is no store at {rest}: local:FILE.sqlite/NAMESPACE makes one,"
        " local:/NAMESPACE is one of the default store"
    )


def _path(text: str, chosen: Format | None) -> Words:
    place = Path(os.path.abspath(Path(text).expanduser()))
    if place.is_dir() or text.endswith("/"):
        return DirectoryWords(place, text)
    format_ = chosen or format_of(place.name)
    if format_ is not None:
        return FileWords(place, format_, text)
    if place.exists():
        known = ", ".join(FORMATS)
        raise UserError(f"{text}: its name tells no format ({known}): say --format")
    if ":" in text and "/" not in text.partition(":")[0]:
        raise UserError(f"{text!r} is none of these: {SYNTAX}")
    return DirectoryWords(place, text)


# stores


@dataclass(frozen=True, slots=True)
class OpenStore:
    """A store that is open. `rest` and `budget` are those of a Cloudflare source."""

    store: Store
    name: str
    identity: str
    rest: "RestStore | None" = None
    budget: Budget | None = None

    async def namespaces(self) -> list[Namespace]:
        """Return all namespaces. Raises `UserError` with the way out."""
        try:
            return await self.store.list_namespaces()
        except DeniedError as exc:
            raise UserError(f"the token is not accepted for {self.name}: {exc}") from exc
        except UnavailableError as exc:
            raise UserError(f"the server of {self.name} does not answer: {exc}") from exc

    async def find(self, wanted: str) -> NamespaceId | None:
        """Return the namespace of an id or a title, None if there is none."""
        known = await self.namespaces()
        for namespace in known:
            if namespace.id == wanted:
                return namespace.id
        return next((namespace.id for namespace in known if namespace.title == wanted), None)

    async def get(self, wanted: str | None) -> NamespaceId:
        """Return the namespace of an id or a title. Raises `UserError`."""
        if wanted is None:
            raise UserError(f"{self.name} has many namespaces: name one, {self.name.rstrip('/')}/NAMESPACE")
        found = await self.find(wanted)
        if found is None:
            titles = ", ".join(sorted(repr(one.title) for one in await self.namespaces())[:10]) or "none"
            way = "kvfs copy to it, or mkdir in a mount, makes one"
            raise UserError(f"unknown namespace {wanted!r}: {self.name} has {titles}; {way}")
        return found

    async def make(self, title: str) -> NamespaceId:
        """Make a namespace, or return the one that another client has made meanwhile."""
        try:
            return (await self.store.create_namespace(title)).id
        except TitleExistsError:
            return await self.get(title)


@asynccontextmanager
async def open_store(source: Source, access: Access) -> AsyncIterator[OpenStore]:
    """Open the store of a source, within the API's limit of requests, and patient with it."""
    if isinstance(source, LocalSource):
        from kvfs.store.embedded.sqlite_store import open_sqlite

        async with open_sqlite(source.file) as embedded:
            yield OpenStore(embedded, f"local:{source.file}", f"local:{source.file}")
        return
    if isinstance(source, WranglerSource):
        from kvfs.daemon.build import open_wrangler  # brings the whole file system along

        async with open_wrangler(source, ANSWER_SECONDS) as wrangler:
            yield OpenStore(wrangler, str(source), str(source))
        return
    from kvfs.cli.own_account import account_of  # brings httpx along
    from kvfs.store.rest.client import open_rest
    from kvfs.store.rest.odd_keys import OddKeys

    credentials = load_credentials(source, access.token_file, os.environ, access.token_command)
    assert credentials is not None
    account = await account_of(source, credentials)
    async with AsyncExitStack() as stack:
        path = requests_path(source.base_url, account)
        budget = stack.enter_context(shared_budget(path, access.rate_requests, access.rate_seconds))
        opening = open_rest(
            base_url=source.base_url,
            account=account,
            token=credentials,
            timeout=ANSWER_SECONDS,
            on_answer=budget.told,
        )
        rest = await stack.enter_async_context(opening)
        limited = Limiting(OddKeys(rest), budget, Priority.FOREGROUND)
        doubting = Doubting(limited, Refusals(Renewing(credentials)))
        store = Confirming(patient(doubting))
        identity = account_identity(source.base_url, account)
        yield OpenStore(store, f"cloudflare:{account}", identity, rest, budget)


def patient(store: Store) -> Retrying:
    """Return the store as data commands see it: they wait long for a service, and not for one key."""
    return Retrying(store, attempts=ATTEMPTS, deadline=PATIENCE, silences=SILENCES)
