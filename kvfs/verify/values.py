"""Checks of single values: puts, gets, metadata, expirations, deletes, keys that are hard to write in a URL."""

import time
from typing import Final

from kvfs.core.limits import KEY_BYTES
from kvfs.verify.findings import Seen, check
from kvfs.verify.wire import Lab, Reply, rows_of

BINARY: Final = b"\x00\xff\xfe"
HARD_KEYS: Final = ("/a//b/", "a+b%2Fc d?e#f&g", "\u00e9\u4e16\U0001f642")
ODD_KEYS: Final = ("a\x1fb", "a^b", "a...b")


@check("raw put and get", "a value of any bytes comes back as it was put")
async def raw(lab: Lab) -> Seen:
    key = lab.key("raw")
    put = await lab.put(key, BINARY)
    got = await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    return Seen(f"put: {put.status}; get: {got}", put.succeeded and got.body == BINARY)


@check("empty value", "a value of no bytes is a value")
async def empty(lab: Lab) -> Seen:
    key = lab.key("empty")
    put = await lab.put(key, b"")
    got = await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    return Seen(f"put: {put.status}; get: {got}", put.succeeded and got.status == 200 and got.body == b"")


@check("type of a value", "a value is answered as application/octet-stream, or text, never as a web page")
async def content_type(lab: Lab) -> Seen:
    key = lab.key("type")
    await lab.put(key, b"<html>text</html>")
    got = await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    kind = got.headers.get("content-type", "none")
    return Seen(f"content-type: {kind}", got.status == 200 and not kind.startswith("text/html"))


@check("form with a file name", "a form with filename keeps any bytes, and its metadata")
async def form(lab: Lab) -> Seen:
    key = lab.key("form")
    files = {"value": ("blob", BINARY, "application/octet-stream"), "metadata": (None, b'{"a":[1]}')}
    put = await lab.endpoint.send("PUT", lab.path("values", key), files=files)
    got = await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    row = rows_of(await lab.until(lambda: lab.list(key), lambda reply: bool(rows_of(reply))))
    metadata = row.get(key, {}).get("metadata")
    holds = put.succeeded and got.body == BINARY and metadata == {"a": [1]}
    return Seen(f"put: {put.status}; get: {got}; metadata {metadata}", holds)


@check("form without a file name", "noted: kvfs always sends a file name")
async def bare_form(lab: Lab) -> Seen:
    key = lab.key("bare-form")
    put = await lab.endpoint.send("PUT", lab.path("values", key), files={"value": (None, BINARY)})
    got = await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    return Seen(f"put: {put.status}; get: {got}", None)


@check("metadata of one key", "GET metadata answers it, and null where there is none")
async def metadata(lab: Lab) -> Seen:
    plain, rich = lab.key("no-metadata"), lab.key("metadata")
    await lab.put(plain, b"x")
    await lab.bulk_put([{"key": rich, "value": "x", "metadata": {"n": 1}}])
    found = await lab.until(lambda: lab.metadata(rich), lambda reply: reply.result == {"n": 1})
    none = await lab.until(lambda: lab.metadata(plain), lambda reply: reply.succeeded)
    holds = found.result == {"n": 1} and none.succeeded and none.result is None
    return Seen(f"{found.result}; without: {none.result}", holds)


@check("expiration_ttl of a put", "the listing and the header `expiration` tell the second")
async def ttl(lab: Lab) -> Seen:
    return await _expiring(lab, "ttl", {"expiration_ttl": 3600}, int(time.time()) + 3600)


@check("expiration of a put", "the listing and the header `expiration` tell the second")
async def expiration(lab: Lab) -> Seen:
    wanted = int(time.time()) + 7200
    return await _expiring(lab, "expiration", {"expiration": wanted}, wanted)


async def _expiring(lab: Lab, name: str, params: dict[str, int], wanted: int) -> Seen:
    key = lab.key(name)
    put = await lab.put(key, b"x", params=params)
    got = await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    listing = await lab.until(lambda: lab.list(key), lambda reply: key in rows_of(reply))
    listed = rows_of(listing).get(key, {}).get("expiration")
    header = got.headers.get("expiration", "none")
    holds = put.succeeded and listed is not None and abs(float(listed) - wanted) <= 120
    seen = "the right second" if holds else f"{listed}, wanted {wanted}"
    told = header.replace(".", "", 1).isdecimal() and abs(float(header) - wanted) <= 120
    return Seen(f"listing: {seen}; header: {'the same' if told else header}", holds and told)


@check("put without expiration", "a put replaces everything: expiration and metadata are gone")
async def replaced(lab: Lab) -> Seen:
    key = lab.key("replaced")
    await lab.bulk_put([{"key": key, "value": "x", "metadata": {"n": 1}, "expiration_ttl": 3600}])
    await lab.put(key, b"y")

    def is_plain(reply: Reply) -> bool:
        row = rows_of(reply).get(key)
        return row is not None and not row.get("metadata") and not row.get("expiration")

    listing = await lab.until(lambda: lab.list(key), is_plain)
    return Seen(f"listed as {rows_of(listing).get(key)}", is_plain(listing))


@check("escaped keys", "keys with / + % space ? # & and other scripts are read and written in a URL")
async def hard_keys(lab: Lab) -> Seen:
    return await _by_url(lab, HARD_KEYS, relied=True)


@check("odd keys", "noted: kvfs sends keys with U+001F, ^ or ... in bulk bodies")
async def odd_keys(lab: Lab) -> Seen:
    return await _by_url(lab, ODD_KEYS, relied=False)


async def _by_url(lab: Lab, names: tuple[str, ...], *, relied: bool) -> Seen:
    wrong = []
    for name in names:
        key = lab.key(f"url-{name}")
        put = await lab.put(key, name.encode())
        if put.succeeded:
            got = await lab.until(lambda key=key: lab.get(key), lambda reply: reply.status == 200)  # type: ignore[misc]
        if not put.succeeded or got.body != name.encode():
            wrong.append(name)
    text = f"not with {', '.join(map(repr, wrong))}" if wrong else f"all {len(names)}"
    return Seen(text, not wrong if relied else None)


@check("longest key", "512 bytes are taken, 513 are refused")
async def longest(lab: Lab) -> Seen:
    key = lab.key("x" * (KEY_BYTES - len(lab.prefix)))
    put, refused = await lab.put(key, b"x"), await lab.put(key + "x", b"x")
    return Seen(f"512: {put.status}; 513: {refused}", put.succeeded and 400 <= refused.status < 500)


@check("delete of a missing key", "succeeds")
async def missing(lab: Lab) -> Seen:
    reply = await lab.delete(lab.key("missing"))
    return Seen(str(reply), reply.succeeded)
