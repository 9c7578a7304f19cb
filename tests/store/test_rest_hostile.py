"""Hostile servers: the client against ones that lie, stall, bomb and redirect."""

import gzip
import itertools
import logging
from email.utils import formatdate

import httpx
import pytest
import trio
from support.hostile import answering, failure, http

from kvfs.core import errors
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.rest import client, request
from kvfs.store.rest.bearer import BearerToken
from kvfs.store.rest.client import RestStore, open_rest

TOKEN = "token-that-must-not-leak"
ACCOUNT = "acc"
NS = NamespaceId("0123456789abcdef0123456789abcdef")
K = Key("k")
OK = http(b'{"success":true,"result":null,"errors":[],"messages":[]}')


def opened(server, **options):
    return open_rest(base_url=server.url, account=ACCOUNT, token=TOKEN, **options)


async def each_operation(store: RestStore):
    """Return every operation of the protocol, as functions to call."""
    return {
        "list_namespaces": store.list_namespaces,
        "create_namespace": lambda: store.create_namespace("t"),
        "get_namespace": lambda: store.get_namespace(NS),
        "rename_namespace": lambda: store.rename_namespace(NS, "t"),
        "delete_namespace": lambda: store.delete_namespace(NS),
        "list_keys": lambda: store.list_keys(NS),
        "get": lambda: store.get(NS, K),
        "get_metadata": lambda: store.get_metadata(NS, K),
        "bulk_get": lambda: store.bulk_get(NS, [K]),
        "put": lambda: store.put(NS, K, Entry(b"v")),
        "bulk_put": lambda: store.bulk_put(NS, {K: Entry(b"v")}),
        "delete": lambda: store.delete(NS, K),
        "bulk_delete": lambda: store.bulk_delete(NS, [K]),
    }


NONSENSE = {
    "garbage": http(b"}{"),
    "html 502": http(b"<html>", 502, content_type="text/html"),
    "html 404": http(b"<html>", 404, content_type="text/html"),
    "html 400": http(b"<html>", 400, content_type="text/html"),
    "html 418": http(b"<html>", 418, content_type="text/html"),
    "404 of another API": failure(404, 7000),
    "truncated": http(b'{"success":true,"result":[]}')[:-5],
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "nothing": b"",
    "500": failure(500, 10500),
    "redirect": http(b"", 302, "Location: /elsewhere"),
    "not modified": http(b"", 304),
    "no content": b"HTTP/1.1 204 X\r\n\r\n",
    "failure without reason": http(b'{"success":false,"errors":[],"result":null}'),
    "deep": http(b"[" * 100_000),
    "unasked encoding": http(b"{}", 200, "Content-Encoding: br"),
    "double encoding": http(gzip.compress(gzip.compress(b"{}")), 200, "Content-Encoding: gzip, gzip"),
    "damaged gzip": http(b"\x1f\x8b nonsense", 200, "Content-Encoding: gzip"),
    "half of a gzip": http(gzip.compress(bytes(1000))[:-9], 200, "Content-Encoding: gzip"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
async def test_nonsense_is_unavailability_for_every_operation(nonsense):
    """A page of a proxy, half an answer or garbage makes the store unavailable, and rejects or confirms nothing."""
    async with answering(NONSENSE[nonsense]) as server, opened(server) as store:
        for name, operation in (await each_operation(store)).items():
            if (name, nonsense) in {("get", "garbage"), ("get", "failure without reason"), ("get", "deep")}:
                continue  # a value may be any bytes
            with pytest.raises(errors.UnavailableError):
                await operation()


WRONG_SHAPES = [
    b'{"success":true}',
    b'{"success":true,"result":7,"result_info":null}',
    b'{"success":true,"result":[7]}',
    b'{"success":true,"result":{"values":{"k":7}}}',
    b'{"success":true,"result":{"values":{"k":true}}}',
    b'{"success":true,"result":{"values":{"k":{"value":7,"metadata":null}}}}',
    b'{"success":true,"result":{"values":{"k":{"metadata":null}}}}',
    b'{"success":true,"result":{"values":{}}}',
    b'{"success":true,"result":{"values":{"other":null}}}',
    b'{"success":true,"result":{"values":{"k":{"value":"\\ud800","metadata":null}}}}',
    b'{"success":"yes","result":{"values":{"k":null}}}',
    b"null",
]


@pytest.mark.parametrize("body", WRONG_SHAPES)
async def test_a_bulk_get_of_the_wrong_shape_is_no_answer(body):
    """A bulk get of the wrong shape is no answer: a key is absent only when the server says null for it."""
    async with answering(http(body)) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.bulk_get(NS, [K])


@pytest.mark.parametrize(
    "result", [b"7", b'"x"', b"[]", b'{"unsuccessful_keys":7}', b'{"unsuccessful_keys":["x"]}']
)
async def test_a_bulk_put_that_reports_strange_keys_is_repeated(result):
    """All keys of a bulk put have failed if its answer does not say which of them did."""
    async with answering(http(b'{"success":true,"result":%b}' % result)) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.bulk_put(NS, {K: Entry(b"v")})


REFUSALS = [
    (failure(401, 10000), errors.DeniedError),
    (failure(403, 10001), errors.DeniedError),
    (http(b"<html>", 403), errors.BlockedError),
    (http(b"<html>", 401), errors.BlockedError),
    (http(b"<html>", 503, "cf-mitigated: challenge"), errors.BlockedError),
    (http(b"<html>", 503), errors.UnavailableError),
    (failure(401, 4711), errors.DeniedError),
    (failure(403, 10033), errors.DeniedError),
    (failure(400, 6003), errors.DeniedError),
    (failure(400, 9103), errors.DeniedError),
    (failure(400, 9106), errors.DeniedError),
    (failure(400, 9109), errors.DeniedError),
    (failure(400, 10502), errors.DeniedError),
    (failure(400, 1000, "Invalid API Token"), errors.DeniedError),
    (failure(500, 1000, "Internal Server Error"), errors.UnavailableError),
    (failure(400, 10000), errors.UnknownRefusalError),
    (failure(400, 10001), errors.UnknownRefusalError),
    (failure(403, 10037), errors.DeniedError),
    (failure(400, 10037), errors.DeniedError),
    (failure(403, 10026), errors.AccountError),
    (failure(400, 10017), errors.AccountError),
    (failure(400, 10010), errors.NamespaceNotFoundError),
    (failure(400, 10038), errors.NamespaceNotFoundError),
    (http(b'{"success":false,"errors":[null,7,{"code":"10013"}]}', 404), errors.NamespaceNotFoundError),
    (http(b'{"success":false,"errors":[{"code":7},{"code":10013.0}]}', 404), errors.NamespaceNotFoundError),
    (
        http(b'{"success":false,"errors":[{"code":1,"error_chain":[{"code":6111}]}]}', 400),
        errors.DeniedError,
    ),
    (http(b'{"success":false,"errors":[{"code":1,"error_chain":[null]}]}', 400), errors.UnknownRefusalError),
    (http(b'{"success":false,"errors":7}', 400), errors.UnknownRefusalError),
    (http(b'{"success":false,"errors":[]}', 500), errors.UnavailableError),
    (failure(400, 7003), errors.DeniedError),
    (failure(429, 10048), errors.QuotaError),
    (failure(403, 10048), errors.QuotaError),
    (http(b'{"success":false,"errors":[{"code":10048}]}'), errors.QuotaError),
    (failure(404, 10013), errors.NamespaceNotFoundError),
    (failure(400, 10011), errors.NamespaceNotFoundError),
    (failure(400, 10014), errors.TitleExistsError),
    (failure(400, 10029, "a non-text value"), errors.NotTextError),
    (failure(400, 10029, "a maximum of 100 keys"), errors.RejectedError),
    (failure(400, 10033), errors.RejectedError),
    (failure(414, 5), errors.UnknownRefusalError),
    (failure(400, 4711), errors.UnknownRefusalError),
    (failure(429, 971), errors.RateLimitedError),
    (failure(400, 971), errors.RateLimitedError),
    (http(b"<html>", 429), errors.RateLimitedError),
    (http(b"<html>", 413), errors.BodyTooLargeError),
    (http(b"<html>", 524), errors.BodyTooLargeError),
    (failure(503, 10500), errors.UnavailableError),
]


@pytest.mark.parametrize(("answer", "expected"), REFUSALS)
async def test_each_refusal_has_its_error(answer, expected):
    """Status and code of a refusal become the error that says what to do."""
    async with answering(answer) as server, opened(server) as store:
        with pytest.raises(errors.StoreError) as caught:
            await store.bulk_put(NS, {K: Entry(b"v")})
        assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("-3", 0), ("soon", None), ("nan", None), ("inf", None), ("9" * 30, 86400)],
)
async def test_retry_after_is_read_with_suspicion(header, seconds):
    """Retry-After is taken within reason, and a malformed one is ignored."""
    answer = failure(429, 971, "slow", f"Retry-After: {header}")
    async with answering(answer) as server, opened(server) as store:
        with pytest.raises(errors.RateLimitedError) as caught:
            await store.get(NS, K)
        assert caught.value.retry_after == seconds


async def test_retry_after_may_be_a_date():
    """Retry-After may be an HTTP date, which is a wait from now on."""
    now = 1_800_000_000.0
    answer = failure(503, 1, "later", f"Retry-After: {formatdate(now + 90, usegmt=True)}")
    async with answering(answer) as server, opened(server) as store:
        dated = RestStore(store._client, ACCOUNT, BearerToken(TOKEN), now=lambda: now)
        with pytest.raises(errors.UnavailableError) as caught:
            await dated.get(NS, K)
        assert caught.value.retry_after == 90


async def test_a_redirect_never_carries_the_token_elsewhere():
    """A redirect is not followed, so the token goes nowhere else."""
    async with answering(OK) as thief, answering(http(b"", 307, f"Location: {thief.url}/x")) as server:
        async with opened(server) as store:
            for operation in (await each_operation(store)).values():
                with pytest.raises(errors.UnavailableError):
                    await operation()
        assert thief.heads == []
        assert TOKEN in server.heads[0]


@pytest.mark.parametrize(
    ("operation", "limit"),
    [("get", client.VALUE_ANSWER), ("list_keys", client.PLAIN_ANSWER), ("bulk_get", client.BULK_ANSWER)],
)
async def test_an_answer_is_only_read_up_to_its_limit(operation, limit):
    """An answer is read up to its limit only, in the size that it unpacks to."""
    bomb = gzip.compress(bytes(limit + 1), compresslevel=1)
    async with answering(http(bomb, 200, "Content-Encoding: gzip")) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError, match=f"longer than {limit} bytes") as caught:
            await (await each_operation(store))[operation]()
        assert isinstance(caught.value, errors.BodyTooLargeError) == (operation == "bulk_get")


async def test_a_body_without_end_is_cut_off():
    """A body without end is cut off, long before ten gigabytes."""

    async def flood(stream):
        await stream.send_all(b"HTTP/1.1 200 X\r\n\r\n")
        while True:
            await stream.send_all(bytes(1 << 20))

    async with answering(flood) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError, match="longer than"):
            await store.list_keys(NS)


async def test_a_compressed_answer_is_read():
    """A compressed answer is asked for and understood."""
    body = gzip.compress(b'{"success":true,"result":[{"name":"a"}],"result_info":{"cursor":""}}')
    async with answering(http(body, 200, "Content-Encoding: gzip")) as server, opened(server) as store:
        assert [key.key for key in (await store.list_keys(NS)).keys] == ["a"]
        assert "Accept-Encoding: gzip" in server.heads[0] or "accept-encoding: gzip" in server.heads[0]


async def test_a_slow_drip_ends_after_the_time_out(autojump_clock):
    """A slow drip ends after the time-out, because a byte a second is no progress."""

    async def drip(stream):
        await stream.send_all(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100_000):
            await stream.send_all(b" ")
            await trio.sleep(1)

    async with answering(drip) as server, opened(server, timeout=30) as store:
        started = trio.current_time()
        with pytest.raises(errors.UnavailableError, match="no progress within 30 s"):
            await store.list_keys(NS)
        assert trio.current_time() - started == pytest.approx(30, abs=2)


async def test_a_server_that_never_answers_is_left(autojump_clock):
    """A server that never answers is left at a bound, and a big body that stalls asks for smaller pieces."""

    async def stall(stream):
        await trio.sleep_forever()

    async with answering(stall) as server, opened(server, timeout=30) as store:
        with pytest.raises(errors.UnavailableError):
            await store.get(NS, K)
        with pytest.raises(errors.BodyTooLargeError):
            await store.bulk_put(NS, {K: Entry(b"v")})


async def test_nobody_listening_is_unavailability():
    """A refused connection makes the store unavailable."""
    async with answering(OK) as server:
        pass
    async with opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.get(NS, K)


@pytest.mark.parametrize("key", ["", ".", "..", "x" * 513, "é" * 257, "\ud800"])
async def test_a_key_that_kv_cannot_hold_never_becomes_a_request(key):
    """A key that KV cannot hold, `..` above all, never becomes a request: its DELETE would reach the namespace."""
    key = Key(key)
    async with answering(OK) as server, opened(server) as store:
        for call in (
            store.get(NS, key),
            store.get_metadata(NS, key),
            store.put(NS, key, Entry(b"")),
            store.delete(NS, key),
            store.bulk_get(NS, [K, key]),
            store.bulk_put(NS, {K: Entry(b""), key: Entry(b"")}),
            store.bulk_delete(NS, [K, key]),
        ):
            with pytest.raises(errors.RejectedError):
                await call
        assert server.heads == []


@pytest.mark.parametrize("namespace", ["", ".", "..", "a/b", "a?b", "a%2e", "x" * 65])
async def test_a_namespace_id_that_would_bend_the_url_names_nothing(namespace):
    """A namespace id that would bend the URL is refused, because ids come from the server too."""
    async with answering(OK) as server, opened(server) as store:
        with pytest.raises(errors.NamespaceNotFoundError):
            await store.delete_namespace(NamespaceId(namespace))
        assert server.heads == []


@pytest.mark.parametrize(
    "key", ["a/b", "...", "%2e%2e", "a b", "+", "é", "~!$&'()*+,;=:@", "\x00\x1f^", "?#", "\\"]
)
async def test_a_key_is_one_path_segment_whatever_it_is(key):
    """A key arrives as one percent-encoded path segment, whatever a URL library makes of it."""
    from urllib.parse import quote

    async with answering(OK) as server, opened(server) as store:
        await store.delete(NS, Key(key))
    expected = f"/client/v4/accounts/acc/storage/kv/namespaces/{NS}/values/{quote(key, safe='')}"
    assert server.lines == [f"DELETE {expected} HTTP/1.1"]


@pytest.mark.parametrize("path", ["/a/..", "/a/./b", "/..", "/a b", "/a?b"])
async def test_a_path_that_would_be_tidied_up_is_not_sent(path):
    """A URL that httpx altered is not sent, as the last line of defence."""
    async with httpx.AsyncClient(base_url="http://127.0.0.1/client/v4") as client:
        with pytest.raises(errors.RejectedError):
            request.build(client, "DELETE", path, {"query": "x"})
        assert request.build(client, "GET", "/a/%2E", {}).url.raw_path == b"/client/v4/a/%2E"


async def test_keys_of_a_listing_are_filtered_and_put_in_order():
    """Keys of a listing that KV cannot hold, that were not asked for, or that come twice are dropped.

    The rest is sorted.
    """
    names = ["pb", "p..", "..", ".", "", "x", "pa", "pa", "p" + "x" * 512, "p\U0001f600", "p\uff5e"]
    lines = ",".join(f'{{"name":"{name}","unknown":[1]}}' for name in names) + ',{"name":"p\\ud800"}'
    body = f'{{"success":true,"result":[{lines}],"result_info":{{"count":9,"cursor":null}}}}'.encode()
    async with answering(http(body)) as server, opened(server) as store:
        page = await store.list_keys(NS, prefix="p")
    assert [key.key for key in page.keys] == ["p..", "pa", "pb", "p\uff5e", "p\U0001f600"]
    assert page.cursor is None


async def test_an_empty_page_may_have_more_to_come():
    """An empty page may have more to come, because only a missing cursor ends a listing."""
    body = b'{"success":true,"result":[],"result_info":{"count":0,"cursor":"next"}}'
    async with answering(http(body)) as server, opened(server) as store:
        assert (await store.list_keys(NS)).cursor == "next"


async def test_a_cursor_that_repeats_itself_ends_the_listing():
    """A cursor that repeats itself ends the listing, which would go on for ever."""
    body = b'{"success":true,"result":[],"result_info":{"count":0,"cursor":"again"}}'
    async with answering(http(body)) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.list_keys(NS, cursor="again")


async def test_pages_of_namespaces_that_repeat_themselves_end():
    """A server that ignores the page number of namespaces is not asked a thousand times."""
    page = (
        b'{"success":true,"result":[{"id":"%b","title":"t"}],"result_info":{"total_count":99}}' % NS.encode()
    )
    async with answering(http(page)) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.list_namespaces()
        assert len(server.heads) == 2


async def test_endless_new_namespaces_end(monkeypatch):
    """Endless new namespaces end, because everything a server may claim has a bound."""
    monkeypatch.setattr(client, "NAMESPACE_PAGES", 5)
    ids = itertools.count()

    async def page(stream):
        body = b'{"success":true,"result":[{"id":"%d","title":"t"}],"result_info":{"total_count":99}}' % next(
            ids
        )
        await stream.send_all(http(body))

    async with answering(page) as server, opened(server) as store:
        with pytest.raises(errors.UnavailableError):
            await store.list_namespaces()
        assert len(server.heads) == 5


async def test_namespaces_without_paging_are_one_request():
    """A short page of namespaces without a total is the last, and ids that no URL can hold are left out."""
    lines = b'{"id":"..","title":"x"},{"id":"a1","title":"t","mode":"instant","beta":1}'
    body = b'{"success":true,"result":[%b]}' % lines
    async with answering(http(body)) as server, opened(server) as store:
        assert [(one.id, one.mode) for one in await store.list_namespaces()] == [("a1", "instant")]
        assert len(server.heads) == 1


async def test_bulk_delete_falls_back_once_and_remembers():
    """A server without POST bulk/delete is asked with DELETE bulk from then on."""
    async with answering(http(b"no route", 404), OK) as server, opened(server) as store:
        assert await store.bulk_delete(NS, [K]) == frozenset()
        assert await store.bulk_delete(NS, [K]) == frozenset()
        assert [line.split(" ")[0] for line in server.lines] == ["POST", "DELETE", "DELETE"]
        assert server.bodies == [b'["k"]'] * 3


async def test_bulk_delete_in_a_namespace_that_is_gone_does_not_fall_back():
    """A 404 with a code of KV is an answer and no missing route, so bulk delete does not fall back."""
    async with answering(failure(404, 10013)) as server, opened(server) as store:
        with pytest.raises(errors.NamespaceNotFoundError):
            await store.bulk_delete(NS, [K])
        assert len(server.heads) == 1


async def test_unsuccessful_keys_are_returned():
    """Unsuccessful keys are returned, because a partial failure is no error."""
    body = b'{"success":true,"result":{"successful_key_count":1,"unsuccessful_keys":["k"]}}'
    async with answering(http(body)) as server, opened(server) as store:
        assert await store.bulk_put(NS, {K: Entry(b"v"), Key("l"): Entry(b"")}) == {K}


async def test_metadata_with_half_a_surrogate_pair_is_kept_as_it_is():
    """Metadata with half a surrogate pair, which JavaScript writes, neither hides the listing nor changes."""
    metadata = b'{"x":"\\ud800 \\ud83d\\ude00 \\\\ud800"}'
    body = b'{"success":true,"result":[{"name":"k","metadata":%b}]}' % metadata
    async with answering(http(body), OK) as server, opened(server) as store:
        (line,) = (await store.list_keys(NS)).keys
        assert line.metadata == metadata
        await store.put(NS, K, Entry(b"", line.metadata))
        assert metadata in server.bodies[1]


async def test_the_token_is_nowhere_but_in_the_header(caplog):
    """The token is in no repr, no error and no log, not even with everything logged."""
    caplog.set_level(logging.DEBUG)
    async with answering(failure(401, 10000)) as server, opened(server) as store:
        with pytest.raises(errors.DeniedError) as caught:
            await store.get(NS, K)
        told = f"{store!r} {caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert TOKEN in server.heads[0]
    assert TOKEN not in told


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": ""},
        {"token": "a\r\nX: y"},
        {"token": "ключ"},
        {"account": "../x"},
        {"account": ""},
        {"base_url": "ftp://host"},
        {"base_url": "http://user:secret@host/"},
        {"base_url": "http://host/?q"},
        {"base_url": "nonsense"},
    ],
)
async def test_what_cannot_be_a_source_is_refused_at_once(wrong):
    """A wrong source is refused at once with one clear line that quotes no secret."""
    given = {"base_url": "http://127.0.0.1:1", "account": "a", "token": "t"} | wrong
    with pytest.raises(errors.UserError) as caught:
        async with open_rest(**given):
            pass
    assert "secret" not in str(caught.value)


async def test_too_much_is_refused_before_it_is_sent():
    """A value, metadata or number of keys above KV's limits is refused before it is sent, with the limit."""
    async with answering(OK) as server, opened(server) as store:
        for call in (
            store.put(NS, K, Entry(bytes(26_214_401))),
            store.put(NS, K, Entry(b"", b'"%b"' % (b"x" * 1023))),
            store.put(NS, K, Entry(b"", b"{")),
            store.bulk_put(NS, {K: Entry(b"", b"{")}),
            store.bulk_put(NS, {Key(str(number)): Entry(b"") for number in range(10_001)}),
            store.bulk_delete(NS, [Key(str(number)) for number in range(10_001)]),
            store.bulk_get(NS, [Key(str(number)) for number in range(101)]),
            store.create_namespace(""),
            store.rename_namespace(NS, "x" * 513),
        ):
            with pytest.raises(errors.RejectedError):
                await call
        with pytest.raises(errors.BodyTooLargeError):
            await store.bulk_put(NS, {K: Entry(b"\xff" * 20_000_000)})
        assert server.heads == []
        assert await store.bulk_put(NS, {}) == frozenset()
        assert await store.bulk_delete(NS, []) == frozenset()
        assert await store.bulk_get(NS, []) == {}
        assert server.heads == []
