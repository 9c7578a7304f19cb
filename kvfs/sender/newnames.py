"""Finds out which of many names are taken at the server, by listing them instead of reading their values.

A listing answers a thousand names at the price of one request, where a bulk get answers a hundred. KV lists by
prefix only, so the names are asked for by the text that they all begin with. In a new directory, which is what
`cp -r` makes, one page answers all of them. Where a page is full before it comes to the first name, a longer prefix
leads nearer; so it will be once the names themselves are there. The number of lists is bounded; what they do not reach
is left over.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import ceil
from os.path import commonprefix
from typing import Final

from kvfs.core.expiry import is_expired
from kvfs.core.latest import Latest
from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Key, KeyPage, NamespaceId
from kvfs.store.base import Store

MOST_CROWDED: Final = 1024  # prefixes remembered, the latest


@dataclass
class Names:
    """The answer of listings about some names; `rest` were reached by none. `lists` counts requests.

    `crowded` are prefixes below which a page is full before it leads anywhere; to be kept for the next time.
    """

    absent: list[Key] = field(default_factory=list)
    taken: list[Key] = field(default_factory=list)
    rest: list[Key] = field(default_factory=list)
    lists: int = 0
    crowded: Latest[str, None] = field(default_factory=lambda: Latest(MOST_CROWDED))

    def crowd(self, prefix: str) -> None:
        """Note that a list of this prefix leads nowhere any more."""
        self.crowded.keep(prefix, None)

    def note(self, page: KeyPage, reached: Sequence[Key], now: float) -> None:
        """Note a page: it has every name that it reached; a malformed row may be any of them."""
        there = {info.key for info in page.keys if not is_expired(info.expiration, now)}
        for key in reached:
            (self.taken if key in there or not page.is_whole else self.absent).append(key)


async def look_up(
    store: Store,
    namespace: NamespaceId,
    keys: Sequence[Key],
    now: float,
    names: Names,
    *,
    wanted: Collection[Key] | None = None,
    page_keys: int = LIST_KEYS,
) -> None:
    """Fill `names` by at most one list for a page of keys; it ends as soon as nothing of `wanted` is left.

    `wanted` None: all of the keys. Raises what the store raises; `rest` is right then.
    """
    most = ceil(len(keys) / page_keys)
    names.rest = sorted(keys)
    wanted = names.rest if wanted is None else wanted
    left, prefix, cursor = set(wanted), "", None
    while left and names.rest and names.lists < most:
        parts = most - names.lists if names.lists else 1
        nearer = _prefix(names.rest, names.crowded, parts=parts)
        if cursor is None or len(nearer) > len(prefix) or not names.rest[0].startswith(prefix):
            prefix, cursor = nearer, None  # else the listing under way is as near
        names.lists += 1
        page = await store.list_keys(namespace, prefix=prefix, cursor=cursor, limit=page_keys)
        cursor = page.cursor
        reached = _reached(names.rest, prefix, page)
        names.note(page, reached, now)
        names.rest = names.rest[len(reached) :]
        left.difference_update(reached)
        if cursor is not None and not reached:
            names.crowd(prefix)
        elif cursor is None and len(reached) >= page_keys:
            names.crowd(prefix)  # it will be crowded as soon as these keys exist


def _prefix(keys: Sequence[Key], crowded: Collection[str], *, parts: int) -> str:
    """Return the common prefix of the first of `parts` equal parts of the sorted keys."""
    count = ceil(len(keys) / parts)
    while True:
        found = commonprefix([keys[0], keys[count - 1]])  # noqa: RUF071  text of keys, no parts of paths
        if found not in crowded or count == 1:
            return found
        count = (count + 1) // 2


def _reached(keys: Sequence[Key], prefix: str, page: KeyPage) -> Sequence[Key]:
    """Return the first of the sorted keys, as far as the page has all that there is."""
    if page.cursor is None:
        end = next((n for n, key in enumerate(keys) if not key.startswith(prefix)), len(keys))
    else:
        last = page.keys[-1].key if page.keys else ""
        end = next((n for n, key in enumerate(keys) if key > last), len(keys))
    return keys[:end]
