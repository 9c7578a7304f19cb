"""Checks of single values: puts, gets, metadata, expirations, deletes, keys that are hard to write in a URL."""

import time
from typing import Final

from kvfs.verify.findings import Observation, check
from kvfs.verify.setting import BINARY, DAY, ODD
from kvfs.verify.setting import longest as longest_key
from kvfs.verify.wire import Lab, Reply

SLACK: Final = 300.0  # seconds that clocks and a run may take


async def _get(lab: Lab, name: str) -> Reply:
    return await _read(lab, lab.key(name))


async def _read(lab: Lab, key: str) -> Reply:
    return await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)


@check("raw put and get", "a value of any bytes comes back as it was put")
async def raw(lab: Lab) -> Observation:
    got, put = lab.done["got raw"], lab.done["raw"]
    return Observation(f"put: {put.status}; get: {got}", put.succeeded and got.body == BINARY)


@check("empty value", "a value of no bytes is a value")
async def empty(lab: Lab) -> Observation:
    got, put = lab.done["got empty"], lab.done["empty"]
    return Observation(
        f"put: {put.status}; get: {got}", put.succeeded and got.status == 200 and got.body == b""
    )


@check("type of a value", "a value is answered as application/octet-stream, or text, never as a web page")
async def content_type(lab: Lab) -> Observation:
    got = await _get(lab, "type")
    kind = got.headers.get("content-type", "none")
    return Observation(f"content-type: {kind}", got.status == 200 and not kind.startswith("text/html"))


@check("form with a file name", "a form with filename keeps any bytes, and its metadata")
async def form(lab: Lab) -> Observation:
    got, put = await _get(lab, "form"), lab.done["form"]
    metadata = lab.rows.get(lab.key("form"), {}).get("metadata")
    holds = put.succeeded and got.body == BINARY and metadata == {"a": [1]}
    return Observation(f"put: {put.status}; get: {got}; metadata {metadata}", holds)


@check("form without a file name", "noted: kvfs always sends a file name")
async def bare_form(lab: Lab) -> Observation:
    return Observation(f"put: {lab.done['bare-form'].status}; get: {await _get(lab, 'bare-form')}", None)


@check("metadata of one key", "GET metadata answers it, and null where there is none")
async def metadata(lab: Lab) -> Observation:
    plain, rich = lab.key("raw"), lab.key("form")
    found = await lab.until(lambda: lab.metadata(rich), lambda reply: reply.result == {"a": [1]})
    none = await lab.until(lambda: lab.metadata(plain), lambda reply: reply.succeeded)
    holds = found.result == {"a": [1]} and none.succeeded and none.result is None
    return Observation(f"{found.result}; without: {none.result}", holds)


@check("expiration_ttl of a put", "the listing and the header `expiration` tell the second")
async def ttl(lab: Lab) -> Observation:
    return await _expiring(lab, "raw", time.time() + DAY)


@check("expiration of a put", "the listing and the header `expiration` tell the second")
async def expiration(lab: Lab) -> Observation:
    return await _expiring(lab, "empty", time.time() + 2 * DAY)


async def _expiring(lab: Lab, name: str, wanted: float) -> Observation:
    got = lab.done[f"got {name}"]
    listed = lab.rows.get(lab.key(name), {}).get("expiration")
    header = got.headers.get("expiration", "none")
    holds = listed is not None and abs(float(listed) - wanted) <= SLACK
    seen = "the right second" if holds else f"{listed}, wanted {wanted:.0f}"
    told = header.replace(".", "", 1).isdecimal() and abs(float(header) - wanted) <= SLACK
    return Observation(f"listing: {seen}; header: {'the same' if told else header}", holds and told)


@check("put without expiration", "a put replaces everything: expiration and metadata are gone")
async def replaced(lab: Lab) -> Observation:
    row = lab.rows.get(lab.key("replaced"))
    return Observation(
        f"listed as {row}", row is not None and not row.get("metadata") and not row.get("expiration")
    )


@check("escaped keys", "keys with / + % space ? # & and other scripts are read and written in a URL")
async def hard_keys(lab: Lab) -> Observation:
    return await _by_url(lab, "hard", longest_key(lab), relied=True)


@check("odd keys", "noted: kvfs sends keys with U+001F, ^ or ... in bulk bodies")
async def odd_keys(lab: Lab) -> Observation:
    return await _by_url(lab, "odd", lab.key(f"url-{ODD}"), relied=False)


async def _by_url(lab: Lab, name: str, key: str, *, relied: bool) -> Observation:
    """Try all of them in one key; which of them fails is easily found by hand."""
    put = lab.done[name]
    got = await _read(lab, key) if put.succeeded else put
    holds = put.succeeded and got.body == name.encode()
    return Observation("all" if holds else f"not {key!r}: put {put}, get {got}", holds if relied else None)


@check("longest key", "512 bytes are taken, 513 are refused")
async def longest(lab: Lab) -> Observation:
    put, refused = lab.done["hard"], await lab.put(longest_key(lab) + "x", b"x")
    return Observation(f"512: {put.status}; 513: {refused}", put.succeeded and 400 <= refused.status < 500)


@check("delete of a missing key", "succeeds")
async def missing(lab: Lab) -> Observation:
    reply = await lab.delete(lab.key("missing"))
    return Observation(str(reply), reply.succeeded)
