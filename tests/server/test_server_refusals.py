"""Bad input to the server: the right status and code, an envelope, nothing stored, no traceback."""

import json
import time

import pytest

from kvfs.core.model import Entry, Key

MISSING = "f" * 32
NOW = int(time.time())


def pairs(count, **fields):
    return [{"key": f"k{number}", "value": "v"} | fields for number in range(count)]


JSON_BODIES = {
    "not JSON": ("PUT", "bulk", b"[{", 400, 10012),
    "not UTF-8": ("PUT", "bulk", b'[{"key":"\xff","value":""}]', 400, 10012),
    "an object for a list": ("PUT", "bulk", b"{}", 400, 10012),
    "a number for a pair": ("PUT", "bulk", b"[7]", 400, 10012),
    "no value": ("PUT", "bulk", b'[{"key":"k"}]', 400, 10012),
    "a number for a value": ("PUT", "bulk", b'[{"key":"k","value":7}]', 400, 10012),
    "text for an expiration": ("PUT", "bulk", b'[{"key":"k","value":"","expiration":"soon"}]', 400, 10012),
    "deep": ("PUT", "bulk", b"[" * 100_000, 400, 10012),
    "deep metadata": (
        "PUT", "bulk", b'[{"key":"k","value":"","metadata":%b}]' % (b"[" * 5000 + b"]" * 5000), 400, 10012,
    ),
    "nothing": ("PUT", "bulk", b"", 400, 10012),
    "10,001 pairs": ("PUT", "bulk", json.dumps(pairs(10_001)).encode(), 400, 10012),
    "10,001 deletes": ("POST", "bulk/delete", json.dumps(["k"] * 10_001).encode(), 400, 10012),
    "numbers to delete": ("POST", "bulk/delete", b"[7]", 400, 10012),
    "an object to delete": ("DELETE", "bulk", b"{}", 400, 10012),
    "a key of 513 bytes": ("PUT", "bulk", json.dumps([{"key": "x" * 513, "value": ""}]).encode(), 400, 10012),
    "an empty key": ("PUT", "bulk", json.dumps([*pairs(2), {"key": "", "value": ""}]).encode(), 400, 10012),
    "the key ..": ("PUT", "bulk", json.dumps([*pairs(2), {"key": "..", "value": ""}]).encode(), 400, 10012),
    "bad base64": ("PUT", "bulk", json.dumps(pairs(2, value="!", base64=True)).encode(), 400, 10012),
    "base64 of a lone character": (
        "PUT", "bulk", json.dumps(pairs(2, value="/wAAA", base64=True)).encode(), 400, 10012,
    ),
    "base64 above its limit": (
        "PUT", "bulk", json.dumps(pairs(1, value="A" * 26_214_404, base64=True)).encode(), 400, 10012,
    ),
    "big metadata": (
        "PUT", "bulk", json.dumps([*pairs(2), *pairs(1, key="m", metadata="x" * 1023)]).encode(), 400, 10012,
    ),
    "expired": ("PUT", "bulk", json.dumps(pairs(2, expiration=NOW - 5)).encode(), 400, 10033),
    "expires in 30 s": ("PUT", "bulk", json.dumps(pairs(2, expiration=NOW + 30)).encode(), 400, 10033),
    "ttl of 59 s": ("PUT", "bulk", json.dumps(pairs(2, expiration_ttl=59)).encode(), 400, 10034),
    "a key twice": ("PUT", "bulk", b'[{"key":"k","value":"1"},{"key":"k","value":"2"}]', 400, 10012),
    "a key twice, other expiration": (
        "PUT", "bulk", b'[{"key":"k","value":""},{"key":"k","value":"","expiration_ttl":99}]', 400, 10012,
    ),
    "101 keys to get": (
        "POST", "bulk/get", json.dumps({"keys": [str(n) for n in range(101)]}).encode(), 400, 10029,
    ),
    "no keys to get": ("POST", "bulk/get", b'{"keys":[]}', 400, 10029),
    "keys of the wrong type": ("POST", "bulk/get", b'{"keys":7}', 400, 10012),
    "unknown type": ("POST", "bulk/get", b'{"keys":["k"],"type":"arrayBuffer"}', 400, 10012),
    "a bad key to get": ("POST", "bulk/get", b'{"keys":[".."]}', 400, 10012),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_BODIES)
async def test_a_bad_body_is_refused_whole(http, base, store, namespace, case):
    """A bad body is refused whole, with status and code of the reason, and none of its pairs is stored."""
    method, path, body, status, code = JSON_BODIES[case]
    answer = await http.request(method, f"{base}/{path}", content=body)
    await refused(answer, status, code, store, namespace)


VALUES = {
    "a key of 513 bytes": ("x" * 513, {}, b"v", {}, 400, 10012),
    "a key that is not UTF-8": ("%ff", {}, b"v", {}, 400, 10012),
    "an expiration in the past": ("k", {"expiration": NOW - 5}, b"v", {}, 400, 10033),
    "an expiration too near": ("k", {"expiration": NOW + 30}, b"v", {}, 400, 10033),
    "an expiration that is no number": ("k", {"expiration": "soon"}, b"v", {}, 400, 10033),
    "a ttl of 59": ("k", {"expiration_ttl": 59}, b"v", {}, 400, 10034),
    "a ttl that is no number": ("k", {"expiration_ttl": "x"}, b"v", {}, 400, 10034),
    "25 MiB and one byte": ("k", {}, bytes(26_214_401), {}, 413, 10413),
    "multipart without a boundary": ("k", {}, b"v", {"content-type": "multipart/form-data"}, 400, 10012),
    "broken multipart": ("k", {}, b"v", {"content-type": "multipart/form-data; boundary=x"}, 400, 10012),
    "half a multipart": (
        "k", {}, b'--x\r\nContent-Disposition: form-data; name="value"\r\n\r\nv',
        {"content-type": "multipart/form-data; boundary=x"}, 400, 10012,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
async def test_a_bad_put_is_refused(http, base, store, namespace, case):
    """A bad put is refused before anything is stored."""
    key, query, body, headers, status, code = VALUES[case]
    answer = await http.put(f"{base}/values/{key}", params=query, content=body, headers=headers)
    await refused(answer, status, code, store, namespace)


MULTIPARTS = {
    "no value": ({"metadata": (None, b"{}")}, 400, 10047),
    "metadata that is no JSON": ({"value": (None, b"v"), "metadata": (None, b"{")}, 400, 10147),
    "empty metadata": ({"value": (None, b"v"), "metadata": (None, b"")}, 400, 10147),
    "blank metadata": ({"value": (None, b"v"), "metadata": (None, b" \n")}, 400, 10147),
    "metadata that is not UTF-8": ({"value": (None, b"v"), "metadata": (None, b'"\xff"')}, 400, 10147),
    "metadata of 1,025 bytes": (
        {"value": (None, b"v"), "metadata": (None, b'"%b"' % (b"x" * 1023))}, 400, 10012,
    ),
    "a value of 25 MiB and a byte": ({"value": ("f", bytes(26_214_401))}, 413, 10413),
}  # fmt: skip


@pytest.mark.parametrize("case", MULTIPARTS)
async def test_a_bad_multipart_is_refused(http, base, store, namespace, case):
    """A bad multipart is refused, whichever part is wrong."""
    files, status, code = MULTIPARTS[case]
    answer = await http.put(f"{base}/values/k", files=files)
    await refused(answer, status, code, store, namespace)


PATHS = {
    "unknown namespace": ("GET", f"/{MISSING}", 404, 10013),
    "keys of an unknown namespace": ("GET", f"/{MISSING}/keys", 404, 10013),
    "a value in an unknown namespace": ("PUT", f"/{MISSING}/values/k", 404, 10013),
    "bulk in an unknown namespace": ("PUT", f"/{MISSING}/bulk", 404, 10013),
    "deleting an unknown namespace": ("DELETE", f"/{MISSING}", 404, 10013),
    "a malformed namespace": ("GET", "/xyz", 400, 10011),
    "a missing key": ("GET", "/NS/values/missing", 404, 10009),
    "metadata of a missing key": ("GET", "/NS/metadata/missing", 404, 10009),
    "an empty key": ("GET", "/NS/values/", 404, 7000),
    "a key with a bare slash": ("GET", "/NS/values/a/b", 404, 7000),
    "a slash after the namespace": ("DELETE", "/NS/", 404, 7000),
    "an escaped dot": ("DELETE", "/NS/values/%2e%2e", 400, 10012),
    "a bad cursor": ("GET", "/NS/keys?cursor=%21%21", 400, 10012),
    "a cursor that is no key": ("GET", "/NS/keys?cursor=_w==", 400, 10012),
    "a limit of 9": ("GET", "/NS/keys?limit=9", 400, 10012),
    "a limit of 1001": ("GET", "/NS/keys?limit=1001", 400, 10012),
    "a limit that is no number": ("GET", "/NS/keys?limit=x", 400, 10012),
    "page 0": ("GET", "?page=0", 400, 10012),
    "1001 namespaces a page": ("GET", "?per_page=1001", 400, 10012),
    "an unknown order": ("GET", "?order=size", 400, 10012),
    "an unknown method": ("PATCH", "/NS", 405, 10405),
    "an unknown path": ("GET", "/NS/nothing", 404, 7000),
}  # fmt: skip


@pytest.mark.parametrize("case", PATHS)
async def test_a_bad_path_or_query_is_refused(http, server, store, namespace, case):
    """A bad path or query is refused, and the namespace is still there afterwards."""
    method, path, status, code = PATHS[case]
    url = server.namespaces + path.replace("NS", namespace)
    await refused(await http.request(method, url), status, code, store, namespace)


async def test_dots_as_a_path_segment_do_not_reach_the_namespace(server, store, namespace):
    """Dots as a path segment never reach the namespace, because this server, unlike some clients, shortens no path."""
    import trio

    path = f"/client/v4/accounts/{server.account}/storage/kv/namespaces/{namespace}/values/.."
    stream = await trio.open_tcp_stream("127.0.0.1", server.port)
    request = f"DELETE {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token}\r\n\r\n"
    await stream.send_all(request.encode())
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 400")
    await stream.aclose()
    assert (await store.get_namespace(namespace)).id == namespace


TITLES = {
    "no title": (b"{}", 400, 10019),
    "an empty title": (b'{"title":""}', 400, 10019),
    "a number": (b'{"title":7}', 400, 10012),
    "not JSON": (b"title", 400, 10012),
    "513 characters": (json.dumps({"title": "x" * 513}).encode(), 400, 10012),
    "a title that exists": (b'{"title":"the namespace"}', 400, 10014),
    "a huge body": (b" " * 70_000, 413, 10413),
}


@pytest.mark.parametrize("case", TITLES)
async def test_a_bad_title_is_refused(http, server, store, namespace, case):
    """A bad title is refused for a new namespace and for a new name."""
    body, status, code = TITLES[case]
    other = await store.create_namespace("other")
    await refused(await http.post(server.namespaces, content=body), status, code, store, namespace)
    answer = await http.put(f"{server.namespaces}/{other.id}", content=body)
    await refused(answer, status, code, store, namespace)
    assert [one.title for one in await store.list_namespaces()] == ["other", "the namespace"]


async def test_a_malformed_account_leads_nowhere(http, server):
    """A malformed account gives 400 with code 7003."""
    answer = await http.get(f"{server.url}/accounts/a%2Fb/storage/kv/namespaces")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 7003)


async def test_a_binary_value_fails_a_whole_bulk_get(http, base, store, namespace):
    """A binary value fails a whole bulk get of text or JSON, with the API's words."""
    await store.bulk_put(
        namespace, {Key("b"): Entry(b"\xff"), Key("t"): Entry(b"text"), Key("j"): Entry(b"[1]")}
    )
    for keys, kind, words in (
        (["b", "t"], "text", "non-text"),
        (["b"], "json", "non-json"),
        (["t"], "json", "non-json"),
    ):
        answer = await http.post(f"{base}/bulk/get", json={"keys": keys, "type": kind})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["code"] == 10029
        assert words in answer.json()["errors"][0]["message"]
    answer = await http.post(
        f"{base}/bulk/get", json={"keys": ["j", "x"], "type": "json", "withMetadata": True}
    )
    assert answer.json()["result"] == {"values": {"j": {"value": [1], "metadata": None}, "x": None}}


async def test_a_bulk_get_above_25_mib_is_413(http, base, store, namespace):
    """A bulk get above 25 MiB is 413, so that the client asks for less."""
    for name in "ab":
        await store.put(namespace, Key(name), Entry(b"x" * 14_000_000))
    answer = await http.post(f"{base}/bulk/get", json={"keys": ["a", "b"]})
    assert (answer.status_code, answer.json()["success"]) == (413, False)


async def refused(answer, status, code, store, namespace):
    """Check that the answer is an envelope with this error, and that nothing is stored."""
    envelope = answer.json()
    assert (answer.status_code, envelope["errors"][0]["code"]) == (status, code), answer.text[:300]
    assert envelope["success"] is False
    assert envelope["result"] is None
    assert "Traceback" not in answer.text
    assert "/kvfs/" not in answer.text
    assert (await store.list_keys(namespace)).keys == ()
