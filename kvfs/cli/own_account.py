"""The account of a Cloudflare source that names none. The requests that find it count as the account's own."""

from collections.abc import Mapping

from kvfs.config import CloudflareSource
from kvfs.host.credentials import Credentials
from kvfs.host.state import requests_path
from kvfs.store.rest.accounts import only_account
from kvfs.store.sharing import shared_budget


async def account_of(source: CloudflareSource, credentials: Credentials, timeout: float = 30) -> str:
    """Return the account that the source names, or the only one that the token sees. Raises `UserError`."""
    if source.account:
        return source.account
    answers: list[Mapping[str, str]] = []
    account = await only_account(source.base_url, credentials, timeout, answers.append)
    with shared_budget(requests_path(source.base_url, account)) as budget:
        budget.made(len(answers))
        budget.told(answers[-1])
    return account
