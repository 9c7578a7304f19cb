"""The settings of a mount: one frozen `Config`, and the source that it names.

Belongs here: reading the words of the command line and the environment once, with a clear refusal. A field is the one
definition of its setting: default, kind and help. Nothing here opens a store or a socket; where files live is
`kvfs/host/state.py`.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from kvfs.core.errors import UserError
from kvfs.core.limits import KEY_BYTES, RATE_REQUESTS, RATE_SECONDS
from kvfs.core.patterns import LOCAL_PATTERNS
from kvfs.history.allowance import DEFAULT as DEFAULT_BOUNDS
from kvfs.history.allowance import Bounds
from kvfs.host.credentials import Credentials as Credentials
from kvfs.host.credentials import Secret, find_credentials
from kvfs.host.sources import HISTORY
from kvfs.host.state import control_path, default_data_dir, default_state_dir, state_name
from kvfs.settings import (
    BOUNDS,
    COUNT,
    DURATION,
    FLAG,
    FLAGS,
    ID,
    LEVEL,
    MASK,
    PATH,
    PATTERNS,
    SEPARATOR,
    SIZE,
    SOME_DURATION,
    choice,
    setting,
)
from kvfs.workers import BINDING_SYNTAX, WRANGLER_SYNTAX, WranglerSource, find_bound, parse_wrangler

DEFAULT_BASE_URL: Final = "https://api.cloudflare.com/client/v4"
SOURCE_SYNTAX: Final = (
    f"local:[FILE], cloudflare:[ACCOUNT[/NAMESPACE[/PREFIX]]], {BINDING_SYNTAX} or {WRANGLER_SYNTAX}"
)
API_PATH: Final = "/client/v4"
REGIONS: Final = {"public": DEFAULT_BASE_URL, "fedramp_high": "https://api.fed.cloudflare.com/client/v4"}
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalSource:
    """The embedded store: one SQLite file, absolute."""

    file: Path

    def __str__(self) -> str:
        return f"local:{self.file}"


@dataclass(frozen=True, slots=True)
class CloudflareSource:
    """An account, one of its namespaces (title or id), or the keys of that starting with `prefix`.

    `account` is "" while none is named: the credentials may have one only.
    """

    account: str
    namespace: str | None = None
    prefix: str = ""
    base_url: str = DEFAULT_BASE_URL

    def __str__(self) -> str:
        parts = [self.account]
        if self.namespace is not None:
            parts.append(self.namespace)
            if self.prefix:
                parts.append(self.prefix)
        return "cloudflare:" + "/".join(parts)


Source = LocalSource | CloudflareSource | WranglerSource


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting of one mount. Times are seconds, sizes bytes, paths absolute."""

    source: Source
    mountpoint: Path
    separator: str = setting(SEPARATOR, "Character that splits keys into directories; '' for none.", "/")
    write_back: float = setting(DURATION, "Wait this long after a change before changes are sent.", 5.0)
    cache_ttl: float = setting(
        DURATION, "Use cached data for this long before the server is asked again.", 60.0
    )
    cache_size: int = setting(SIZE, "Keep at most this many bytes of read values in memory.", 256 * MIB)
    timeout: float = setting(SOME_DURATION, "Let no call wait longer for the server, fsync included.", 30.0)
    drain_timeout: float = setting(DURATION, "Let an ending mount send for at most this long.", 60.0)
    read_only: bool = setting(FLAG, "Refuse every change.", False)
    require_server: bool = setting(
        FLAG, "Fail when the server does not answer, even if the source was mounted before.", False
    )
    allow_other: bool = setting(
        FLAG, "Let other users use the mount, as the permissions of files allow.", False
    )
    uid: int = setting(ID, "Show this user as the owner of all files.  [default: you]", factory=os.getuid)
    gid: int = setting(ID, "Show this group as the group of all files.  [default: yours]", factory=os.getgid)
    umask: int = setting(MASK, "Remove these permission bits from new files.", 0o022)
    durable_close: bool = setting(FLAG, "Make closed files survive a power loss too (slower).", False)
    on_conflict: Literal["keep-both", "overwrite"] = setting(
        choice("keep-both", "overwrite"),
        "Do this when somebody else changed a value that is changed here.",
        "keep-both",
    )
    max_pending: int = setting(
        SIZE, "Hold at most this many unsent bytes; refuse more with ENOSPC.", 10 * 1024 * MIB
    )
    sizes: Literal["exact", "known"] = setting(
        choice("exact", "known"), "exact: read a value to learn its size; known: do not.", "exact"
    )
    expiration: Literal["mtime", "attribute"] = setting(
        choice("mtime", "attribute"),
        "Set and show when a key expires by the mtime, or by an attribute alone.",
        "mtime",
    )
    local_names: tuple[str, ...] = setting(PATTERNS, "Never send files with these names.", LOCAL_PATTERNS)
    history: Bounds = setting(
        BOUNDS,
        "Keep overwritten and deleted values for kvfs restore, up to this age and size; 0: keep none.",
        DEFAULT_BOUNDS,
    )
    poll_interval: float = setting(
        DURATION, "List the keys again this often; 0: only when a program asks.", 0.0
    )
    rate_requests: int = setting(COUNT, "Send at most this many requests in each window.", RATE_REQUESTS)
    rate_seconds: float = setting(SOME_DURATION, "Let a window last this long.", float(RATE_SECONDS))
    settle: float = setting(DURATION, "Show your own version of a key for this long after a write.", 90.0)
    state_dir: Path = setting(
        PATH,
        "Keep journals, sockets, logs and copies there.  [default: XDG state directory]",
        factory=default_state_dir,
    )
    log_level: str = setting(LEVEL, "Log messages of this level and above.", "info")
    log_file: Path | None = setting(PATH, "Write the log there.  [default: in the state directory]")
    log_format: Literal["text", "json"] = setting(
        choice("text", "json"), "Write the log as text, or as a JSON object a line.", "text"
    )
    mount_flags: tuple[str, ...] = setting(
        FLAGS, "Pass these words to the kernel: noexec nosuid nodev noatime nodiratime.", ()
    )

    @property
    def source_journal_path(self) -> Path:
        """The journal of this source, which holds what is to be sent."""
        return journal_path(self)

    @property
    def journal_path(self) -> Path:
        """The journal of this mount; its folder is private and exists after `private_directory`.

        A mount to read only has one of its own, *because* nothing of it is ever to be sent, and whoever has the journal
        of the source locked keeps every mount out that is to write.
        """
        path = self.source_journal_path
        if not self.read_only:
            return path
        folder = path.parent
        return folder.with_name(f"{folder.name}-{state_name(os.fspath(self.mountpoint))}") / "journal.sqlite"

    @property
    def history_path(self) -> Path:
        """The directory of what was overwritten and deleted, beside the journal."""
        return self.source_journal_path.with_name(HISTORY)

    @property
    def control_path(self) -> Path:
        """Return the control socket of this mount point."""
        return control_path(self.mountpoint, self.state_dir)


def parse_source(
    text: str, environ: Mapping[str, str], *, insecure: bool = False, preview: bool = False
) -> Source:
    """Parse SOURCE of the command line; raise `UserError` with the fault and the right form.

    `preview` takes a binding's `preview_id`.
    """
    if preview and not text.startswith("cloudflare:@"):
        raise UserError(f"--preview goes with a binding: {BINDING_SYNTAX}")
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "local":
        return LocalSource(_store_file(rest))
    if colon and scheme == "cloudflare":
        if rest.startswith("@"):
            rest = _behind_binding(rest[1:], environ, preview=preview)
        return _cloudflare_source(rest, environ, insecure=insecure)
    if colon and scheme == "wrangler":
        return parse_wrangler(rest, environ)
    raise UserError(f"SOURCE is {SOURCE_SYNTAX}, not {text!r}")


def _store_file(text: str) -> Path:
    # os.path: Path.expanduser raises for an unknown user
    file = Path(os.path.abspath(os.path.expanduser(text) if text else default_data_dir() / "store.sqlite"))
    if file.is_dir():
        raise UserError(f"{file} is a directory: local: takes a file")
    if file.parent.is_file():
        raise UserError(
            f"{file.parent} is a file: local: takes a whole store, and its namespaces are directories"
        )
    if file.parent != default_data_dir() and not file.parent.is_dir():
        raise UserError(f"{file.parent} does not exist: make it first, or name another FILE in local:FILE")
    return file


def _behind_binding(text: str, environ: Mapping[str, str], *, preview: bool) -> str:
    """Return ACCOUNT/NAMESPACE/PREFIX of a binding; the account of the configuration wins over the variable's."""
    bound = find_bound(text, environ, preview=preview)
    return f"{bound.account or ''}/{bound.namespace}/{bound.prefix}"


def _cloudflare_source(text: str, environ: Mapping[str, str], *, insecure: bool) -> CloudflareSource:
    account, _, rest = text.partition("/")
    namespace, _, prefix = rest.partition("/")
    account = account or environ.get("CLOUDFLARE_ACCOUNT_ID", "").strip()
    if account and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", account):
        raise UserError(
            f"{account!r} is not an account id: it is 32 hex digits, usually;"
            f" a namespace of your account is cloudflare:/{account}"
        )
    if prefix and not namespace:
        raise UserError(f"a prefix needs a namespace: {SOURCE_SYNTAX}")
    for what, word in (("namespace", namespace), ("prefix", prefix)):
        if not _is_utf8(word):
            raise UserError(f"the {what} {word!r} is not UTF-8 text, as titles and keys are")
    if len(prefix.encode()) > KEY_BYTES:
        raise UserError(f"the prefix is longer than a key may be ({KEY_BYTES} bytes)")
    base_url = parse_base_url(base_url_of(environ), insecure=insecure)
    return CloudflareSource(account, namespace or None, prefix, base_url)


def base_url_of(environ: Mapping[str, str]) -> str:
    """Return the API's base URL: CLOUDFLARE_API_BASE_URL, or that of CLOUDFLARE_COMPLIANCE_REGION."""
    given = environ.get("CLOUDFLARE_API_BASE_URL", "").strip()
    region = environ.get("CLOUDFLARE_COMPLIANCE_REGION", "").strip().lower() or "public"
    if not given and region not in REGIONS:
        raise UserError(f"CLOUDFLARE_COMPLIANCE_REGION is one of {', '.join(REGIONS)}, not {region!r}")
    return given or REGIONS[region]


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def parse_base_url(text: str, *, insecure: bool = False) -> str:
    """Return a usable base URL without trailing slash; plain http only to this machine, or with `insecure`."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port  # .port raises for nonsense
        (host or "").encode("idna")  # as the resolver does: UnicodeError, a ValueError, for an empty label
    except ValueError as exc:
        raise UserError(f"CLOUDFLARE_API_BASE_URL is not a URL: {text!r} ({exc})") from exc
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment:
        raise UserError(f"CLOUDFLARE_API_BASE_URL is not https://HOST/PATH: {_without_user(text)!r}")
    if url.username is not None:
        raise UserError("CLOUDFLARE_API_BASE_URL holds a user name or password: the token goes elsewhere")
    if url.scheme == "http" and not _is_loopback(host) and not insecure:
        raise UserError(f"the token would cross the network unencrypted to {host}: use https, or --insecure")
    return text.rstrip("/")


def _without_user(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def load_credentials(
    source: Source,
    token_file: Path | None,
    environ: Mapping[str, str],
    command: str | None = None,
    secret: Secret | None = None,
) -> Credentials | None:
    """Return the credentials of a Cloudflare source; None for one on this machine. See `host/credentials.py`."""
    if not isinstance(source, CloudflareSource):
        return None
    try:
        return find_credentials(environ, token_file, command, secret)
    except UserError as exc:
        if hint := namespace_hint(source):
            raise UserError(f"{exc} ({hint})") from exc
        raise


def base_url_hint(base_url: str) -> str:
    """Say what is wrong with a base URL at which the API does not answer; "" for one that looks right."""
    if base_url.endswith(API_PATH):
        return ""
    return f"CLOUDFLARE_API_BASE_URL is {base_url}: it should end in {API_PATH}"


def namespace_hint(source: CloudflareSource) -> str:
    """Say how to write a namespace when one may have been taken for an account; "" otherwise."""
    if source.namespace is not None or not source.account or re.fullmatch("[0-9a-f]{32}", source.account):
        return ""
    return f"a namespace is written cloudflare:/{source.account}"


def source_identity(config: Config) -> str:
    """Return a text that is equal for every mount of the same data; the journal is found by it."""
    source = config.source
    if isinstance(source, LocalSource):
        return f"local:{os.path.realpath(source.file)}"
    if isinstance(source, WranglerSource):
        return source.identity
    parts = [source.base_url, source.account, source.namespace or "", source.prefix]
    return "cloudflare:" + "\n".join(parts)


def keys_wanted(config: Config) -> tuple[str, str]:
    """Return the namespace of the source as it is written, "" for all, and the beginning of its keys."""
    source = config.source
    if isinstance(source, LocalSource) or source.namespace is None:
        return "", ""
    prefix = source.prefix
    if prefix and config.separator and not prefix.endswith(config.separator):
        prefix += config.separator
    return source.namespace, prefix


def journal_path(config: Config) -> Path:
    """Return `STATE/sources/<hash of the identity>/journal.sqlite`."""
    return config.state_dir / "sources" / state_name(source_identity(config)) / "journal.sqlite"
