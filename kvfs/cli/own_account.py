"""The account of a Cloudflare source that names none. The requests that find it count as the account's own."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from kvfs.config import CloudflareSource, load_credentials
from kvfs.host.credentials import Credentials
from kvfs.host.renewing import Renewing
from kvfs.host.state import requests_path
from kvfs.store.ratelimit import Budget, Priority
from kvfs.store.rest.accounts import only_account
from kvfs.store.rest.request import open_client
from kvfs.store.sharing import shared_budget


async def account_of(source: CloudflareSource, credentials: Credentials, timeout: float = 30) -> str:
    """Return the account that the source names, or the only one that the token sees. Raises `UserError`."""
    if source.account:
        return source.account
    answers: list[Mapping[str, str]] = []
    account = await only_account(source.base_url, Renewing(credentials), timeout, answers.append)
    with shared_budget(requests_path(source.base_url, account)) as budget:
        budget.made(len(answers))
        budget.told(answers[-1])
    return account


@asynccontextmanager
async def open_account(
    source: CloudflareSource, token_file: Path | None, command: str | None, timeout: float
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """Yield a client of the API for raw requests, which count as the account's own, and the account."""
    credentials = load_credentials(source, token_file, os.environ, command)
    assert credentials is not None
    account = await account_of(source, credentials, timeout)
    client = open_client(source.base_url, timeout=timeout, http2=False, transport=None)
    client.headers.update(credentials.headers())
    with shared_budget(requests_path(source.base_url, account)) as budget:
        _count_requests(client, budget)
        async with client:
            yield client, account


def _count_requests(client: httpx.AsyncClient, budget: Budget) -> None:
    """Have each request of a client that has no `Limiting` wait for its turn, as somebody's who waits for it."""

    async def ask(request: httpx.Request) -> None:
        async with budget.request(Priority.FOREGROUND):
            pass  # counted from now on; who uses such a client makes one at a time

    async def learn(response: httpx.Response) -> None:
        budget.told(response.headers)

    client.event_hooks = {"request": [ask], "response": [learn]}
