"""Checks of bulk calls and listings."""

import base64
import time
from typing import Any, Final

from kvfs.store import codes
from kvfs.verify.findings import Seen, check
from kvfs.verify.values import BINARY, ODD_KEYS
from kvfs.verify.wire import Lab, Reply, rows_of, values_of

PAIRS: Final = 50
SPEED: Final = "speed of a bulk put"


@check("bulk put", "text, base64, metadata and both expirations are stored; the answer counts them")
async def bulk_put(lab: Lab) -> Seen:
    later = int(time.time()) + 7200
    text, binary = lab.key("bulk-text"), lab.key("bulk-binary")
    reply = await lab.bulk_put(
        [
            {"key": text, "value": "t", "metadata": {"n": 1}, "expiration": later},
            {
                "key": binary,
                "value": base64.b64encode(BINARY).decode(),
                "base64": True,
                "expiration_ttl": 3600,
            },
        ]
    )
    counted = reply.result.get("successful_key_count") if isinstance(reply.result, dict) else None
    got = await lab.until(lambda: lab.get(binary), lambda answer: answer.status == 200)
    listing = await lab.until(lambda: lab.list(lab.key("bulk-")), lambda answer: len(rows_of(answer)) == 2)
    row, other = rows_of(listing).get(text, {}), rows_of(listing).get(binary, {})
    kept = row.get("metadata") == {"n": 1} and _is_near(row, later) and _is_near(other, later - 3600)
    holds = reply.succeeded and counted == 2 and got.body == BINARY and kept
    return Seen(f"{reply.status}, counted {counted}; base64: {got}; rows: {row}, {other}", holds)


def _is_near(row: dict[str, Any], wanted: int) -> bool:
    found = row.get("expiration")
    return found is not None and abs(float(found) - wanted) <= 120


@check("bulk put of odd keys", "keys with U+001F, ^ or ... are stored")
async def odd_in_bulk(lab: Lab) -> Seen:
    keys = [lab.key(f"odd-{name}") for name in ODD_KEYS]
    reply = await lab.bulk_put([{"key": key, "value": "x"} for key in keys])
    listing = await lab.until(
        lambda: lab.list(lab.key("odd-")), lambda found: set(keys) <= set(rows_of(found))
    )
    absent = set(keys) - set(rows_of(listing))
    return Seen(
        f"{reply.status}; not listed: {sorted(absent)}" if absent else "all", reply.succeeded and not absent
    )


@check(SPEED, f"noted: {PAIRS} pairs, from which mounts choose their first batch")
async def speed(lab: Lab) -> Seen:
    pairs = [{"key": lab.key(f"speed-{number:03}"), "value": "x"} for number in range(PAIRS)]
    reply = await lab.bulk_put(pairs)
    if not reply.succeeded:
        return Seen(str(reply), None)
    return Seen(f"{reply.seconds:.2f} s", None, reply.seconds / PAIRS)


@check("bulk get", "text values with their metadata; null for a missing key")
async def bulk_get(lab: Lab) -> Seen:
    key, missing = lab.key("get-a"), lab.key("get-missing")
    await lab.bulk_put([{"key": key, "value": "t", "metadata": {"n": 1}, "expiration_ttl": 3600}])
    reply = await lab.until(
        lambda: lab.bulk_get([key, missing]), lambda answer: bool(values_of(answer).get(key))
    )
    found = values_of(reply)
    entry = found.get(key)
    whole = isinstance(entry, dict) and entry.get("value") == "t" and entry.get("metadata") == {"n": 1}
    return Seen(f"{entry}; missing: {found.get(missing, 'absent')}", whole and found.get(missing) is None)


@check("bulk get tells expirations", "noted: where it does not, kvfs takes them from the listing")
async def bulk_expiration(lab: Lab) -> Seen:
    key = lab.key("get-expiring")
    await lab.bulk_put([{"key": key, "value": "t", "expiration_ttl": 3600}])
    reply = await lab.until(lambda: lab.bulk_get([key]), lambda answer: bool(values_of(answer).get(key)))
    entry = values_of(reply).get(key)
    return Seen("yes" if isinstance(entry, dict) and entry.get("expiration") else "no", None)


@check("bulk get of a binary value", "the whole request is refused with 10029")
async def bulk_binary(lab: Lab) -> Seen:
    key = lab.key("get-binary")
    await lab.put(key, BINARY)
    await lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)
    reply = await lab.until(lambda: lab.bulk_get([key]), lambda answer: answer.status != 200)
    return Seen(str(reply), (reply.status, reply.code) == (400, codes.BULK_GET))


@check("bulk delete", "POST bulk/delete removes keys, and succeeds for missing ones")
async def bulk_delete(lab: Lab) -> Seen:
    key = lab.key("gone")
    await lab.put(key, b"x")
    reply = await lab.endpoint.json("POST", lab.path("bulk", "delete"), [key, lab.key("never-there")])
    after = await lab.until(lambda: lab.get(key), lambda answer: answer.status == 404)
    return Seen(f"{reply.status}; then {after.status}", reply.succeeded and after.status == 404)


@check("empty bulk put", "succeeds")
async def empty_bulk(lab: Lab) -> Seen:
    reply = await lab.bulk_put([])
    return Seen(str(reply), reply.succeeded)


@check("order of a listing", "by the bytes of UTF-8")
async def order(lab: Lab) -> Seen:
    names = ["a", "B", "\u00e9", "z", "\uffee", "\U0001f642"]
    keys = sorted((lab.key(f"order-{name}") for name in names), key=str.encode)
    await lab.bulk_put([{"key": key, "value": ""} for key in keys])
    listing = await lab.until(
        lambda: lab.list(lab.key("order-")), lambda reply: len(rows_of(reply)) == len(keys)
    )
    listed = list(rows_of(listing))
    return Seen("so" if listed == keys else ", ".join(listed), listed == keys)


@check("pages of a listing", "limit 10 and a cursor lead through all keys; the last cursor is empty")
async def pages(lab: Lab) -> Seen:
    keys = {lab.key(f"page-{number:02}") for number in range(12)}
    await lab.bulk_put([{"key": key, "value": ""} for key in sorted(keys)])
    prefix = lab.key("page-")
    await lab.until(lambda: lab.list(prefix), lambda reply: keys <= set(rows_of(reply)))
    first = await lab.until(lambda: lab.list(prefix, limit=10), lambda reply: bool(_cursor(reply)))
    rest = await lab.until(
        lambda: lab.list(prefix, limit=10, cursor=_cursor(first)), lambda reply: len(rows_of(reply)) == 2
    )
    found = list(rows_of(first)) + list(rows_of(rest))
    holds = len(rows_of(first)) == 10 and sorted(found) == sorted(keys) and not _cursor(rest)
    return Seen(
        f"{len(rows_of(first))} and {len(rows_of(rest))} keys, then {_cursor(rest) or 'the end'}", holds
    )


@check("empty listing", "no keys, and no cursor")
async def empty_listing(lab: Lab) -> Seen:
    reply = await lab.list(lab.key("nothing-"))
    return Seen(str(reply), reply.succeeded and not reply.result and not _cursor(reply))


def _cursor(reply: Reply) -> str:
    info = reply.envelope.get("result_info")
    return str(info.get("cursor") or "") if isinstance(info, dict) else ""
