"""Store → values: misses are gathered into bulk gets, and the walk that causes them is read ahead.

`run` is the one task that sends; a caller waits on the flight of its key and may be cancelled freely. Text
travels by bulk get, a hundred keys a request. One binary value fails a whole bulk get, so such a batch is
divided and the binaries come singly; what was learned of names by their ending keeps the next batches whole.
"""

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import chain

import trio

from kvfs.cache.flights import Flight
from kvfs.cache.listings import Listings
from kvfs.cache.readahead import Readahead
from kvfs.cache.scans import Scans
from kvfs.cache.values import Clean, Values
from kvfs.core.callers import Caller
from kvfs.core.content import is_text
from kvfs.core.errors import (
    BodyTooLargeError,
    NotTextError,
    RejectedError,
    StoreError,
    UnavailableError,
    without_frames,
)
from kvfs.core.model import BareEntry, Entry, Key, KeyInfo, KeyRef, NamespaceId
from kvfs.store.base import Store
from kvfs.store.bulkread import BulkReading, ReadRequest, Suspects, is_stuck, may_be_one_key

log = logging.getLogger("kvfs.cache")

Landed = list[tuple[Key, bytes]]
"""Keys of one namespace, and the values that the store answered."""

_REQUESTS = 8  # bulk gets and single gets in flight at once
_AHEAD = 6  # of these, how many may be for read-ahead
_PROOF = 4  # bulk gets in a row, of different keys, that show the service to be away
_FIRST_PAUSE = 0.5  # seconds before it is asked again; doubles


class Loader:
    """Fetches values. `load` raises what the store raises.

    `on_contents` is called with the values of each answer, before their waiters go on. It must not raise.
    """

    def __init__(
        self,
        store: Store,
        values: Values,
        listings: Listings,
        now: Callable[[], float],
        shadowed: Callable[[NamespaceId, Key], bool],
        patience: float = 30.0,
    ) -> None:
        """`patience` is the number of seconds for which a service that answers nobody is asked again."""
        self._store = store
        self._values = values
        self._listings = listings
        self._now = now
        self._shadowed = shadowed
        self._patience = patience
        self.on_contents: Callable[[NamespaceId, Landed], None] = lambda namespace, contents: None
        self.reading = BulkReading()  # its `kinds` may be told before `run`
        self._kinds = self.reading.kinds
        self._readahead = Readahead(
            listings, self._is_wanted, self._kinds.is_single, values.statistics().limit
        )
        self.scans = Scans(now, self._is_wanted)  # to be told which directories are read
        # mutable state. Invariant: every place in a queue or request has a flight; a flight ends by _finish.
        self._flights: dict[KeyRef, Flight] = {}
        self._awaited: dict[KeyRef, None] = {}
        self._ahead: dict[KeyRef, None] = {}
        self._divided: deque[ReadRequest] = deque()
        self._running = 0
        self._suspects = Suspects(_PROOF)
        self._asking_on = trio.Lock()
        self._wake = trio.Event()
        self._stopped = False

    async def load(self, place: KeyRef, directory: str, *, fresh: bool = True) -> Clean | None:
        """Return a value from the cache, or else from the store; None when the key does not exist."""
        clean = self._values.get(place, stale=not fresh)
        namespace, key = place
        if clean is not None:
            self.touch(place, directory)
            return clean
        if self._stopped:
            raise UnavailableError("the mount is ending")
        flight = self._flights.get(place)
        if flight is None:
            walk = self.scans.walk(namespace, directory, key)
            wanted = self._readahead.miss(namespace, directory, key, walk)
            flight = self._request(place, self._awaited)
            for further in wanted[1:]:
                self._request((namespace, further), self._ahead)
        else:
            self._hurry(place)
            self.touch(place, directory)
        flight.waited = True
        return await flight.arrival()

    def ask(self, place: KeyRef, then: Callable[[Flight], None]) -> bool:
        """Have a value fetched, also if one is held, together with others asked for at the same time.

        It is for a caller that knows all it wants, so nothing is read ahead. `then` gets the ended flight, and must
        not raise. Return False, with nothing done, when the mount is ending or another caller has asked so.
        """
        flight = self._flights.get(place)
        if self._stopped or (flight is not None and flight.then is not None):
            return False
        if flight is None:
            flight = self._request(place, self._awaited)
        else:
            self._hurry(place)
        flight.waited, flight.then = True, then
        return True

    def touch(self, place: KeyRef, directory: str) -> None:
        """Note that a key was answered from the cache, so that read-ahead stays ahead of the reader."""
        for wanted in self._readahead.hit(place[0], directory, place[1]):
            self._request((place[0], wanted), self._ahead)

    def is_marked(self, place: KeyRef) -> bool:
        """Return whether `touch` has something to do."""
        return self._readahead.is_marked(*place)

    def caller_of(self, namespace: NamespaceId, key: Key) -> Caller | None:
        """Return for whom a key is being fetched; None if nobody is known."""
        flight = self._flights.get((namespace, key))
        return flight.caller if flight is not None else None

    def _is_wanted(self, place: KeyRef) -> bool:
        return place not in self._flights and self._values.get(place) is None and not self._shadowed(*place)

    def _hurry(self, place: KeyRef) -> None:
        """Move a key to the front, because a caller waits by now for what was to be read ahead."""
        if place in self._ahead:
            del self._ahead[place]
            self._awaited[place] = None

    def _request(self, place: KeyRef, queue: dict[KeyRef, None]) -> Flight:
        flight = self._flights[place] = Flight()
        queue[place] = None
        self._wake.set()
        return flight

    # requests

    async def run(self) -> None:
        """Send the requests for values, for ever."""
        self._stopped = False
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    await self._wake.wait()
                    self._wake = trio.Event()
                    await trio.lowlevel.checkpoint()  # let askers of the same instant share the batch
                    while (request := self._next()) is not None:
                        self._running += 1
                        nursery.start_soon(self._work, request)
        finally:
            self._stopped = True
            self._fail(list(self._flights), UnavailableError("the mount is ending"))

    def _next(self) -> ReadRequest | None:
        """Return the next request, while there is room for one: keys that a caller waits for go first."""
        if self._running >= _REQUESTS:
            return None
        request = self._part(waited=True)
        if request is None and (self._awaited or self._running < _AHEAD):
            request = (None if self._awaited else self._part(waited=False)) or self._gathered()
        return request

    def _part(self, *, waited: bool) -> ReadRequest | None:
        """Return the next of the divided requests, without a key that is now likely to be binary: it goes alone."""
        for index, request in enumerate(self._divided):
            if waited and not any(self._is_waited(request.namespace, key) for key in request.keys):
                continue
            if len(request.keys) > 1:
                risky = (k for k in request.keys if self._kinds.is_single((request.namespace, k)))
                if (key := next(risky, None)) is not None:
                    request.keys = [other for other in request.keys if other != key]
                    return ReadRequest(request.namespace, [key], singly=True)
            del self._divided[index]
            return request
        return None

    def _is_waited(self, namespace: NamespaceId, key: Key) -> bool:
        flight = self._flights.get((namespace, key))
        return flight is not None and flight.waited

    def _gathered(self) -> ReadRequest | None:
        """Take as many queued keys as fit into one request."""
        namespace: NamespaceId | None = None
        keys: list[Key] = []
        risk = 0.0
        most = self._readahead.batch
        for place in chain(self._awaited, self._ahead):
            if self._kinds.is_single(place):
                if not keys:
                    keys, namespace = [place[1]], place[0]
                    break
                continue
            more = risk + self._kinds.risk(place)
            if place[0] != (namespace or place[0]) or not self._kinds.fits(more):
                continue
            namespace, risk = place[0], more
            keys.append(place[1])
            if len(keys) >= most:
                break
        if namespace is None:
            return None
        for key in keys:
            self._awaited.pop((namespace, key), None)
            self._ahead.pop((namespace, key), None)
        return ReadRequest(namespace, keys, singly=self._kinds.is_single((namespace, keys[0])))

    async def _work(self, request: ReadRequest) -> None:
        try:
            self._divided += await self.reading.read(request, self)
        finally:
            self._running -= 1
            self._wake.set()

    async def ask_together(self, namespace: NamespaceId, keys: Sequence[Key]) -> Collection[Key]:
        """See `BulkReader`."""
        with self._listings.settled.asking() as moment:
            entries = await self._store.bulk_get(namespace, keys)
            self._suspects.answered()
            arrived: Landed = []
            for key in keys:
                if key in entries:
                    arrived += self._arrived((namespace, key), entries[key], moment)
            if arrived:
                self.on_contents(namespace, arrived)
            return entries.keys()

    async def ask_alone(self, namespace: NamespaceId, key: Key) -> None:
        """See `BulkReader`."""
        with self._listings.settled.asking() as moment:
            await self._single(namespace, key, moment)
            self._suspects.answered()

    async def _single(self, namespace: NamespaceId, key: Key, moment: int) -> None:
        is_guessed = self._kinds.is_guessed((namespace, key))
        read = await self._store.get(namespace, key)
        if read is None:
            self._arrived((namespace, key), None, moment)
            return
        if is_guessed and is_text(read.value):  # by bulk get value and metadata are of one moment
            self._kinds.learn((namespace, key), is_text=True)
            self._again((namespace, key))
            return
        span = self._listings.span_of(namespace, key)
        if span is not None and span.has(key):
            metadata = self._listings.attributes(namespace, key).metadata
        else:  # a value read singly comes without its metadata
            metadata = await self._store.get_metadata(namespace, key)
        entry = Entry(read.value, metadata, read.expiration)
        if arrived := self._arrived((namespace, key), entry, moment, is_proof=read.tells_expiration):
            self.on_contents(namespace, arrived)

    def _again(self, place: KeyRef) -> None:
        queue = self._awaited if self._is_waited(*place) else self._ahead
        queue[place] = None

    # failed requests

    async def failed(self, request: ReadRequest, error: StoreError) -> list[ReadRequest]:
        """See `BulkReader`: ask in smaller pieces if one key may be the reason of a failure, or give up."""
        if _is_answer(error):
            self._suspects.answered()
        elif may_be_one_key(error) and self._suspects.failed(frozenset(request.keys)):
            return await self._wait_out(request, error)
        if not request.singly:
            if further := self.reading.instead(request, error):
                return self._in_order(request, further, error)
            return self._give_up([request, *request.rest], error)
        self._fail([(request.namespace, key) for key in request.keys], error)
        if is_stuck(error):
            self._kinds.set_apart((request.namespace, request.keys[0]))
        if isinstance(error, RejectedError) or may_be_one_key(error):
            return request.rest
        return self._give_up(request.rest, error)

    def _in_order(
        self, request: ReadRequest, further: list[ReadRequest], error: StoreError
    ) -> list[ReadRequest]:
        """Return the requests that can be made now; the rest of them waits for the first.

        Of a batch with a binary in it, only a single key comes first: it tells the kind of the others.
        """
        first, *others = further
        one_tells = first.singly and others and not others[0].singly
        if isinstance(error, NotTextError) and not one_tells:
            return [*further, *request.rest]
        first.rest = others + request.rest
        return [first]

    def _give_up(self, requests: Sequence[ReadRequest], error: StoreError) -> list[ReadRequest]:
        """Fail these; return the requests that come after them, which are none."""
        log.debug("loading of %d requests failed: %s", len(requests), error)
        for each in requests:
            self._fail([(each.namespace, key) for key in each.keys], error)
        return []

    async def _wait_out(self, request: ReadRequest, error: StoreError) -> list[ReadRequest]:
        """Ask a service that answers nobody again, one request at a time, for as long as the patience lasts.

        A single key, and a request that timed out, was waited for as long already.
        """
        until = trio.current_time() + (0.0 if request.singly or is_stuck(error) else self._patience)
        pause = _FIRST_PAUSE
        async with self._asking_on:
            while self._suspects.is_service and trio.current_time() + pause < until:
                await trio.sleep(pause)
                pause *= 2
                try:
                    return await self.reading.make(request, self)
                except StoreError as exc:
                    error = without_frames(exc)
                    if _is_answer(exc):
                        self._suspects.answered()
                    elif not may_be_one_key(exc):
                        break
        if self._suspects.is_service:
            return self._give_up([request, *request.rest], error)
        return [request]

    # answers

    def _overtaken(self, place: KeyRef) -> None:
        """Replace an answer that may be older than a change made here by that change, or else by another request."""
        clean = self._values.get(place)
        if clean is None and place in self._flights:
            self._again(place)
        else:
            self._finish(place, clean)

    def _arrived(self, place: KeyRef, entry: Entry | None, moment: int, *, is_proof: bool = False) -> Landed:
        """Accept the store's answer for a key, given some time after `moment`; return the value if it still counts.

        `is_proof`: when it has no expiration, the key has none. A bulk get may leave an expiration out.
        """
        if self._listings.settled.is_newer(place, moment):
            self._overtaken(place)
            return []
        is_shadowed = self._shadowed(*place)  # a change made here meanwhile is newer
        clean = None
        if entry is None:
            if not is_shadowed:
                self._values.drop(place)
                self._listings.apply(place[0], [], [place[1]])
        else:
            self._readahead.observe(len(entry.value))
            self._kinds.learn(place, is_text=is_text(entry.value))
            entry = self._completed(place, entry, is_proof=is_proof)
            clean = Clean(entry.value, entry.metadata, entry.expiration, self._now())
            if not is_shadowed:
                self._values.put(place, clean)
                self._listings.amend(place[0], KeyInfo(place[1], entry.metadata, entry.expiration))
        self._finish(place, clean)
        return [] if clean is None or is_shadowed else [(place[1], clean.value)]

    def _completed(self, place: KeyRef, entry: Entry, *, is_proof: bool) -> Entry:
        """Return the entry with the parts that its answer may have left out and the listing knows."""
        listed = self._listings.attributes(*place)
        metadata, expiration = entry.metadata, entry.expiration
        if isinstance(entry, BareEntry):
            metadata = listed.metadata
        if expiration is None and not is_proof and listed.expiration is not None:
            expiration = listed.expiration if listed.expiration > self._now() else None
        return Entry(entry.value, metadata, expiration)

    def _fail(self, places: Sequence[KeyRef], error: StoreError) -> None:
        for place in places:
            if (flight := self._flights.get(place)) is not None:
                flight.error = error
            self._finish(place)

    def _finish(self, place: KeyRef, clean: Clean | None = None) -> None:
        if (flight := self._flights.pop(place, None)) is not None:
            flight.clean, flight.has_ended = clean, True
            if flight.ended is not None:
                flight.ended.set()
            if flight.then is not None:
                flight.then(flight)


def _is_answer(error: StoreError) -> bool:
    """Return whether the service refused the request, which shows that it is there."""
    return isinstance(error, RejectedError) or (isinstance(error, BodyTooLargeError) and bool(error.status))
