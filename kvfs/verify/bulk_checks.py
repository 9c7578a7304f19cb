"""Checks of bulk calls and listings."""

import time
from typing import Any, Final

from kvfs.store import codes
from kvfs.verify.findings import Observation, check
from kvfs.verify.setting import BINARY, BULK, DAY, ODD_KEYS, ORDER, PAGES
from kvfs.verify.value_checks import SLACK
from kvfs.verify.wire import Lab, Reply, rows_of, values_of

SPEED: Final = "speed of a bulk put"


def _result(reply: Reply) -> dict[str, Any]:
    return reply.result if isinstance(reply.result, dict) else {}


@check(BULK, "text, base64, metadata and both expirations are stored; the answer counts them")
async def bulk_put(lab: Lab) -> Observation:
    reply, binary = lab.done[BULK], lab.key("bulk-binary")
    counted, sent = _result(reply).get("successful_key_count"), len(lab.pairs)
    got = await lab.until(lambda: lab.get(binary), lambda answer: answer.status == 200)
    row, other = lab.rows.get(lab.key("bulk-text"), {}), lab.rows.get(binary, {})
    kept = row.get("metadata") == {"n": 1} and _is_near(row, 2 * DAY) and _is_near(other, DAY)
    holds = reply.succeeded and counted == sent and got.body == BINARY and kept
    return Observation(
        f"{reply.status}, counted {counted} of {sent}; base64: {got}; rows: {row}, {other}", holds
    )


def _is_near(row: dict[str, Any], seconds: float) -> bool:
    found = row.get("expiration")
    return found is not None and abs(float(found) - time.time() - seconds) <= SLACK


@check("bulk put of odd keys", "keys with U+001F, ^ or ... are stored")
async def odd_in_bulk(lab: Lab) -> Observation:
    absent = sorted(name for name in ODD_KEYS if lab.key(f"odd-{name}") not in lab.rows)
    return Observation(f"{lab.done[BULK].status}; not listed: {absent}" if absent else "all", not absent)


@check(SPEED, "noted: from it mounts choose their first batch")
async def speed(lab: Lab) -> Observation:
    reply = lab.done[BULK]
    if not reply.succeeded:
        return Observation(str(reply), None)
    return Observation(
        f"{len(lab.pairs)} pairs in {reply.seconds:.2f} s", None, reply.seconds / len(lab.pairs)
    )


@check("bulk get", "text values with their metadata; null for a missing key")
async def bulk_get(lab: Lab) -> Observation:
    key, missing = lab.key("bulk-text"), lab.key("get-missing")
    found = values_of(lab.done["got in bulk"])
    entry = found.get(key)
    whole = isinstance(entry, dict) and entry.get("value") == "t" and entry.get("metadata") == {"n": 1}
    return Observation(
        f"{entry}; missing: {found.get(missing, 'absent')}", whole and found.get(missing) is None
    )


@check("bulk get tells expirations", "noted: where it does not, kvfs takes them from the listing")
async def bulk_expiration(lab: Lab) -> Observation:
    entry = values_of(lab.done["got in bulk"]).get(lab.key("bulk-text"))
    return Observation("yes" if isinstance(entry, dict) and entry.get("expiration") else "no", None)


@check("bulk get of a binary value", "the whole request is refused with 10029")
async def bulk_binary(lab: Lab) -> Observation:
    key = lab.key("raw")
    reply = await lab.until(lambda: lab.bulk_get([key]), lambda answer: answer.status != 200)
    return Observation(str(reply), (reply.status, reply.code) == (400, codes.BULK_GET))


@check("bulk delete", "POST bulk/delete removes keys, and succeeds for missing ones")
async def bulk_delete(lab: Lab) -> Observation:
    key = lab.key("gone")
    reply = await lab.endpoint.send("POST", lab.path("bulk", "delete"), json=[key, lab.key("never-there")])
    after = await lab.until(lambda: lab.get(key), lambda answer: answer.status == 404)
    return Observation(f"{reply.status}; then {after.status}", reply.succeeded and after.status == 404)


@check("empty bulk put", "succeeds")
async def empty_bulk(lab: Lab) -> Observation:
    reply = await lab.bulk_put([])
    return Observation(str(reply), reply.succeeded)


@check("order of a listing", "by the bytes of UTF-8")
async def order(lab: Lab) -> Observation:
    keys = sorted((lab.key(f"order-{name}") for name in ORDER), key=str.encode)
    listed = [key for key in lab.rows if key.startswith(lab.key("order-"))]
    return Observation("so" if listed == keys else ", ".join(listed), listed == keys)


@check("pages of a listing", "limit 10 and a cursor lead through all keys; the last cursor is empty")
async def pages(lab: Lab) -> Observation:
    keys = [lab.key(f"page-{number:02}") for number in range(PAGES)]
    prefix = lab.key("page-")
    first = await lab.until(lambda: lab.list(prefix, limit=10), lambda reply: bool(_cursor(reply)))
    rest = await lab.until(
        lambda: lab.list(prefix, limit=10, cursor=_cursor(first)), lambda reply: len(rows_of(reply)) == 2
    )
    found = list(rows_of(first)) + list(rows_of(rest))
    holds = len(rows_of(first)) == 10 and sorted(found) == sorted(keys) and not _cursor(rest)
    return Observation(
        f"{len(rows_of(first))} and {len(rows_of(rest))} keys, then {_cursor(rest) or 'the end'}", holds
    )


@check("empty listing", "no keys, and no cursor")
async def empty_listing(lab: Lab) -> Observation:
    reply = await lab.list(lab.key("nothing-"))
    return Observation(str(reply), reply.succeeded and not reply.result and not _cursor(reply))


def _cursor(reply: Reply) -> str:
    info = reply.envelope.get("result_info")
    return str(info.get("cursor") or "") if isinstance(info, dict) else ""
