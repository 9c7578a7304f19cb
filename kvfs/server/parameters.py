"""The parameters of a request outside its body: account, namespace and key of its path, query, expiration."""

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from kvfs.core.limits import EXPIRATION_SECONDS
from kvfs.core.model import Key, NamespaceId
from kvfs.server.error_answers import Refusal, invalid
from kvfs.store import codes
from kvfs.store.wire import codec

_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")


def account_of(request: Request) -> str:
    """Return the account id. Raises `Refusal` for what cannot be one."""
    account: str = request.path_params["account"]
    if not codec.acceptable_identifier(account):
        raise _not_routed(request.scope["path"])
    return account


def check_account(path: str, account: str) -> None:
    """Raise `Refusal` for an account id that is not 32 hex digits, as the API's are."""
    if _HEX_ID.fullmatch(account) is None:
        raise _not_routed(path)


def _not_routed(path: str) -> Refusal:
    reason = f"Could not route to {path}, perhaps your object identifier is invalid?"
    return Refusal(400, codes.BAD_ACCOUNT, reason)


def namespace_of(request: Request) -> NamespaceId:
    """Return the namespace id. Raises `Refusal` for what cannot be one."""
    namespace: str = request.path_params["namespace"]
    if _HEX_ID.fullmatch(namespace) is None:
        reason = f"'invalid namespace format: {namespace}'"
        raise Refusal(
            400, codes.BAD_NAMESPACE_ID, f"could not parse UUID from request's namespace_id: {reason}"
        )
    return NamespaceId(namespace)


def key_of(request: Request) -> Key:
    """Return the key: one path segment, decoded once. Whether KV takes it is the store's to check."""
    try:
        return Key(unquote_to_bytes(request.path_params["key"]).decode())
    except UnicodeDecodeError as exc:
        raise invalid("the key is not valid UTF-8") from exc


def integer_of(request: Request, name: str, default: int, low: int, high: int) -> int:
    """Return a number of the query, without its fraction. Raises `Refusal` outside `low` to `high`."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
        raise invalid(f"{name} must be a number from {low} to {high}")
    return int(float(text))


def choice_of(request: Request, name: str, choices: tuple[str, ...]) -> str:
    """Return a word of the query, the first of `choices` by default."""
    text = request.query_params.get(name, "") or choices[0]
    if text not in choices:
        raise invalid(f"{name} must be one of {', '.join(choices)}")
    return text


def seconds_of(request: Request, name: str, code: int) -> float | None:
    """Return a number of seconds of the query, or None. Raises `Refusal` with `code`."""
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"-?[0-9]{1,16}(\.[0-9]{1,9})?", text):
        raise Refusal(400, code, f"put: 'Invalid {name} of {text[:40]}. Please specify integer.'")
    return float(text)


def expiration_of(operation: str, expiration: float | None, ttl: float | None, now: float) -> int | None:
    """Return epoch seconds at which the entry expires; the ttl wins. Raises `Refusal` below KV's 60 seconds."""
    if ttl is not None:
        if ttl < EXPIRATION_SECONDS:
            message = (
                f"{operation}: 'Invalid expiration_ttl of {ttl:.0f}. Expiration TTL must be at least 60.'"
            )
            raise Refusal(400, codes.BAD_TTL, message)
        return codec.whole_seconds(now + ttl)
    if expiration is None:
        return None
    if expiration < int(now) + EXPIRATION_SECONDS:
        reason = "Please specify integer greater than the current number of seconds since the UNIX epoch."
        if expiration > now:
            reason = "Expiration times must be at least 60 seconds in the future."
        message = f"{operation}: 'Invalid expiration of {expiration:.0f}. {reason}'"
        raise Refusal(400, codes.BAD_EXPIRATION, message)
    return codec.whole_seconds(expiration)
