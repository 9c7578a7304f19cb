"""The accounts that credentials can see: for who names none, and has one."""

from functools import partial
from typing import Final, Protocol

import httpx
import msgspec
import trio

from kvfs.core.errors import DeniedError, StoreError, UnavailableError, UserError
from kvfs.store.denials import Refusals, Renewable
from kvfs.store.rest import request
from kvfs.store.rest.answer import successful
from kvfs.store.rest.bearer import Auth, scrubbed
from kvfs.store.rest.client import OnAnswer
from kvfs.store.rest.reasons import unavailable
from kvfs.store.rest.transfer import Patience, exchange
from kvfs.store.wire import codec
from kvfs.store.wire.json import MalformedError, decode_leniently

_SHOWN: Final = 10  # accounts named in a message
_LONGEST: Final = 1024 * 1024  # bytes of an answer


class Account(msgspec.Struct):
    """An account; `name` is for people."""

    id: str
    name: str = ""


class _Membership(msgspec.Struct):
    account: Account


class AccountCredentials(Auth, Renewable, Protocol):
    """Headers for requests, and another secret after a refusal."""


async def only_account(
    base_url: str,
    credentials: AccountCredentials,
    timeout: float = 30,
    on_answer: OnAnswer = lambda headers: None,
) -> str:
    """Return the id of the one account that the credentials see.

    No budget is asked for these requests, because the account is not known yet: the caller counts the answers.

    Raises `UserError` that names the choices when there are several, and the way out when there is none.
    """
    try:
        found = await _accounts(base_url, credentials, timeout, on_answer)
    except UnavailableError as exc:
        raise UserError(f"the server does not answer: {exc}") from exc
    except StoreError as exc:
        raise UserError(f"the account cannot be found by itself: {exc}; write cloudflare:ACCOUNT") from exc
    if len(found) == 1:
        return found[0].id
    if not found:
        raise UserError(
            "the token does not tell its account: write cloudflare:ACCOUNT, or set CLOUDFLARE_ACCOUNT_ID"
        )
    named = ", ".join(f"{account.id} ({account.name})" for account in found[:_SHOWN])
    more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise UserError(
        f"the token sees {len(found)} accounts: write cloudflare:ACCOUNT with one of {named}{more}"
    )


async def _accounts(
    base_url: str, credentials: AccountCredentials, timeout: float, on_answer: OnAnswer
) -> list[Account]:
    """Ask `/accounts`, else `/memberships`; a token owned by an account may be refused at both."""
    refusals = Refusals(credentials)
    client = request.open_client(base_url, timeout=timeout, http2=False, transport=None)
    async with client:
        denied: DeniedError | None = None
        for path in ("/accounts", "/memberships"):
            try:
                ask = partial(_result, client, path, credentials, timeout, on_answer)
                found = _decoded(path, await refusals.call(path, ask))
            except DeniedError as exc:
                denied = denied or exc
                refusals.ask_again()
                continue
            if found:
                return found
        if denied is not None:
            raise denied
    return []


def _decoded(path: str, result: bytes) -> list[Account]:
    try:
        if path == "/accounts":
            lines: list[Account] = decode_leniently(result, list[Account] | None) or []
        else:
            lines = [line.account for line in decode_leniently(result, list[_Membership] | None) or []]
    except MalformedError as exc:
        raise UnavailableError(f"{path}: the answer is not the API's: {exc}") from exc
    return [account for account in lines if codec.acceptable_identifier(account.id)]


async def _result(
    client: httpx.AsyncClient, path: str, auth: Auth, timeout: float, on_answer: OnAnswer
) -> bytes:
    """Return `result` of one GET."""
    with trio.CancelScope() as scope:
        patience = Patience(scope, timeout)
        prepared = request.build(client, "GET", path, {"page": 1, "per_page": 50}, auth.headers())
        try:
            answer = await exchange(client, prepared, _LONGEST, patience)
        except httpx.HTTPError as exc:
            error = unavailable(path, exc)
            raise type(error)(scrubbed(str(error), auth.secrets())) from None
        on_answer(answer.headers)
        envelope = successful(path, answer, now=0.0, scrub=lambda text: scrubbed(text, auth.secrets()))
        return bytes(envelope.result)
    raise UnavailableError(f"{path}: no answer within {timeout:g} s")
