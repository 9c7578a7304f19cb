"""RestStore: Workers KV over its REST API, the fourteen operations. Nothing is retried here.

What a request is made of is in `request.py`, what an answer means in `answer.py`, what its JSON says in
`wire/codec.py`, how long and how big it may be in `transfer.py`.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import httpx
import trio

from kvfs.core.errors import (
    BodyTooLargeError,
    NamespaceNotFoundError,
    NoAnswerError,
    NotSentError,
    StoreError,
    UnavailableError,
    UncertainError,
)
from kvfs.core.limits import LIST_KEYS, LIST_KEYS_MIN, NAMESPACES_PAGE, VALUE_BYTES
from kvfs.core.model import Entry, Key, KeyInfo, KeyPage, Metadata, Namespace, NamespaceId, ValueRead
from kvfs.store import checks
from kvfs.store.rest import request
from kvfs.store.rest.answer import Answer, error_of, key_is_missing, shaped, successful, value_of
from kvfs.store.rest.bearer import Auth, BearerToken, scrubbed
from kvfs.store.rest.billing import Billing
from kvfs.store.rest.reasons import unavailable
from kvfs.store.rest.transfer import AnswerTooLongError, Patience, UploadStream, exchange
from kvfs.store.wire import bulk_values, codec
from kvfs.store.wire.strings import GiveWay, go_on

PLAIN_ANSWER: Final = 16 * 1024 * 1024  # bytes: any list or confirmation
VALUE_ANSWER: Final = VALUE_BYTES + 64 * 1024
BULK_ANSWER: Final = 64 * 1024 * 1024  # 25 MiB of values, escaped
BULK_SECONDS: Final = 120.0  # the edge answers 524 after 100 s; a write that is given up is billed too
_LEAST_SECONDS: Final = {"bulk_put": BULK_SECONDS, "bulk_delete": BULK_SECONDS}
_MANY_SECONDS: Final = 2.0  # for many values together, at least; else a third of the time-out: one may hang
NAMESPACE_PAGES: Final = 1000
MOST_NAMESPACES: Final = 100_000  # a hundred times what an account may have
OFF_LOOP_BYTES: Final = 1024 * 1024  # JSON above this is encoded and decoded in a thread

T = TypeVar("T")

OnAnswer = Callable[[Mapping[str, str]], None]
"""Told of the headers of each answer, with lower-case names."""


@asynccontextmanager
async def open_rest(
    *,
    base_url: str,
    account: str,
    token: str | Auth,
    timeout: float = 30,
    http2: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
    on_answer: OnAnswer = lambda headers: None,
) -> AsyncIterator["RestStore"]:
    """Yield the store of `account` at `base_url`, which ends in /client/v4 and has no user, query or fragment.

    `timeout` is seconds without progress; `on_answer` gets the headers of every answer. Raises `UserError` for
    what cannot be a URL, account or token.
    """
    auth = BearerToken(token) if isinstance(token, str) else token
    client = request.open_client(base_url, timeout=timeout, http2=http2, transport=transport)
    async with client:
        yield RestStore(client, account, auth, timeout=timeout, on_answer=on_answer)


class RestStore:
    """Entries in the namespaces of one account, behind the REST API."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        account: str | None,
        auth: Auth,
        *,
        timeout: float = 30,
        on_answer: OnAnswer = lambda headers: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`now` (epoch seconds) is only asked when a Retry-After is a date. Raises `UserError`."""
        self._client = client
        self._auth = auth
        self._on_answer = on_answer
        self._account = account
        self._namespaces = request.namespaces_path(account)
        self._timeout = timeout
        self._now = now
        self._posts_deletes = True  # until a server turns out not to know POST …/bulk/delete
        self.billing = Billing()

    def __repr__(self) -> str:
        return f"<RestStore {self._client.base_url.host} account={self._account}>"

    async def list_namespaces(self) -> list[Namespace]:
        """Return all namespaces of the account, every page of them."""
        found: dict[NamespaceId, Namespace] = {}
        received = 0
        for page in range(1, NAMESPACE_PAGES + 1):
            query = {"page": page, "per_page": NAMESPACES_PAGE, "order": "title", "direction": "asc"}
            answer = await self._send("list_namespaces", "GET", self._namespaces, query=query)
            envelope = self._successful("list namespaces", answer)
            count, lines = shaped("list namespaces", codec.decode_namespaces, envelope.result)
            news = [line for line in lines if line.id not in found]
            found.update((line.id, line) for line in news)
            received += count
            total = envelope.paging().total_count
            if not count or (received >= total if total is not None else count < NAMESPACES_PAGE):
                return list(found.values())
            if not news or len(found) > MOST_NAMESPACES:
                break
        raise UnavailableError("list namespaces: the pages do not end")

    async def create_namespace(self, title: str) -> Namespace:
        """Create an empty namespace. Raises `TitleExistsError`."""
        checks.check_title("create namespace", title)
        answer = await self._send(
            "create_namespace", "POST", self._namespaces, body=[codec.encode_title(title)]
        )
        return self._namespace("create namespace", answer)

    async def get_namespace(self, namespace: NamespaceId) -> Namespace:
        """Return one namespace by its id."""
        answer = await self._send("get_namespace", "GET", self._path(namespace))
        return self._namespace("get namespace", answer)

    async def rename_namespace(self, namespace: NamespaceId, title: str) -> None:
        """Give it another title. Raises `TitleExistsError`."""
        checks.check_title("rename namespace", title)
        answer = await self._send(
            "rename_namespace", "PUT", self._path(namespace), body=[codec.encode_title(title)]
        )
        self._successful("rename namespace", answer)

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        """Delete it with everything in it."""
        answer = await self._send("delete_namespace", "DELETE", self._path(namespace))
        self._successful("delete namespace", answer)

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """Return one page of the keys that start with `prefix`. The API's smallest page has 10, whatever `limit`.

        Keys that KV cannot hold or that were not asked for are left out, and the rest is in order.
        """
        checks.text_bytes("list keys", "prefix", prefix)
        query: dict[str, object] = {"limit": min(max(limit, LIST_KEYS_MIN), LIST_KEYS)}
        query |= {"prefix": prefix} if prefix else {}
        query |= {"cursor": cursor} if cursor else {}
        answer = await self._send("list_keys", "GET", self._path(namespace, "keys"), query=query)
        envelope = self._successful("list keys", answer)
        self.billing.add("lists", 1)
        keys, is_whole = shaped("list keys", codec.decode_keys, envelope.result)
        following = envelope.paging().cursor or None
        if following is not None and following == cursor:
            raise UnavailableError("list keys: the server answers the cursor it was asked with")
        return KeyPage(_in_order(keys, prefix), following, is_whole)

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """Return value and expiration of one key, text or binary."""
        path = self._key_path(namespace, "values", key)
        answer = await self._send("get_value", "GET", path, limit=VALUE_ANSWER)
        self.billing.add("read", answer.ok or key_is_missing(answer))
        if key_is_missing(answer):
            return None
        if answer.status != 200:
            raise self._error("get", answer)
        return value_of(answer)

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """Return metadata of one key; `None` when it has none or does not exist."""
        answer = await self._send("get_metadata", "GET", self._key_path(namespace, "metadata", key))
        self.billing.add("read", answer.ok or key_is_missing(answer))
        if key_is_missing(answer):
            return None
        envelope = self._successful("metadata", answer)
        return shaped("metadata", codec.decode_metadata, envelope.result)

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """Return whole entries of up to 100 keys with text values; a key with an odd entry is left out."""
        if not keys:
            return {}
        unique = list(dict.fromkeys(keys))
        checks.check_bulk_get("bulk get", unique)
        checks.encoded_keys("bulk get", unique)
        path = self._path(namespace, "bulk", "get")
        body = [codec.encode_bulk_get(unique)]
        shorter = min(self._timeout, max(self._timeout / 3, _MANY_SECONDS)) if len(unique) > 1 else 0.0
        answer = await self._send(
            "bulk_get", "POST", path, body=body, limit=BULK_ANSWER, splittable=True, seconds=shorter
        )
        found = await _off_loop(len(answer.body), partial(self._values, answer))
        self.billing.add("read", len(unique))
        told = {key: found[key] for key in unique if key in found}
        if 2 * len(told) < len(unique):
            raise UnavailableError("bulk get: the answer leaves out keys that were asked for")
        return told

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        """Replace one entry, up to 25 MiB of any bytes."""
        checks.check_entry("put", entry)
        content_type, body = request.put_body(entry)
        query = {} if entry.expiration is None else {"expiration": entry.expiration}
        path = self._key_path(namespace, "values", key)
        with self.billing.sending("written", 1) as bill:
            answer = bill.answer = await self._send(
                "put_value", "PUT", path, query=query, body=body, content_type=content_type
            )
        self._successful("put", answer)

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """Replace up to 10,000 entries; returns the keys that were *not* written.

        Raises `BodyTooLargeError` for a value that can only go by `put`.
        """
        if not entries:
            return frozenset()
        checks.check_pairs("bulk put", entries)
        size = sum(len(entry.value) for entry in entries.values()) + 100 * len(entries)
        pause = GiveWay() if size > OFF_LOOP_BYTES else go_on
        body = await _off_loop(size, partial(request.bulk_put_body, entries, pause, disguised=disguised))
        path = self._path(namespace, "bulk")
        with self.billing.sending("written", len(entries)) as bill:
            answer = bill.answer = await self._send("bulk_put", "PUT", path, body=body, splittable=True)
        return self._unsuccessful("bulk put", answer, entries)

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """Remove one key; success also when it did not exist."""
        path = self._key_path(namespace, "values", key)
        with self.billing.sending("deleted", 1) as bill:
            answer = bill.answer = await self._send("delete_value", "DELETE", path)
        if not key_is_missing(answer):
            self._successful("delete", answer)

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """Remove up to 10,000 keys; returns the keys that were *not* removed."""
        if not keys:
            return frozenset()
        unique = dict.fromkeys(keys)
        checks.check_pairs("bulk delete", unique)
        checks.encoded_keys("bulk delete", unique)
        with self.billing.sending("deleted", len(unique)) as bill:
            answer = bill.answer = await self._bulk_delete(namespace, [codec.encode_keys(list(unique))])
        return self._unsuccessful("bulk delete", answer, unique)

    async def _bulk_delete(self, namespace: NamespaceId, body: list[bytes]) -> Answer:
        """Delete by POST …/bulk/delete, or by DELETE …/bulk where the server does not know the former."""
        if self._posts_deletes:
            path = self._path(namespace, "bulk", "delete")
            answer = await self._send("bulk_delete", "POST", path, body=list(body), splittable=True)
            if answer.status not in (404, 405) or isinstance(
                self._error("bulk delete", answer), NamespaceNotFoundError
            ):
                return answer
            self._posts_deletes = False
        path = self._path(namespace, "bulk")
        return await self._send("bulk_delete", "DELETE", path, body=body, splittable=True)

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: list[bytes] | None = None,
        content_type: str = request.JSON,
        limit: int = PLAIN_ANSWER,
        splittable: bool = False,
        seconds: float = 0.0,
    ) -> Answer:
        """Send one request; return one whole answer of at most `limit` bytes. `splittable`: half of it would be easier.

        `seconds` without progress are the end of it, instead of the usual number. `body` is empty afterwards. Raises
        `UnavailableError` for everything that keeps the answer from arriving.
        """
        with trio.CancelScope() as scope:
            seconds = seconds or max(self._timeout, _LEAST_SECONDS.get(operation, 0.0))
            patience = Patience(scope, seconds)
            upload = UploadStream(body or [], patience)
            prepared = self._request(method, path, query or {}, upload, content_type)
            prepared.extensions["timeout"] |= {"read": seconds}
            try:
                with self.billing.asking(operation):
                    answer = await exchange(self._client, prepared, limit, patience)
                    self._on_answer(answer.headers)
                    return answer
            except AnswerTooLongError as exc:
                raise (BodyTooLargeError if splittable else UnavailableError)(f"{operation}: {exc}") from exc
            except httpx.LocalProtocolError:  # quotes the header it dislikes, and one of them is the token
                raise NotSentError(f"{operation}: the request cannot be sent") from None
            except (httpx.ReadTimeout, httpx.WriteTimeout):
                raise _too_slow(operation, seconds) from None
            except httpx.HTTPError as exc:  # its text, and that of its causes, may quote what the server sent
                error = unavailable(operation, exc)
                raise type(error)(self._scrub(str(error))) from None
            finally:
                upload.let_go()
        raise _too_slow(operation, seconds)

    def _request(
        self, method: str, path: str, query: Mapping[str, object], upload: UploadStream, content_type: str
    ) -> httpx.Request:
        headers = dict(self._auth.headers())
        if not upload.size and method != "PUT":
            return request.build(self._client, method, path, query, headers)
        headers |= {"content-type": content_type, "content-length": str(upload.size)}
        prepared = request.build(self._client, method, path, query, headers)
        prepared.stream = upload
        return prepared

    def _path(self, namespace: NamespaceId, *words: str) -> str:
        return "/".join([request.namespace_path(self._namespaces, namespace), *words])

    def _key_path(self, namespace: NamespaceId, family: str, key: Key) -> str:
        return self._path(namespace, family, request.key_segment(family, key))

    def _successful(self, what: str, answer: Answer) -> codec.Envelope:
        return successful(what, answer, now=self._now(), scrub=self._scrub)

    def _error(self, what: str, answer: Answer) -> StoreError:
        return error_of(what, answer, answer.envelope(), now=self._now(), scrub=self._scrub)

    def _scrub(self, text: str) -> str:
        return scrubbed(text, self._auth.secrets())

    def _namespace(self, what: str, answer: Answer) -> Namespace:
        return shaped(what, codec.decode_namespace, self._successful(what, answer).result)

    def _values(self, answer: Answer) -> dict[str, Entry | None]:
        return shaped("bulk get", bulk_values.decode_values, self._successful("bulk get", answer).result)

    def _unsuccessful(self, what: str, answer: Answer, asked: Iterable[Key]) -> frozenset[Key]:
        """Return the keys that were asked for and not done. Raises `UncertainError` when the answer does not add up."""
        done, named = shaped(what, codec.decode_bulk_result, self._successful(what, answer).result)
        keys, failed = frozenset(asked), frozenset(Key(name) for name in named)
        if not failed <= keys or (done is not None and done != len(keys) - len(failed)):
            told = f"{done} keys done and {len(failed)} not, of {len(keys)} that were asked for"
            raise UncertainError(f"{what}: the answer does not add up: {told}")
        return failed


def _too_slow(operation: str, seconds: float) -> UnavailableError:
    message = f"{operation}: no progress within {seconds:g} s"
    return BodyTooLargeError(message) if operation in _LEAST_SECONDS else NoAnswerError(message)


def _in_order(keys: Iterable[KeyInfo], prefix: str) -> tuple[KeyInfo, ...]:
    """Return the keys with the prefix, once each, in UTF-8 order (which is Python's order of text)."""
    unique = {key.key: key for key in keys if key.key.startswith(prefix)}
    return tuple(unique[key] for key in sorted(unique))


async def _off_loop(size: int, work: Callable[[], T]) -> T:
    """Do `work`, in a thread when it is about that many bytes."""
    return await trio.to_thread.run_sync(work) if size > OFF_LOOP_BYTES else work()
