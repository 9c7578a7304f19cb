"""The five operations on namespaces, and the listing of keys."""

from starlette.requests import Request
from starlette.responses import Response

from kvfs.core.limits import LIST_KEYS, LIST_KEYS_MIN, NAMESPACES_PAGE
from kvfs.server.bodies import SMALL_BODY, off_loop, read_body
from kvfs.server.calls import Calls, json_answer
from kvfs.server.parameters import choice_of, integer_of, namespace_of
from kvfs.store.wire import codec

DEFAULT_PAGE = 20  # namespaces a page when the request does not say


class Namespaces(Calls):
    """Handlers; each takes a request and answers it, or raises `Refusal` or a `StoreError`."""

    async def list(self, request: Request) -> Response:
        page = integer_of(request, "page", 1, 1, 10**9)
        per_page = integer_of(request, "per_page", DEFAULT_PAGE, 1, NAMESPACES_PAGE)
        order = choice_of(request, "order", ("title", "id"))
        descending = choice_of(request, "direction", ("asc", "desc")) == "desc"
        every = await self.store(request).list_namespaces()
        every.sort(key=lambda one: (one.title, one.id) if order == "title" else (one.id, ""))
        ordered = every[::-1] if descending else every
        shown = ordered[(page - 1) * per_page : page * per_page]
        info = codec.ResultInfo(page=page, per_page=per_page, count=len(shown), total_count=len(every))
        result = codec.encode_array(codec.encode_namespace(one) for one in shown)
        return json_answer(codec.encode_success(result, info))

    async def create(self, request: Request) -> Response:
        created = await self.store(request).create_namespace(await _title(request))
        return json_answer(codec.encode_success(codec.encode_namespace(created)))

    async def get(self, request: Request) -> Response:
        found = await self.store(request).get_namespace(namespace_of(request))
        return json_answer(codec.encode_success(codec.encode_namespace(found)))

    async def rename(self, request: Request) -> Response:
        namespace = namespace_of(request)
        store = self.store(request)
        await store.rename_namespace(namespace, await _title(request))
        return json_answer(codec.encode_success(codec.encode_namespace(await store.get_namespace(namespace))))

    async def delete(self, request: Request) -> Response:
        await self.store(request).delete_namespace(namespace_of(request))
        return json_answer(codec.encode_success())

    async def list_keys(self, request: Request) -> Response:
        page = await self.store(request).list_keys(
            namespace_of(request),
            prefix=request.query_params.get("prefix", ""),
            cursor=request.query_params.get("cursor") or None,
            limit=integer_of(request, "limit", LIST_KEYS, LIST_KEYS_MIN, LIST_KEYS),
        )
        self.count(request, len(page.keys))
        return json_answer(codec.encode_page(page))


async def _title(request: Request) -> str:
    """The title of the body; empty when there is none, which the store refuses."""
    body = await read_body(request, SMALL_BODY)
    return await off_loop(len(body), lambda: codec.decode_title(body))
