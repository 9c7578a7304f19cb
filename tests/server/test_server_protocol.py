"""Answers as the API gives them: envelopes, headers, dialects of clients, paging, the token, the log."""

import logging
import time

import pytest
import trio

from kvfs.core.model import Entry, Key

NOW = int(time.time())


async def test_an_operation_without_a_result_answers_an_empty_object(http, base):
    """An operation without a result answers an empty object, because the official SDK refuses null there."""
    for answer in (
        await http.put(f"{base}/values/k", content=b"v"),
        await http.request("DELETE", f"{base}/values/k", headers={"content-type": "application/json"}),
        await http.request("DELETE", base, headers={"content-type": "application/json"}),
    ):
        assert answer.json() == {"result": {}, "success": True, "errors": [], "messages": []}


async def test_metadata_that_is_not_there_is_null(http, base):
    """Missing metadata of an existing key is null, and a missing key is 404."""
    await http.put(f"{base}/values/k", content=b"v")
    assert (await http.get(f"{base}/metadata/k")).json()["result"] is None
    assert (await http.get(f"{base}/metadata/kk")).status_code == 404


async def test_a_value_is_answered_raw_with_its_expiration(http, base):
    """A value is answered as raw octets, with the header only if it expires; the ttl wins over the expiration."""
    now = int(time.time())
    await http.put(
        f"{base}/values/k", content=b"\xff", params={"expiration": now + 9000, "expiration_ttl": 600}
    )
    answer = await http.get(f"{base}/values/k")
    assert answer.content == b"\xff"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert abs(int(answer.headers["expiration"]) - now - 600) < 60
    await http.put(f"{base}/values/k", content=b"")
    answer = await http.get(f"{base}/values/k")
    assert answer.content == b""
    assert "expiration" not in answer.headers


@pytest.mark.parametrize(
    "content_type", [None, "text/plain;charset=UTF-8", "application/json", "multipart/mixed"]
)
async def test_any_body_that_is_no_form_is_the_value(http, base, content_type):
    """Any body that is no form is the value, also JSON with a field called value."""
    headers = {"content-type": content_type} if content_type else {}
    await http.put(f"{base}/values/k", content=b'{"value":"x"}', headers=headers)
    assert (await http.get(f"{base}/values/k")).content == b'{"value":"x"}'


def _part(disposition, content, *headers):
    lines = [f"--B\r\nContent-Disposition: form-data; {disposition}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


FORMS = {
    "undici": _part('name="value"', b"\xff\r\n--b") + _part('name="metadata"', b'{"a": 1}'),
    "undici, file": _part('name="value"; filename="blob"', b"\xff\r\n--b", "Content-Type: application/x-blob")
    + _part('name="metadata"', b'{"a": 1}'),
    "httpx": _part('name="metadata"', b'{"a": 1}', "Content-Type: application/json")
    + _part('name="value"; filename="upload"', b"\xff\r\n--b", "Content-Type: application/octet-stream"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_every_dialect_of_forms_is_understood(http, base, store, namespace, form):
    """Forms with and without file names and types, in any order, are understood, binary to the byte."""
    headers = {"content-type": "Multipart/Form-Data; boundary=B"}
    answer = await http.put(f"{base}/values/k", content=FORMS[form] + b"--B--\r\n", headers=headers)
    assert answer.status_code == 200, answer.text
    assert (await store.get(namespace, Key("k"))).value == b"\xff\r\n--b"
    assert await store.get_metadata(namespace, Key("k")) == b'{"a":1}'


@pytest.mark.parametrize("metadata", [None, b"null", b" null "])
async def test_a_form_may_leave_metadata_out_or_say_null(http, base, store, namespace, metadata):
    """A form that leaves metadata out or says null replaces the old metadata by none."""
    await store.put(namespace, Key("k"), Entry(b"old", b"[1]"))
    files = {"value": (None, b"new")} | ({} if metadata is None else {"metadata": (None, metadata)})
    assert (await http.put(f"{base}/values/k", files=files)).status_code == 200
    assert await store.get_metadata(namespace, Key("k")) is None


async def test_a_bulk_put_counts_exact_duplicates_once(http, base):
    """A bulk put counts exact duplicates once, and refuses differing ones."""
    pair = {"key": "k", "value": "v"}
    answer = await http.put(f"{base}/bulk", json=[pair, pair, {"key": "l", "value": "v", "expiration": None}])
    assert answer.json()["result"] == {"successful_key_count": 2, "unsuccessful_keys": []}
    assert (await http.put(f"{base}/bulk", json=[])).json()["result"]["successful_key_count"] == 0


async def test_both_ways_to_delete_in_bulk(http, base):
    """Both ways to delete in bulk work, also the deprecated one, which wrangler uses."""
    await http.put(f"{base}/bulk", json=[{"key": name, "value": ""} for name in "abc"])
    assert (await http.request("DELETE", f"{base}/bulk", json=["a"])).json()["result"][
        "successful_key_count"
    ] == 1
    assert (await http.post(f"{base}/bulk/delete", json=["b", "x"])).json()["success"] is True
    assert [line["name"] for line in (await http.get(f"{base}/keys?prefix=")).json()["result"]] == ["c"]


async def test_a_bulk_get_of_text_without_metadata(http, base):
    """A bulk get of text without metadata has values by key, null for missing ones."""
    await http.put(f"{base}/bulk", json=[{"key": "a", "value": "1", "metadata": {}, "expiration_ttl": 100}])
    answer = await http.post(f"{base}/bulk/get", json={"keys": ["a", "b", "a"]})
    assert answer.json()["result"] == {"values": {"a": "1", "b": None}}
    answer = await http.post(f"{base}/bulk/get", json={"keys": ["a"], "withMetadata": True})
    assert answer.json()["result"]["values"]["a"]["metadata"] == {}
    assert answer.json()["result"]["values"]["a"]["expiration"] >= NOW + 100


async def test_namespaces_come_in_pages_past_the_end_too(http, server, store):
    """A page of namespaces past the end is empty, because wrangler and the SDK ask until then."""
    for number in range(5):
        await store.create_namespace(f"n{number}")
    url = f"{server.namespaces}?per_page=2&order=title&direction=desc&page="
    pages = [(await http.get(url + str(page))).json() for page in (1, 2, 3, 4)]
    titles = [[one["title"] for one in page["result"]] for page in pages]
    assert titles == [["n4", "n3"], ["n2", "n1"], ["n0"], []]
    assert pages[1]["result_info"] == {
        "page": 2,
        "per_page": 2,
        "count": 2,
        "total_count": 5,
        "total_pages": 3,
    }
    assert pages[0]["result"][0]["supports_url_encoding"] is True


async def test_what_clients_ask_besides_kv_is_answered(http, server):
    """Other requests of clients are answered: accounts, memberships, the user, the token, also the account's."""
    assert (await http.get(f"{server.url}/accounts?page=1")).json()["result"][0]["id"]
    assert (await http.get(f"{server.url}/accounts?page=2")).json()["result"] == []
    assert (await http.get(f"{server.url}/memberships")).json()["result_info"]["total_count"] == 1
    accounts = f"{server.url}/accounts/{server.account}"
    assert (await http.get(accounts)).json()["result"]["id"] == server.account
    assert (await http.get(f"{server.url}/user")).json()["result"]["email"]
    for verify in (f"{server.url}/user/tokens/verify", f"{accounts}/tokens/verify"):
        assert (await http.get(verify)).json()["result"]["status"] == "active"


async def test_a_key_with_an_address_is_as_good_as_a_token(server):
    """The older pair of headers, key and address, is accepted.

    The key alone, a wrong one, or one beside a wrong token is not.
    """
    import httpx

    pair = {"x-auth-key": server.token, "x-auth-email": "ada@example.org"}
    for headers, status in (
        (pair, 200),
        ({"x-auth-key": server.token}, 401),
        ({**pair, "x-auth-key": "wrong"}, 401),
        ({**pair, "authorization": "Bearer wrong"}, 401),
    ):
        async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
            assert (await client.get(server.namespaces)).status_code == status, headers


async def test_a_namespace_says_what_it_was_created_with(http, server):
    """A namespace shows what it was created with when created, looked at, renamed and listed.

    An unknown jurisdiction or mode is refused.
    """
    asked = {"title": "t", "jurisdiction": "eu", "mode": "instant"}
    made = (await http.post(server.namespaces, json=asked)).json()["result"]
    url = f"{server.namespaces}/{made['id']}"
    looked_at = (await http.get(url)).json()["result"]
    renamed = (await http.put(url, json={"title": "u"})).json()["result"]
    listed = (await http.get(server.namespaces)).json()["result"][0]
    for answer in (made, looked_at, renamed, listed):
        assert (answer["jurisdiction"], answer["mode"]) == ("eu", "instant")
    for wrong in ({"jurisdiction": "mars"}, {"mode": "slow"}):
        answer = await http.post(server.namespaces, json={"title": "x", **wrong})
        assert answer.status_code == 400
    plain = (await http.post(server.namespaces, json={"title": "plain"})).json()["result"]
    assert set(plain) == {"id", "title", "supports_url_encoding"}


async def test_numbers_of_a_query_may_have_a_fraction(http, base):
    """A number of a query may have a fraction, as the schema allows, and it is dropped."""
    answer = await http.put(f"{base}/values/k", params={"expiration": f"{NOW + 9000}.75"}, content=b"v")
    assert answer.status_code == 200, answer.text
    assert (await http.get(f"{base}/values/k")).headers["expiration"] == str(NOW + 9000)
    await http.put(f"{base}/values/l", params={"expiration_ttl": "100.5"}, content=b"v")
    assert int((await http.get(f"{base}/values/l")).headers["expiration"]) >= NOW + 100
    listing = (await http.get(f"{base}/keys?limit=10.0")).json()
    assert [row["name"] for row in listing["result"]] == ["k", "l"]
    refused = await http.put(f"{base}/values/k", params={"expiration_ttl": "59.9"}, content=b"v")
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, 10034)


@pytest.mark.parametrize("text", ["AP8=", "AP8", "AP8A", "AA==", "AA=", "AA", ""])
async def test_base64_may_lack_its_padding(http, base, text):
    """Base64 may lack all of its padding or a part."""
    pair = {"key": "k", "value": text, "base64": True}
    assert (await http.put(f"{base}/bulk", json=[pair])).status_code == 200
    expected = {"AP8A": b"\x00\xff\x00", "AP8": b"\x00\xff", "AA": b"\x00", "": b""}[text.rstrip("=")]
    assert (await http.get(f"{base}/values/k")).content == expected


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Basic abc", "test-token-0123456789", "Bearer \xff"],
)
async def test_nothing_is_answered_without_the_token(server, authorization, namespace):
    """Without the token every path answers 401 with code 10000, and nothing happens."""
    import httpx

    headers = {} if authorization is None else {"authorization": authorization.encode("latin-1")}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        for method, url in (
            ("GET", server.namespaces),
            ("DELETE", f"{server.namespaces}/{namespace}"),
            ("GET", f"{server.root}/metrics"),
            ("GET", f"{server.root}/_kvfs/faults"),
        ):
            answer = await client.request(method, url)
            assert (answer.status_code, answer.json()["errors"][0]["code"]) == (401, 10000)
        answer = await client.put(f"{server.namespaces}/{namespace}/values/k", content=bytes(5_000_000))
        assert answer.status_code == 401
    async with server.open_rest() as store:
        assert [one.id for one in await store.list_namespaces()] == [namespace]


async def test_the_scheme_of_the_token_may_be_written_in_any_case(server):
    """The scheme of the token may be written in any case, as RFC 9110 says."""
    import httpx

    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(server.namespaces, headers={"authorization": f"bearer {server.token}"})
        assert answer.status_code == 200


async def test_a_body_is_refused_while_it_still_comes(server, namespace):
    """413 arrives while a body without an announced length still comes and would never end."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    path = f"/client/v4/accounts/{server.account}/storage/kv/namespaces/{namespace}/values/k"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    await stream.send_all(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    sent, answer = 0, b""

    async def send():
        nonlocal sent
        try:
            while True:
                await stream.send_all(chunk)
                sent += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        answer = await stream.receive_some()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)
    assert answer.startswith(b"HTTP/1.1 413")
    assert sent < 100


async def test_a_body_announced_too_long_is_refused_unread(server, namespace):
    """A body announced as ten gigabytes is refused unread."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    path = f"/client/v4/accounts/{server.account}/storage/kv/namespaces/{namespace}/bulk"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    await stream.send_all(f"{head}Content-Length: 10000000000\r\n\r\n".encode())
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 413")
    await trio.aclose_forcefully(stream)


async def test_a_client_that_leaves_half_way_stores_nothing(server, store, namespace):
    """A client that leaves half way stores nothing."""
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    path = f"/client/v4/accounts/{server.account}/storage/kv/namespaces/{namespace}/values/k"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n"
    await stream.send_all(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
    await stream.aclose()
    assert (await store.list_keys(namespace)).keys == ()


async def test_each_request_is_one_line_in_the_log(http, base, caplog):
    """Each request is one line in the log: method, path with the key, status, bytes, milliseconds; never a header."""
    caplog.set_level(logging.INFO, logger="kvfs.access")
    await http.put(f"{base}/values/a%2Fb%0A", content=b"secret value")
    line = [record.getMessage() for record in caplog.records if record.name == "kvfs.access"][-1]
    method, path, status, size, milliseconds = line.split(" ")
    assert (method, status, size) == ("PUT", "200", "54")
    assert path.endswith("/values/a%2Fb%0A")
    assert float(milliseconds) >= 0
    assert "secret" not in line


async def test_metrics_count_requests_and_keys(server, store, namespace):
    """Metrics count requests and keys by operation.

    Keys as they are billed, so a missing one counts, and a listing counts as one.
    """
    await store.bulk_put(namespace, {Key(str(number)): Entry(b"") for number in range(30)})
    await store.list_keys(namespace, limit=10)
    await store.get(namespace, Key("missing"))
    assert await server.requests() == {"create_namespace": 1, "bulk_put": 1, "list_keys": 1, "get_value": 1}
    assert await server.keys() == {"bulk_put": 30, "list_keys": 1, "get_value": 1}


async def test_a_fault_of_the_server_is_told_without_details(caplog, expect_log):
    """An internal error of the server answers 500 and an envelope; the traceback is in the server's log only."""
    from kvfs.server.app import build_app

    expect_log("ERROR kvfs.server: GET /client/v4/.* failed")

    def broken(account):
        raise KeyError("internal detail")

    import httpx

    transport = httpx.ASGITransport(build_app(broken, token="t"))
    async with httpx.AsyncClient(transport=transport, headers={"authorization": "Bearer t"}) as client:
        answer = await client.get("http://x/client/v4/accounts/a/storage/kv/namespaces")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (500, 10500)
    assert "detail" not in answer.text
    assert "internal detail" in caplog.text
