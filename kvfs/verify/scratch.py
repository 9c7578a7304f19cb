"""The scratch namespace of a run: made, found again by its title, and removed, whatever happens on the way.

Invariants:
- What was made is removed, or named with its id. A creation without an answer may have been done: it is looked for.
- Only what kvfs made is removed: a title of exactly this form, with nothing but keys of a run in it, and of an earlier
  run only when it is too old to be under way.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import trio

from kvfs.core.errors import StoreError
from kvfs.store import codes
from kvfs.verify.wire import Endpoint, Reply

KEYS: Final = "v/"
"""All keys of a run in a namespace of its own begin so."""
OLD: Final = 3600.0  # seconds; no run takes so long
TRIES: Final = 5  # tries of a removal
TRY_SECONDS: Final = 20.0  # for one
FIRST_PAUSE: Final = 1.0  # seconds between two; doubles
_FORM: Final = "%Y%m%dT%H%M%SZ"
_TITLE: Final = re.compile(r"kvfs-verify-(\d{8}T\d{6}Z)-[0-9a-f]{8}(-renamed)?")


@dataclass(frozen=True, slots=True)
class ScratchNamespace:
    """A namespace that a run made."""

    id: str
    title: str


TellScratch = Callable[[ScratchNamespace], object]


def new_title(now: float) -> str:
    """Return a title for a namespace that is made now (epoch seconds)."""
    return f"kvfs-verify-{datetime.fromtimestamp(now, UTC):{_FORM}}-{secrets.token_hex(4)}"


def left_by_earlier_runs(titles: Mapping[str, str], now: float) -> Iterator[ScratchNamespace]:
    """Yield the namespaces, of these titles by id, that a run made and has not removed."""
    for identifier, title in titles.items():
        found = _TITLE.fullmatch(title)
        if found is None:
            continue
        try:
            made = datetime.strptime(found[1], _FORM).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
        if now - made > OLD:
            yield ScratchNamespace(identifier, title)


async def create(endpoint: Endpoint, title: str) -> tuple[Reply, str]:
    """Make a namespace; the answer, and its id, "" if there is none. Raises `UnavailableError` without either."""
    with trio.CancelScope(shield=True):  # a namespace that was made and is not known of could not be removed
        try:
            reply = await endpoint.send("POST", endpoint.namespaces, json={"title": title})
        except StoreError:
            if found := await _find(endpoint, title):
                return Reply(0, {}, b""), found
            raise
        result = reply.result if isinstance(reply.result, dict) else {}
        identifier = str(result.get("id", "")) if reply.succeeded else ""
        may_be_made = reply.succeeded or reply.status >= 500 or reply.code == codes.TITLE_EXISTS
        if not identifier and may_be_made:  # by an attempt before, whose answer was lost
            identifier = await _find(endpoint, title)
    return reply, identifier


async def _find(endpoint: Endpoint, title: str) -> str:
    """Return the id of a title; "" if nothing has it, or nobody says so."""
    try:
        found = await titles_of(endpoint)
    except StoreError:
        return ""
    return next((identifier for identifier, one in found.items() if one == title), "")


async def titles_of(endpoint: Endpoint) -> dict[str, str]:
    """Return titles by id, every page. Raises `UnavailableError`."""
    found: dict[str, str] = {}
    page = 1
    while True:
        params: dict[str, str | int] = {"per_page": 1000, "page": page}
        reply = await endpoint.send("GET", endpoint.namespaces, params=params)
        rows = [row for row in reply.result or [] if isinstance(row, dict) and "id" in row]
        news = {str(row["id"]): str(row.get("title", "")) for row in rows} if reply.succeeded else {}
        if len(rows) < 1000 or not news.keys() - found.keys():
            return found | news
        found |= news
        page += 1


async def remove(endpoint: Endpoint, scratch: ScratchNamespace, *, left: TellScratch) -> bool:
    """Delete a namespace of ours, with growing pauses between tries; `left` hears of it if that is in vain."""
    with trio.CancelScope(shield=True):
        for attempt in range(TRIES):
            with trio.move_on_after(TRY_SECONDS):
                if await _removed(endpoint, scratch.id):
                    return True
            if attempt < TRIES - 1:
                await trio.sleep(FIRST_PAUSE * 2**attempt)
    left(scratch)
    return False


async def _removed(endpoint: Endpoint, identifier: str) -> bool:
    try:
        reply = await endpoint.once("DELETE", f"{endpoint.namespaces}/{identifier}")
    except StoreError:
        return False
    return reply.succeeded or _is_missing(reply)


def _is_missing(reply: Reply) -> bool:
    return reply.status == 404 or reply.code == codes.NAMESPACE_NOT_FOUND


async def remove_earlier(
    endpoint: Endpoint, titles: Mapping[str, str], *, removed: TellScratch, left: TellScratch
) -> None:
    """Remove what earlier runs left; what holds anything else than keys of a run stays, and `left` hears of it."""
    for scratch in left_by_earlier_runs(titles, time.time()):
        try:
            reply = await endpoint.send("GET", f"{endpoint.namespaces}/{scratch.id}/keys")
        except StoreError:
            left(scratch)
            continue
        if _is_missing(reply):
            continue
        if not _has_only_keys_of_runs(reply):
            left(scratch)
        elif await remove(endpoint, scratch, left=left):
            removed(scratch)


def _has_only_keys_of_runs(reply: Reply) -> bool:
    """Return True if a first page lists all keys of a namespace, and each is one that a run makes.

    A run makes less than a page of them, so a namespace with more is not ours. An empty list may be null.
    """
    info = reply.envelope.get("result_info")
    is_whole = "result" in reply.envelope and not (isinstance(info, dict) and info.get("cursor"))
    rows = [] if reply.result is None else reply.result
    return (
        reply.succeeded
        and is_whole
        and isinstance(rows, list)
        and all(isinstance(row, dict) and str(row.get("name", "")).startswith(KEYS) for row in rows)
    )
