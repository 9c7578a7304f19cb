"""The five operations on namespaces, and the listing of keys."""

from collections.abc import Callable
from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from kvfs.core.limits import LIST_KEYS, LIST_KEYS_MIN, NAMESPACES_PAGE
from kvfs.core.model import Namespace, NamespaceId
from kvfs.server.bodies import SMALL_BODY, off_loop, read_body
from kvfs.server.calls import Calls, StoreOf, json_answer
from kvfs.server.error_answers import invalid
from kvfs.server.parameters import choice_of, integer_of, namespace_of
from kvfs.store.wire import codec

DEFAULT_PAGE: Final = 20  # namespaces a page when the request does not say
JURISDICTIONS: Final = ("", "eu", "us", "fedramp")
MODES: Final = ("", "standard", "instant")


class NamespaceOptions(NamedTuple):
    """The options with which a namespace was created; "" is the default."""

    jurisdiction: str = ""
    mode: str = ""


class Namespaces(Calls):
    """Handlers; each takes a request and answers it, or raises `Refusal` or a `StoreError`.

    Jurisdiction and mode are told again as long as the server runs; they have no effect.
    """

    def __init__(self, store_of: StoreOf, now: Callable[[], float]) -> None:
        super().__init__(store_of, now)
        self._origins: dict[NamespaceId, NamespaceOptions] = {}

    async def list(self, request: Request) -> Response:
        page = integer_of(request, "page", 1, 1, 10**9)
        per_page = integer_of(request, "per_page", DEFAULT_PAGE, 1, NAMESPACES_PAGE)
        order = choice_of(request, "order", ("title", "id"))
        descending = choice_of(request, "direction", ("asc", "desc")) == "desc"
        every = await self.store(request).list_namespaces()
        every.sort(key=lambda one: (one.title, one.id) if order == "title" else (one.id, ""))
        ordered = every[::-1] if descending else every
        shown = ordered[(page - 1) * per_page : page * per_page]
        info = codec.ResultInfo(
            page=page,
            per_page=per_page,
            count=len(shown),
            total_count=len(every),
            total_pages=-(-len(every) // per_page),
        )
        result = codec.encode_array(self._encoded(one) for one in shown)
        return json_answer(codec.encode_success(result, info))

    async def create(self, request: Request) -> Response:
        asked = await _asked(request)
        origin = NamespaceOptions(asked.jurisdiction or "", asked.mode or "")
        if origin.jurisdiction not in JURISDICTIONS or origin.mode not in MODES:
            raise invalid(
                f"create namespace: jurisdiction is one of {', '.join(JURISDICTIONS[1:])}, "
                f"mode one of {', '.join(MODES[1:])}"
            )
        created = await self.store(request).create_namespace(asked.title or "")
        if any(origin):
            self._origins[created.id] = origin
        return json_answer(codec.encode_success(self._encoded(created)))

    async def get(self, request: Request) -> Response:
        found = await self.store(request).get_namespace(namespace_of(request))
        return json_answer(codec.encode_success(self._encoded(found)))

    async def rename(self, request: Request) -> Response:
        namespace = namespace_of(request)
        store = self.store(request)
        await store.rename_namespace(namespace, (await _asked(request)).title or "")
        return json_answer(codec.encode_success(self._encoded(await store.get_namespace(namespace))))

    async def delete(self, request: Request) -> Response:
        namespace = namespace_of(request)
        await self.store(request).delete_namespace(namespace)
        self._origins.pop(namespace, None)
        return json_answer(codec.encode_success())

    def _encoded(self, namespace: Namespace) -> bytes:
        origin = self._origins.get(namespace.id, NamespaceOptions())
        shown = Namespace(namespace.id, namespace.title, namespace.mode or origin.mode)
        return codec.encode_namespace(shown, origin.jurisdiction)

    async def list_keys(self, request: Request) -> Response:
        page = await self.store(request).list_keys(
            namespace_of(request),
            prefix=request.query_params.get("prefix", ""),
            cursor=request.query_params.get("cursor") or None,
            limit=integer_of(request, "limit", LIST_KEYS, LIST_KEYS_MIN, LIST_KEYS),
        )
        self.count(request, 1)
        return json_answer(codec.encode_page(page))


async def _asked(request: Request) -> codec.NamespaceRequest:
    """Return the body; the store refuses a title that is empty or missing."""
    body = await read_body(request, SMALL_BODY)
    return await off_loop(len(body), lambda: codec.decode_namespace_request(body))
