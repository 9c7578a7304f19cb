"""Credentials as the client needs them: headers for a request, and words that no text may hold."""

from collections.abc import Collection, Mapping
from typing import Final, Protocol
from urllib.parse import quote

from kvfs.core.errors import UserError

HIDDEN: Final = "…"
_SHORTEST: Final = 8  # characters; what is shorter occurs in honest text, and is no real token


class Auth(Protocol):
    """The origin of a request's credentials; asked for each request, because they may be renewed."""

    def headers(self) -> Mapping[str, str]:
        """Return the headers that carry them."""

    def secrets(self) -> Collection[str]:
        """Return every secret that was in a header so far."""


class BearerToken:
    """An API token that never changes. Raises `UserError` for one that no header can hold."""

    def __init__(self, token: str) -> None:
        if not token or not all("!" <= char <= "~" for char in token):
            raise UserError("the API token is empty or has characters that no header can hold")
        self._token = token

    def headers(self) -> Mapping[str, str]:
        """See `Auth`."""
        return {"authorization": f"Bearer {self._token}"}

    def secrets(self) -> Collection[str]:
        """See `Auth`."""
        return (self._token,)


def scrubbed(text: str, secrets: Collection[str]) -> str:
    """Return `text` without any of the secrets, plain or percent-encoded."""
    for secret in secrets:
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN).replace(quote(secret, safe=""), HIDDEN)
    return text
