"""Keys and answers that many checks look at, written and listed once, because a run is to take few requests.

One bulk put carries all pairs that only have to be there, one listing tells of all keys. Values that are put singly
are put here, too, so that the listing has them.
"""

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from kvfs.core.errors import StoreError
from kvfs.core.limits import KEY_BYTES
from kvfs.verify.findings import Observation
from kvfs.verify.wire import PAUSES, Lab, Reply, rows_of, values_of

BINARY: Final = b"\x00\xff\xfe"
HARD: Final = "/a//b/ a+b%2Fc d?e#f&g \u00e9\u4e16\U0001f642"
ODD_KEYS: Final = ("a\x1fb", "a^b", "a...b")
ODD: Final = "".join(ODD_KEYS)
ORDER: Final = ("a", "B", "\u00e9", "z", "\uffee", "\U0001f642")
PAGES: Final = 12  # keys
MOST: Final = 60.0  # seconds: what kvfs waits by default before it believes a read again
FRESH: Final = 2  # good answers in a row, because copies of the data may differ
DAY: Final = 86_400
_FILLING: Final = 50  # pairs more, so that the time that a pair takes can be told

Rows = dict[str, dict[str, Any]]

BULK: Final = "bulk put"
STALE: Final = "read after a write"
LISTED: Final = "listing after a write"


async def prepare(lab: Lab) -> None:
    """Put everything; then the listing that has it. What fails is told by the checks that need it."""
    lab.pairs.extend(_pairs(lab))
    await _note(lab, BULK, lab.bulk_put(lab.pairs))
    async with trio.open_nursery() as nursery:
        for name, put in _puts(lab).items():
            nursery.start_soon(_note, lab, name, put)
        nursery.start_soon(_rewrite, lab)
    began = trio.current_time()
    await _note(lab, "listed", lab.put(lab.key("listed"), b"x"))
    async with trio.open_nursery() as nursery:
        for name in ("raw", "empty"):
            nursery.start_soon(_note, lab, f"got {name}", _got(lab, lab.key(name)))
        nursery.start_soon(_note, lab, "got in bulk", _got_in_bulk(lab))
    await look(lab, lambda rows: _is_whole(lab, rows), began)


def _got(lab: Lab, key: str) -> Awaitable[Reply]:
    return lab.until(lambda: lab.get(key), lambda reply: reply.status == 200)


def _got_in_bulk(lab: Lab) -> Awaitable[Reply]:
    keys = [lab.key("bulk-text"), lab.key("get-missing")]
    return lab.until(lambda: lab.bulk_get(keys), lambda reply: bool(values_of(reply).get(keys[0])))


def _is_whole(lab: Lab, rows: Rows) -> bool:
    """True if everything that was taken is listed, as it was put last."""
    names = [name for name, reply in lab.done.items() if name in ("raw", "empty", "form") and reply.succeeded]
    keys = [lab.key(name) for name in (*names, "listed")]
    keys += [pair["key"] for pair in lab.pairs] if lab.done[BULK].succeeded else []
    replaced = rows.get(lab.key("replaced"), {})
    return all(key in rows for key in keys) and not replaced.get("expiration")


async def look(lab: Lab, good: Callable[[Rows], bool], began: float) -> None:
    """List everything until the rows are as they have to be by now, and keep the rows."""

    async def ask() -> Reply:
        reply = await lab.list(lab.prefix)
        lab.seen_headers.update(reply.headers)
        if rows := rows_of(reply):
            lab.rows.clear()
            lab.rows.update(rows)
        return reply

    try:
        lab.seen[LISTED] = await stale(ask, lambda reply: good(rows_of(reply)), began)
    except StoreError as exc:
        lab.seen[LISTED] = Observation(str(exc), False)


def _pairs(lab: Lab) -> list[dict[str, Any]]:
    later = int(time.time()) + 2 * DAY
    binary = base64.b64encode(BINARY).decode()
    told: list[dict[str, Any]] = [
        {"key": "bulk-text", "value": "t", "metadata": {"n": 1}, "expiration": later},
        {"key": "bulk-binary", "value": binary, "base64": True, "expiration_ttl": DAY},
        {"key": "replaced", "value": "one", "metadata": {"n": 1}, "expiration_ttl": DAY},
        {"key": "type", "value": "<html>text</html>"},
        {"key": "gone", "value": "x"},
    ]
    plain = [f"odd-{name}" for name in ODD_KEYS]
    plain += [f"order-{name}" for name in ORDER]
    plain += [f"page-{number:02}" for number in range(PAGES)]
    plain += [f"speed-{number:03}" for number in range(_FILLING)]
    told += [{"key": name, "value": "x"} for name in plain]
    return [{**pair, "key": lab.key(pair["key"])} for pair in told]


def longest(lab: Lab) -> str:
    """Return a key of as many bytes as a key may have, with all that is hard in a URL."""
    key = lab.key(HARD)
    return key + "x" * (KEY_BYTES - len(key.encode()))


def _puts(lab: Lab) -> dict[str, Awaitable[Reply]]:
    def form(name: str, **files: Any) -> Awaitable[Reply]:
        return lab.endpoint.send("PUT", lab.path("values", lab.key(name)), files=files)

    return {
        "raw": lab.put(lab.key("raw"), BINARY, params={"expiration_ttl": DAY}),
        "empty": lab.put(lab.key("empty"), b"", params={"expiration": int(time.time()) + 2 * DAY}),
        "hard": lab.put(longest(lab), b"hard"),
        "odd": lab.put(lab.key(f"url-{ODD}"), b"odd"),
        "bare-form": form("bare-form", value=(None, BINARY)),
        "form": form(
            "form",
            value=("blob", BINARY, "application/octet-stream"),
            metadata=(None, b'{"a":[1]}'),
        ),
    }


async def _rewrite(lab: Lab) -> None:
    """Write a value over, and see how long the old one is answered."""
    key = lab.key("replaced")
    if not lab.done[BULK].succeeded:
        await _note(lab, "replaced", lab.put(key, b"one"))
    try:
        await lab.until(lambda: lab.get(key), lambda reply: reply.body == b"one")
        await lab.put(key, b"two")
        began = trio.current_time()
        lab.seen[STALE] = await stale(lambda: lab.get(key), lambda reply: reply.body == b"two", began)
    except StoreError as exc:
        lab.seen[STALE] = Observation(str(exc), False)


async def _note(lab: Lab, name: str, put: Awaitable[Reply]) -> None:
    try:
        lab.done[name] = await put
    except StoreError as exc:
        lab.done[name] = Reply(0, {}, str(exc).encode())


async def stale(
    ask: Callable[[], Awaitable[Reply]], good: Callable[[Reply], bool], began: float
) -> Observation:
    """Return the seconds from `began` to the last stale answer, before `FRESH` good ones in a row."""
    last, fresh = 0.0, 0
    for pause in PAUSES:
        while fresh < FRESH and good(await ask()):
            fresh += 1
        if fresh == FRESH:
            break
        fresh, last = 0, trio.current_time() - began
        await trio.sleep(pause)
    return Observation(f"{last:.1f} s", fresh == FRESH and last <= MOST, last)
