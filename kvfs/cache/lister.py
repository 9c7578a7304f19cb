"""Store → listings: pages of keys, fetched when somebody asks, each page once.

Two askers of the same page share one request: the second waits on the lock of its listing and finds the
answer there. Who reads a long listing page by page finds the next one on its way: `run` asks for it while the
last one is consumed. Nothing here retries or remembers failures of the network beyond a moment; the store's
wrappers do.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from kvfs.cache.listings import Listings, end_of
from kvfs.cache.spans import successor
from kvfs.core.callers import Caller, current, done_for, waits
from kvfs.core.errors import RejectedError, StoreError, UnavailableError
from kvfs.core.freshness import is_fresh
from kvfs.core.latest import Latest
from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import NamespaceId
from kvfs.store.base import Store

log = logging.getLogger("kvfs.cache")

_WALK = 2  # pages of a listing after which the next one is asked for before anybody needs it
_PATIENCE = 10.0  # seconds that such a request may take: somebody may wait for its lock by then
_CURSOR = 60.0  # seconds for which a listing may be taken up where it stopped: KV's own window
_SINGLES = 4  # names asked for singly in a large directory before its listing is fetched along
_HINTS = 4096  # prefixes of which is remembered where their listing stopped, and whether it fits a page

PrefixRef = tuple[NamespaceId, str]


@dataclass(frozen=True, slots=True)
class _Stopped:
    """A listing that stopped after so many `pages`: its `cursor`, given at `since` (epoch seconds), resumes at `at`."""

    at: str
    cursor: str
    since: float
    forgotten: int
    pages: int


class Lister:
    """Fetches listing pages. Raises what the store raises."""

    def __init__(self, store: Store, listings: Listings, now: Callable[[], float]) -> None:
        # dependencies
        self._store = store
        self._listings = listings
        self._now = now
        # mutable state; but for the locks only hints, which cost a request when they are wrong or missing
        self._locks: dict[PrefixRef, trio.Lock] = {}
        self._stopped = Latest[PrefixRef, _Stopped](_HINTS)
        self._asked = Latest[PrefixRef, tuple[int, float]](_HINTS)  # single names, since when
        self._large = Latest[PrefixRef, bool](_HINTS)  # false: the whole listing fitted one page
        # pages to ask for ahead: where the listing stopped, and for whom
        self._wanted: dict[PrefixRef, tuple[str, Caller | None]] = {}
        self._wake = trio.Event()

    # one page

    @asynccontextmanager
    async def _alone(self, place: PrefixRef) -> AsyncIterator[None]:
        lock = self._locks.setdefault(place, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # a released lock that somebody waits for is held again at once
                self._locks.pop(place, None)

    async def _page(self, place: PrefixRef, start: _Stopped | None) -> None:
        """Fetch the page of a listing at `start`, None for the first, and take it in."""
        namespace, prefix = place
        cursor, low = (start.cursor, start.at) if start is not None else (None, prefix)
        with self._listings.settled.asking() as moment:
            try:
                page = await self._store.list_keys(namespace, prefix=prefix, cursor=cursor, limit=LIST_KEYS)
            except RejectedError:
                if start is None:
                    raise
                self._stopped.pop(place, None)  # the cursor got too old: from the start, then
                return
            if page.cursor is not None and page.cursor == cursor:
                raise UnavailableError("list keys: the server answers the cursor it was asked with")
            self._listings.learn(namespace, prefix, page, low=low, moment=moment)
        if start is None:
            self._large.keep(place, page.cursor is not None)
        if page.cursor is None:
            self._stopped.pop(place, None)
        else:
            at, pages = end_of(page, low), start.pages + 1 if start is not None else 1
            forgotten = self._listings.forgotten.number
            self._stopped.keep(place, _Stopped(at, page.cursor, self._now(), forgotten, pages))

    def _resumable(self, place: PrefixRef, position: str, start: str) -> _Stopped | None:
        """Return the point where the listing of a place stopped, if resuming there soon reaches `position`."""
        found = self._stopped.get(place)
        if (
            found is None
            or not start <= found.at <= position
            or found.forgotten != self._listings.forgotten.number
        ):
            return None
        return found if is_fresh(found.since, _CURSOR, self._now()) else None

    def _listing_for(self, namespace: NamespaceId, prefix: str, position: str) -> PrefixRef:
        """Choose the listing whose next page to ask for: one under way that stopped nearest to the position …

        … or a larger one that fits one page: it costs no more, and answers the neighbours too.
        """
        best, at = (namespace, prefix), prefix
        for end in range(len(prefix) + 1):
            place = (namespace, prefix[:end])
            if self._large.get(place) is False:
                return place
            stopped = self._resumable(place, position, at)
            if stopped is not None:
                best, at = place, stopped.at
        return best

    async def _turn(self, namespace: NamespaceId, prefix: str, position: str) -> None:
        """Fetch one page towards `position`, unless that became known meanwhile."""
        place = self._listing_for(namespace, prefix, position)
        waits()
        async with self._alone(place):
            if self._listings.span_of(namespace, position) is None:
                await self._page(place, self._resumable(place, position, prefix))

    # whole listings

    async def advance(self, namespace: NamespaceId, prefix: str, position: str) -> None:
        """Make `position`, a text from `prefix` on below its successor, known; mostly by one more page."""
        while self._listings.span_of(namespace, position) is None:
            await self._turn(namespace, prefix, position)

    async def whole(
        self, namespace: NamespaceId, prefix: str, *, progress: Callable[[], None] = lambda: None
    ) -> None:
        """Make every key that starts with `prefix` known; `Listings.complete` has them in one span then.

        `progress` is called after every page.
        """
        end = successor(prefix)
        position = prefix
        while True:
            await self.advance(namespace, prefix, position)
            progress()
            span = self._listings.span_of(namespace, position)
            if span is None:  # forgotten between two lines of ours
                continue
            if span.reaches(end):
                self._listings.finish(namespace, prefix)
                return
            assert span.high is not None
            position = span.high

    # ahead of a reader

    def consumed(self, namespace: NamespaceId, prefix: str, position: str) -> None:
        """Note that a program reads a listing page by page and will want `position` soon."""
        place = self._listing_for(namespace, prefix, position)
        stopped = self._stopped.get(place)
        if stopped is not None and stopped.at == position and stopped.pages >= _WALK:
            self._wanted[place] = position, current()
            self._wake.set()

    async def run(self) -> None:
        """Ask for the pages that are wanted ahead, for ever. Without this task every reader waits for its own."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._wanted:
                    place, (position, caller) = self._wanted.popitem()
                    with done_for(caller or current()):
                        nursery.start_soon(self._ahead, place, position)

    async def _ahead(self, place: PrefixRef, position: str) -> None:
        try:
            with trio.move_on_after(_PATIENCE):
                async with self._alone(place):
                    start = self._resumable(place, position, position)
                    if start is not None and self._listings.span_of(place[0], position) is None:
                        await self._page(place, start)
        except StoreError as exc:
            log.debug("listing ahead failed: %s", exc)

    # one name

    def knows(self, namespace: NamespaceId, key: str, below: str | None, *, stale: bool = False) -> bool:
        """Return whether it is known that `key` exists or not, and that keys start with `below` or not."""
        if self._listings.span_of(namespace, key, stale=stale) is None:
            return False
        if below is None:
            return True
        span = self._listings.span_of(namespace, below, stale=stale)
        return span is not None and (span.knows_all(below) or span.first_below(below) is not None)

    async def resolve(self, namespace: NamespaceId, directory: str, key: str, below: str | None) -> None:
        """Make `knows` true, in two requests however many keys there are.

        The first page of the directory answers its siblings too, so it comes first; a directory that is
        known to be larger than a page is asked for the very key instead, and when that happens again and
        again its next page as well: a copy into it then costs its listing, not a request a file. (A third
        request is needed only when a thousand keys sort between `key` and `below`.)
        """

        def known() -> bool:
            return self.knows(namespace, key, below)

        if known():
            return
        large = self._large.get((namespace, directory), False)
        if not large:
            await self._turn(namespace, directory, key if key.startswith(directory) else directory)
        asked = 0
        for prefix in (key, below):
            if known():
                if large and asked == 1 and self._is_walked((namespace, directory)):
                    # one request was enough here: the other one saves later ones
                    await self._turn(namespace, directory, self._first_unknown(namespace, directory))
                return
            assert prefix is not None
            waits()
            async with self._alone((namespace, prefix)):
                if not known():
                    asked += 1
                    await self._page((namespace, prefix), None)

    def _is_walked(self, place: PrefixRef) -> bool:
        """Return whether names of a large directory are asked for one after the other; counts this one."""
        now = self._now()
        count, since = self._asked.get(place, (0, now))
        if not is_fresh(since, _CURSOR, now):
            count, since = 0, now
        self._asked.keep(place, (count + 1, since))
        return count >= _SINGLES

    def _first_unknown(self, namespace: NamespaceId, prefix: str) -> str:
        """Return the end of the known part of a prefix, read from its start."""
        position, end = prefix, successor(prefix)
        while (span := self._listings.span_of(namespace, position)) is not None and not span.reaches(end):
            assert span.high is not None
            position = span.high
        return position
