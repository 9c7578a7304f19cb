"""Answers to what clients ask besides KV: which accounts there are, whether the token is good."""

from starlette.requests import Request
from starlette.responses import Response

from kvfs.server.calls import Calls, json_answer
from kvfs.server.parameters import integer_of
from kvfs.store.wire import codec

ACCOUNT = {"id": "local", "name": "kvfs", "type": "standard"}
_NO_ID = "0" * 32


class Stubs(Calls):
    """Handlers that say as little as their callers need."""

    async def accounts(self, request: Request) -> Response:
        return self._page(request, ACCOUNT)

    async def memberships(self, request: Request) -> Response:
        return self._page(request, {"id": _NO_ID, "account": ACCOUNT, "status": "accepted"})

    async def verify_token(self, request: Request) -> Response:
        return json_answer(codec.encode_success(codec.encode_json({"id": _NO_ID, "status": "active"})))

    def _page(self, request: Request, only: object) -> Response:
        page = integer_of(request, "page", 1, 1, 10**9)
        items = [only] if page == 1 else []
        info = codec.ResultInfo(page=page, per_page=20, count=len(items), total_count=1)
        return json_answer(codec.encode_success(codec.encode_json(items), info))
