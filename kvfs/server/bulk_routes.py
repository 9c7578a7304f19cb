"""The bulk operations: put, get and delete of many keys at once."""

from collections.abc import Mapping
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from kvfs.core.limits import BULK_BYTES, BULK_GET_BYTES, BULK_VALUE_CHARS
from kvfs.core.model import Entry, Key
from kvfs.server.bodies import off_loop, read_body
from kvfs.server.calls import Calls, json_answer
from kvfs.server.error_answers import Refusal, invalid
from kvfs.server.parameters import expiration_of, namespace_of
from kvfs.server.value_routes import stored_metadata
from kvfs.store import checks, codes
from kvfs.store.wire import codec

TYPES = ("text", "json")


class Bulk(Calls):
    """Handlers; each takes a request and answers it, or raises `Refusal` or a `StoreError`."""

    async def put(self, request: Request) -> Response:
        namespace, store = namespace_of(request), self.store(request)
        await store.get_namespace(namespace)  # before 100 MB are taken in for nothing
        body = await read_body(request, BULK_BYTES)
        entries = await off_loop(len(body), partial(_entries, body, self.now()))
        failed = await store.bulk_put(namespace, entries) if entries else frozenset()
        return self._done(request, len(entries), failed)

    async def delete(self, request: Request) -> Response:
        namespace, store = namespace_of(request), self.store(request)
        await store.get_namespace(namespace)
        body = await read_body(request, BULK_BYTES)
        keys = await off_loop(len(body), partial(codec.decode_key_list, body))
        checks.check_pairs("bulk remove keys", keys)
        unique = [Key(key) for key in dict.fromkeys(keys)]
        failed = await store.bulk_delete(namespace, unique) if unique else frozenset()
        return self._done(request, len(unique), failed)

    async def get(self, request: Request) -> Response:
        namespace, store = namespace_of(request), self.store(request)
        body = await read_body(request, BULK_BYTES)
        asked = await off_loop(len(body), partial(codec.decode_bulk_get, body))
        if asked.type not in TYPES:
            raise invalid(f"bulk get keys: type must be one of {', '.join(TYPES)}")
        checks.check_bulk_get("bulk get keys", asked.keys)
        keys = [Key(key) for key in dict.fromkeys(asked.keys)]
        found = await store.bulk_get(namespace, keys)
        self.count(request, len(keys))
        size = sum(len(entry.value) for entry in found.values() if entry)
        if size > BULK_GET_BYTES:
            raise Refusal(413, codes.OVERSIZE, "Total size of request exceeds the limit of 25MB")
        encode = partial(_values, found, asked.type == "json", asked.with_metadata)
        return json_answer(await off_loop(size, encode))

    def _done(self, request: Request, asked: int, failed: frozenset[Key]) -> Response:
        self.count(request, asked - len(failed))
        return json_answer(codec.encode_success(codec.encode_bulk_result(asked - len(failed), failed)))


def _entries(body: bytes, now: float) -> dict[Key, Entry]:
    """Return the entries of a bulk put by key. Raises what refuses one: nothing is stored unless all can be."""
    pairs = codec.decode_pairs(body)
    checks.check_pairs("bulk put", pairs)
    entries: dict[Key, Entry] = {}
    for pair in pairs:
        entry = _entry(pair, now)
        if entries.setdefault(Key(pair.key), entry) != entry:
            message = "received duplicate key with different values or expiration parameters"
            raise invalid(f'{message}: "{pair.key}"')
    return entries


def _entry(pair: codec.PairRequest, now: float) -> Entry:
    if len(pair.value) > BULK_VALUE_CHARS:
        raise invalid(f"bulk put: value of {len(pair.value)} characters exceeds limit of {BULK_VALUE_CHARS}.")
    expiration = expiration_of("bulk put", pair.expiration, pair.expiration_ttl, now)
    return Entry(pair.value_bytes(), stored_metadata("bulk put", pair.metadata_text), expiration)


def _values(found: Mapping[Key, Entry | None], as_json: bool, with_metadata: bool) -> bytes:
    try:
        result = codec.encode_values(found, as_json=as_json, with_metadata=with_metadata)
    except codec.MalformedError as exc:
        kind = "non-json" if as_json else "non-text"
        reason = f"'At least one of the requested keys corresponds to a {kind} value'"
        raise Refusal(400, codes.BULK_GET, f"bulk get keys: {reason}") from exc
    return codec.encode_success(result)
