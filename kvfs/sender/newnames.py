"""Finds out which of many names are taken at the server, by listing them instead of reading their values.

A listing answers a thousand names at the price of one request, where a bulk get answers a hundred. KV lists by
prefix only, so the names are asked for by the text that they all begin with. In a new directory, which is what
`cp -r` makes, one page answers all of them. The number of lists is bounded; what they do not reach is left over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from os.path import commonprefix

from kvfs.core.expiry import is_expired
from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Key, KeyPage, NamespaceId
from kvfs.store.base import Store


@dataclass
class Names:
    """What listings said of some names; `rest` are those that no listing reached. `lists` counts requests."""

    absent: list[Key] = field(default_factory=list)
    taken: list[Key] = field(default_factory=list)
    rest: list[Key] = field(default_factory=list)
    lists: int = 0

    def note(self, page: KeyPage, reached: Sequence[Key], now: float) -> None:
        """A page has all there is among the names that it reached."""
        there = {info.key for info in page.keys if not is_expired(info.expiration, now)}
        for key in reached:
            (self.taken if key in there else self.absent).append(key)


async def look_up(
    store: Store,
    namespace: NamespaceId,
    keys: Sequence[Key],
    now: float,
    names: Names,
    *,
    page_keys: int = LIST_KEYS,
) -> None:
    """Fill `names` by at most one list for a page of keys. Raises what the store raises; `rest` is right then."""
    most = ceil(len(keys) / page_keys)
    names.rest = sorted(keys)
    prefix, cursor = "", None
    while names.rest and names.lists < most:
        nearer = _prefix(names.rest, parts=most - names.lists if names.lists else 1)
        if cursor is None or len(nearer) > len(prefix) or not names.rest[0].startswith(prefix):
            prefix, cursor = nearer, None  # else the listing under way is as near
        names.lists += 1
        page = await store.list_keys(namespace, prefix=prefix, cursor=cursor, limit=page_keys)
        cursor = page.cursor
        reached = _reached(names.rest, prefix, page)
        names.note(page, reached, now)
        names.rest = names.rest[len(reached) :]


def _prefix(keys: Sequence[Key], *, parts: int) -> str:
    """What the first of so many equal parts of the sorted keys begin with."""
    some = keys[: ceil(len(keys) / parts)]
    return commonprefix([some[0], some[-1]])  # noqa: RUF071  text of keys, no parts of paths


def _reached(keys: Sequence[Key], prefix: str, page: KeyPage) -> Sequence[Key]:
    """The first of the sorted keys, as far as the page has all that there is."""
    if page.cursor is None:
        end = next((n for n, key in enumerate(keys) if not key.startswith(prefix)), len(keys))
    else:
        last = page.keys[-1].key if page.keys else ""
        end = next((n for n, key in enumerate(keys) if key > last), len(keys))
    return keys[:end]
