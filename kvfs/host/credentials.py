"""The credentials of the API: the one place that knows where they come from and how they are renewed.

In this order, the first that is there: `--token-file`, `--token-command`, `CLOUDFLARE_API_TOKEN`,
`CLOUDFLARE_API_KEY` with `CLOUDFLARE_EMAIL`, the systemd credential `kvfs-token`. A file is read again, and a
command asked again, after the API refused what it gave (`host/renewing.py`).
"""

import json
import logging
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError
from kvfs.host.token_file import read_token_file, usable_token
from kvfs.host.tokencommand import output_of

TOKEN_PAGE: Final = "dash.cloudflare.com/profile/api-tokens, permission “Workers KV Storage: Edit”"
VARIABLES: Final = ("CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_KEY", "CLOUDFLARE_EMAIL")
SYSTEMD_NAME: Final = "kvfs-token"
WRANGLER: Final = ("wrangler", "auth", "token")  # for the word `wrangler` alone

log = logging.getLogger("kvfs.host")


@dataclass(frozen=True, slots=True)
class Secret:
    """Headers that carry credentials, and the secret words in them. Its repr holds neither."""

    headers: Mapping[str, str] = field(repr=False)
    words: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SecretOrigin:
    """The origin of a secret.

    `read` returns the secret as it is now, may block, and raises `UserError`. `command` are the words of a command that
    `read` runs at the terminal; `parse` reads what it printed. With `can_change` reading it again is quick and may give
    another. With `is_fixed` it never gives another.
    """

    name: str
    read: Callable[[], Secret] = field(repr=False)
    can_change: bool = False
    is_fixed: bool = False
    command: Sequence[str] = field(default=(), repr=False)
    parse: Callable[[str], Secret] | None = field(default=None, repr=False)


def in_environment(secret: Secret) -> SecretOrigin:
    """Return the origin of a secret from the environment."""
    return SecretOrigin("the environment", lambda: secret, is_fixed=True)


def in_file(path: Path, forbidden: int = 0o077) -> SecretOrigin:
    """Return a file with a token, private to this user. systemd gives its own to the group root as well."""

    def read() -> Secret:
        return bearer(read_token_file(path, forbidden=forbidden), str(path))

    return SecretOrigin("a file", read, can_change=True)


def from_command(words: Sequence[str]) -> SecretOrigin:
    """Return a command that prints a token as its last line, as `wrangler auth token`, `op read …` and `pass …` do."""

    def parse(output: str) -> Secret:
        where = f"the output of {words[0]}"
        if output.lstrip().startswith("{"):
            return _from_json(output, where)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        return bearer(lines[-1] if lines else "", where)

    return SecretOrigin("a command", lambda: parse(output_of(words)), command=words, parse=parse)


class Credentials:
    """The credentials of requests. Raises `UserError` when the origin has nothing usable at first."""

    def __init__(self, origin: SecretOrigin, secret: Secret | None = None) -> None:
        """`secret` is the origin's answer to another process of ours, so that it is not asked again."""
        self.origin = origin
        self._secret = secret if secret is not None else origin.read()
        self._known = dict.fromkeys(self._secret.words)

    def __repr__(self) -> str:
        return f"<Credentials from {self.origin.name}>"

    @property
    def are_in_environment(self) -> bool:
        """Return True if a process of ours finds them in the environment that it inherits."""
        return self.origin.is_fixed

    @property
    def secret(self) -> Secret:
        """Return the secret, to hand on to a process of ours; it must never be shown."""
        return self._secret

    def headers(self) -> Mapping[str, str]:
        """Return the headers of a request."""
        return self._secret.headers

    def secrets(self) -> Collection[str]:
        """Return every secret word so far, none of which may appear in a text."""
        return self._known

    def has_changed(self) -> bool:
        """Look, without waiting, if the origin has another secret by now, which is used from then on."""
        return self.origin.can_change and self._read_again()

    def _read_again(self) -> bool:
        try:
            return self.take(self.origin.read())
        except UserError as exc:
            log.warning("%s", exc)
            return False

    def take(self, secret: Secret) -> bool:
        """Use this secret from now on; return True when it is another."""
        if secret == self._secret:
            return False
        self._known |= dict.fromkeys(secret.words)
        self._secret = secret
        log.info("the credentials were renewed")
        return True


def find_credentials(
    environ: Mapping[str, str], token_file: Path | None, command: str | None, secret: Secret | None = None
) -> Credentials:
    """Return the first credentials there are. Raises `UserError` that says what can be done when there are none."""
    if token_file is not None and command:
        raise UserError("--token-file and --token-command exclude each other")
    if token_file is not None:
        return Credentials(in_file(token_file))
    if command:
        return Credentials(from_command(_words(command)), secret)
    if token := environ.get("CLOUDFLARE_API_TOKEN", "").strip():
        return Credentials(in_environment(bearer(token, "CLOUDFLARE_API_TOKEN")))
    if key := environ.get("CLOUDFLARE_API_KEY", "").strip():
        return Credentials(in_environment(global_key(key, environ.get("CLOUDFLARE_EMAIL", "").strip())))
    if (file := systemd_file(environ)) is not None:
        return Credentials(in_file(file, forbidden=0o007))
    raise UserError(
        "no token: set CLOUDFLARE_API_TOKEN, or name a file with --token-file or a command with"
        f" --token-command (make a token at {TOKEN_PAGE})"
    )


def systemd_file(environ: Mapping[str, str]) -> Path | None:
    """Return the credential that systemd's LoadCredential= put there for this service."""
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    file = Path(directory) / SYSTEMD_NAME
    return file if directory and file.exists() else None


def bearer(text: str, where: str) -> Secret:
    """Return an API token. Raises `UserError` for a text that cannot be one."""
    token = _checked(text, f"the token in {where}")
    if token.startswith("cfk_"):
        raise UserError(
            f"{where} holds a Global API key (it begins with cfk_), which is no token: set CLOUDFLARE_API_KEY"
            f" and CLOUDFLARE_EMAIL, or make a token at {TOKEN_PAGE}"
        )
    return Secret({"authorization": f"Bearer {token}"}, (token,))


def global_key(key: str, email: str) -> Secret:
    """Return a Global API key with the address of its user."""
    if not email:
        raise UserError("CLOUDFLARE_API_KEY needs CLOUDFLARE_EMAIL, the address of its user")
    key = _checked(key, "the key in CLOUDFLARE_API_KEY")
    return Secret({"x-auth-key": key, "x-auth-email": _checked(email, "CLOUDFLARE_EMAIL")}, (key,))


def to_text(secret: Secret) -> str:
    """Return the secret for `from_text`, in a process of ours."""
    return json.dumps([dict(secret.headers), secret.words])


def from_text(text: str) -> Secret:
    """Parse the text that `to_text` made."""
    headers, words = json.loads(text)
    return Secret(headers, tuple(words))


def _words(command: str) -> list[str]:
    if command.strip() == WRANGLER[0]:
        return list(WRANGLER)
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise UserError(f"--token-command: {exc}") from exc
    if not words:
        raise UserError("--token-command is empty")
    if "/" in words[0]:  # the daemon has another working directory
        words[0] = os.path.abspath(os.path.expanduser(words[0]))
    return words


def _from_json(text: str, where: str) -> Secret:
    """Parse the output of `wrangler auth token --json`: a token, or a key with its address."""
    try:
        found = json.loads(text)
    except ValueError:
        raise UserError(f"{where} is neither a token nor JSON") from None
    if isinstance(found.get("key"), str):
        return global_key(found["key"], str(found.get("email", "")))
    return bearer(str(found.get("token", "")), where)


def _checked(text: str, what: str) -> str:
    word = text.strip()
    if not usable_token(word):
        raise UserError(f"{what} is empty or holds spaces, line breaks or non-ASCII characters")
    return word
