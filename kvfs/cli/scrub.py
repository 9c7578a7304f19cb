"""Text that may be sent to strangers: secrets are taken out in every form, names of keys stand as hashes.

The hash is keyed with bytes that nobody keeps: one name has one hash within a bundle, and no list of likely names
finds it.
"""

import base64
import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

GONE: Final = "<secret>"
LEAST_SECRET: Final = 6  # characters; shorter ones would take out ordinary words
LEAST_NAME: Final = 4
MOST_NAMES: Final = 20_000  # that are looked for in free text

_TOKENS: Final = re.compile(
    r"\bcf[a-z]{1,3}_[\w-]{16,}"  # a token of Cloudflare, as it is made today
    r"|(?<![\w-])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])[\w-]{40}(?![\w-])"  # and as it was
    r"|\b[0-9a-f]{37}\b"  # a Global API key
)
_HEADERS: Final = re.compile(r"(?i)\b(bearer |basic |x-auth-key: ?|x-auth-user-service-key: ?)\S+")
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'" r'|"(?:[^"\\]|\\.)*"')
_SOURCES: Final = re.compile(r"(cloudflare:[^\s/]*/)([^\s,;)'\"]+)")
_SECRET_VARIABLES: Final = re.compile(r"TOKEN|SECRET|PASSW|API_KEY|AUTH_KEY|CREDENTIAL", re.IGNORECASE)

NAME_FIELDS: Final = frozenset({"path", "copy", "key", "prefix", "title", "from", "to"})
"""Fields of JSON objects whose text is a name, or a path of names."""


def secret_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the values of variables that hold a secret by their name; not where one only names a file."""
    return [
        value
        for name, value in environ.items()
        if _SECRET_VARIABLES.search(name) and not name.endswith(("_FILE", "_COMMAND"))
    ]


class Scrubber:
    """Takes `secrets` out of texts, and unless `with_names` names, too; `names` are those known to be some."""

    def __init__(self, secrets: Iterable[str], names: Collection[str], *, with_names: bool) -> None:
        self._with_names = with_names
        self._salt = os.urandom(16)
        forms = {form for secret in secrets if len(secret) >= LEAST_SECRET for form in _forms(secret)}
        self._secrets = sorted((form for form in forms if len(form) >= LEAST_SECRET), key=len, reverse=True)
        known = sorted(names, key=len, reverse=True)[:MOST_NAMES]
        self._names = {
            spelt: self.name(name) for name in known if len(name) >= LEAST_NAME for spelt in _spellings(name)
        }

    def name(self, name: str) -> str:
        """Return a path of names with a hash for each; as it is, without its secrets, if names are wanted."""
        if self._with_names:
            return self.secrets(name)
        return "/".join(self._hash(part) if part else "" for part in name.split("/"))

    def _hash(self, name: str) -> str:
        digest = hmac.new(self._salt, name.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"name-{digest.hexdigest()[:12]}"

    def secrets(self, text: str) -> str:
        """Return `text` without any secret."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, GONE)
        return _TOKENS.sub(GONE, _HEADERS.sub(rf"\1{GONE}", text))

    def text(self, text: str) -> str:
        """Return free text without secrets, and with hashes for the known names."""
        text = self.secrets(text)
        for spelt, hashed in () if self._with_names else self._names.items():
            if spelt in text:
                text = text.replace(spelt, hashed)
        return text if self._with_names else _SOURCES.sub(self._source, text)

    def _source(self, found: re.Match[str]) -> str:
        """Return a source without the names of its namespace and prefix, which may be too short to be looked for."""
        return found[0] if _is_done(found[2]) else f"{found[1]}{self.name(found[2])}"

    def log(self, text: str) -> str:
        """Return a log as `text` does, with every quoted word hashed, because it may be a forgotten name."""
        text = self.text(text)
        return text if self._with_names else _QUOTED.sub(self._quoted, text)

    def _quoted(self, found: re.Match[str]) -> str:
        inner = found[0][1:-1]
        return found[0] if _is_done(inner) else f"{found[0][0]}{self.name(inner)}{found[0][-1]}"

    def value(self, value: Any, other: Callable[[str], str] | None = None, field: str = "") -> Any:
        """Return a value of JSON without secrets: fields in `NAME_FIELDS` are names, `other` text is like a log."""
        if isinstance(value, dict):
            return {self.text(str(name)): self.value(inner, other, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.value(inner, other, field) for inner in value]
        if not isinstance(value, str):
            return value
        return self.name(value) if field in NAME_FIELDS else (other or self.log)(value)

    def metrics(self, text: str) -> str:
        """Return the text of `.kvfs/metrics`, with hashes for the titles of namespaces."""
        if self._with_names:
            return self.secrets(text)
        hashed = re.sub(r'(namespace=")((?:\\.|[^"\\])*)', lambda found: found[1] + self.name(found[2]), text)
        return self.text(hashed)


def _is_done(path: str) -> bool:
    """Return True if every name of a path is a hash already."""
    parts = path.split("/")
    return all(not part or part == GONE or re.fullmatch(r"name-[0-9a-f]{12}", part) for part in parts)


def _forms(secret: str) -> Iterator[str]:
    """Return a secret as itself, and in the forms that URLs, JSON, base64 or hex give it."""
    yield from _spellings(secret)
    raw = secret.encode("utf-8", "surrogatepass")
    yield raw.hex()
    for shift in range(3):  # inside of a longer text its base64 depends on where it begins
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * shift + raw).decode().rstrip("=")
            whole = encoded if (shift + len(raw)) % 3 == 0 else encoded[:-1]
            yield whole[(shift * 4 + 2) // 3 :]


def _spellings(text: str) -> set[str]:
    """Return a text as it stands in plain text, in a URL, in JSON and in a log."""
    safe = text.encode("utf-8", "replace").decode()
    dumped = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return {text, repr(text)[1:-1], quote(safe), quote(safe, safe=""), quote_plus(safe), *dumped}
