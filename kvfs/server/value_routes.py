"""Single values: put, get, delete, and the metadata of a key."""

from starlette.requests import Request
from starlette.responses import Response

from kvfs.core.model import Entry
from kvfs.server.bodies import read_upload
from kvfs.server.calls import Calls, json_answer
from kvfs.server.error_answers import Refusal, recorded
from kvfs.server.parameters import expiration_of, key_of, namespace_of, seconds_of
from kvfs.store import codes
from kvfs.store.wire import codec
from kvfs.store.wire.json import compact


class ValueRoutes(Calls):
    """Handlers; each takes a request and answers it, or raises `Refusal` or a `StoreError`."""

    async def get(self, request: Request) -> Response:
        found = await self.store(request).get(namespace_of(request), key_of(request))
        self.count(request, 1)
        if found is None:
            raise recorded(codes.KEY_NOT_FOUND)
        headers = {} if found.expiration is None else {"expiration": str(found.expiration)}
        return Response(found.value, headers=headers, media_type="application/octet-stream")

    async def get_metadata(self, request: Request) -> Response:
        key = key_of(request)
        namespace = namespace_of(request)
        store = self.store(request)
        metadata = await store.get_metadata(namespace, key)
        if metadata is None:
            # No metadata, or no such key: in a listing by prefix the key itself comes first.
            page = await store.list_keys(namespace, prefix=key, limit=1)
            if not page.keys or page.keys[0].key != key:
                raise Refusal(404, codes.KEY_NOT_FOUND, "metadata: 'key not found'")
        self.count(request, 1)
        return json_answer(codec.encode_success(metadata or b"null"))

    async def put(self, request: Request) -> Response:
        key, namespace, store = key_of(request), namespace_of(request), self.store(request)
        expiration = seconds_of(request, "expiration", codes.BAD_EXPIRATION)
        ttl = seconds_of(request, "expiration_ttl", codes.BAD_TTL)
        expires = expiration_of("put", expiration, ttl, self.now())
        await store.get_namespace(namespace)  # before 25 MiB are taken in for nothing
        upload = await read_upload(request)
        entry = Entry(upload.value, stored_metadata("put", upload.metadata), expires)
        await store.put(namespace, key, entry)
        self.count(request, 1)
        return json_answer(codec.encode_success())

    async def delete(self, request: Request) -> Response:
        await self.store(request).delete(namespace_of(request), key_of(request))
        self.count(request, 1)
        return json_answer(codec.encode_success())


def stored_metadata(operation: str, text: bytes | None) -> bytes | None:
    """Return metadata as it is kept. An empty part is refused, as by the API: the official SDK sends one for `None`."""
    if text is None:
        return None
    try:
        return compact(text)  # its length is the store's to check
    except codec.MalformedError as exc:
        raise Refusal(400, codes.BAD_METADATA, f"{operation}: 'metadata must be valid json'") from exc
