"""Answers to what clients ask besides KV: which accounts there are, whose token it is, whether it is good."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from kvfs.server.calls import json_answer
from kvfs.server.parameters import account_of, integer_of
from kvfs.store.wire import codec

LOCAL_ACCOUNT: Final = "local"
"""The account of `local:` mounts."""
STRICT_ACCOUNT: Final = "6b766673" * 4
"""The account of a strict server, which refuses names that are no hex digits."""

_NO_ID: Final = "0" * 32
_EMAIL: Final = "nobody@kvfs.invalid"


class Stubs:
    """Handlers that say as little as their callers need. `account` is the one that is listed."""

    def __init__(self, account: str) -> None:
        self._account = account

    async def accounts(self, request: Request) -> Response:
        return self._page(request, _account(self._account))

    async def account(self, request: Request) -> Response:
        return json_answer(codec.encode_success(_account(account_of(request))))

    async def memberships(self, request: Request) -> Response:
        return self._page(request, {"id": _NO_ID, "account": _account(self._account), "status": "accepted"})

    async def user(self, request: Request) -> Response:
        return json_answer(codec.encode_success({"id": _NO_ID, "email": _EMAIL}))

    async def verify_token(self, request: Request) -> Response:
        return json_answer(codec.encode_success({"id": _NO_ID, "status": "active"}))

    def _page(self, request: Request, only: object) -> Response:
        page = integer_of(request, "page", 1, 1, 10**9)
        items = [only] if page == 1 else []
        info = codec.ResultInfo(page=page, per_page=20, count=len(items), total_count=1, total_pages=1)
        return json_answer(codec.encode_success(items, info))


def _account(account: str) -> dict[str, str]:
    return {"id": account, "name": "kvfs", "type": "standard"}
