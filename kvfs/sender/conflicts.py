"""Conflicts: compares the server's value with the one that programs of this mount last read, just before a write.

KV has no compare-and-swap, so the check leaves a window of one request. It costs one bulk get for a hundred keys that
were read before they were changed, and for new names as `newnames` says. An old value of ours that an eventually
consistent store may still answer (`Row.ancestors`) is no conflict, nor is a key that somebody deleted, because writing
it loses nobody's data. A deletion is compared if no program asked for it: a rename's, and an expiration's.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

import trio

from kvfs.changes.rules import Row, digests, is_unread_since
from kvfs.core.answer_times import AnswerTimes
from kvfs.core.digest import digest
from kvfs.core.errors import (
    BodyTooLargeError,
    DeniedError,
    NamespaceNotFoundError,
    NoAnswerError,
    QuotaError,
    RejectedError,
    StoreError,
    UnavailableError,
    without_frames,
)
from kvfs.core.expiry import is_expired
from kvfs.core.latest import Latest
from kvfs.core.limits import BULK_GET_KEYS
from kvfs.core.model import Change, Entry, Key, KeyRef, NamespaceId, Seq, ValueRead
from kvfs.sender.backoff import asked_wait, may_go_on
from kvfs.sender.chunks import chunks
from kvfs.sender.doubts import Doubts
from kvfs.sender.newnames import MOST_CROWDED, Names, look_up
from kvfs.store.base import Store
from kvfs.store.bulkread import SINGLES, BulkReading, ReadRequest, may_be_one_key
from kvfs.store.passage import Passage, passage

ALONE_SECONDS: Final = 2.0  # for a key that failed alone before, where other answers do not take longer
WIDEST: Final = 6  # bulk gets at once: more would leave those who open files no room
_UNKNOWN: Final = (0.0, False)  # a name that was not listed
FRESH_SECONDS: Final = 60.0  # a list is believed so long of names not sent yet; KV's may be as old as that


def needs_check(row: Row) -> bool:
    """Return True if the change may meet another client's value. One that was sent before may meet it, too."""
    return row.base is not None and (row.guarded or not row.is_tombstone)


def is_ours(row: Row, current: bytes | None, since: float) -> bool:
    """Return whether the store's value, by digest, may be what was read, what is to be written, or between the two.

    Where a value was written over unread after `since` (epoch seconds), any may be: the store may answer it yet.
    """
    if current is None or current in (row.base, row.digest):
        return True
    ancestors = digests(row.ancestors)
    return current in ancestors or any(is_unread_since(ancestor, since) for ancestor in ancestors)


@dataclass
class Answers:
    """The store's answers for the keys it was asked for, and after `Checks.check` those that somebody `changed`.

    `digests`: of its values, None for a missing key; `raw`: those that came as bytes without JSON around them,
    which anything between here and there may have made up; `unasked`: the store was not to be had for them,
    and `failure` says why; `alone`: no answer came for them although they were asked for alone. Keys in none of
    these the store refuses: the write will meet the same.
    """

    digests: dict[KeyRef, bytes | None] = field(default_factory=dict)
    raw: set[KeyRef] = field(default_factory=set)
    unasked: set[KeyRef] = field(default_factory=set)
    alone: set[KeyRef] = field(default_factory=set)
    changed: set[KeyRef] = field(default_factory=set)
    failure: StoreError | None = None
    answered: int = 0  # requests
    failed: int = 0
    wait_until: float = float("-inf")  # monotonic; the server wants no request before

    def fail(self, error: StoreError, places: Iterable[KeyRef], *, is_alone: bool = False) -> None:
        """Note that there is no answer for these, asked for alone or not; credentials say more than the network."""
        places = set(places)
        self.unasked |= places
        self.alone |= places if is_alone else set()
        self.failed += 1
        self.wait_until = max(self.wait_until, trio.current_time() + asked_wait(error))
        if not isinstance(self.failure, DeniedError):
            self.failure = without_frames(error)

    def add_failures(self, other: "Answers") -> None:
        """Add the failures of a second question."""
        self.unasked |= other.unasked
        self.alone |= other.alone
        self.failure = other.failure or self.failure
        self.wait_until = max(self.wait_until, other.wait_until)

    @property
    def is_hopeless(self) -> bool:
        """Return True if asking on is of no use: the server said so, or most of the questions met a failure."""
        return self.failure is not None and (not may_go_on(self.failure) or self.failed > self.answered)


class Digests:
    """Reads what the store has now, a hundred keys a request; `requests` counts them.

    Values that are known to be no text never come in bulk, and are asked for one by one at once.
    """

    def __init__(self, store: Store, now: Callable[[], float], reading: BulkReading) -> None:
        """`reading` may be others' as well, who learn meanwhile."""
        self.store = store
        self.now = now
        self.reading = reading
        self.times = AnswerTimes()
        self._listed: dict[Seq, tuple[float, bool]] = {}  # when (monotonic), and if the name was free
        self._crowded: dict[NamespaceId, Latest[str, None]] = {}  # see `Names`
        self.doubts = Doubts()
        self.requests = 0
        self._width = 1  # requests at once: one after a failure, and twice as many after each answer

    async def read(self, changes: Iterable[Change], ahead: Sequence[Change] = ()) -> Answers:
        """Ask for the changes' keys. It raises no error of the store: keys without an answer are told apart.

        When names are listed, new ones among those that come soon, `ahead`, are looked up as well.
        """
        spaces: dict[NamespaceId, list[Change]] = {}
        for change in changes:
            spaces.setdefault(change.namespace, []).append(change)
        answers = Answers()
        self.doubts.begin()
        for namespace, some in spaces.items():
            try:
                keys = await self._without_absent(namespace, some, ahead, answers)
                await self._read_namespace(namespace, keys, answers)
            except NamespaceNotFoundError:
                continue  # the write will meet the same, and knows what to do
        return answers

    async def _without_absent(
        self, namespace: NamespaceId, changes: Sequence[Change], ahead: Sequence[Change], answers: Answers
    ) -> list[Key]:
        """Return the keys whose values are to be read: of many new names, only those that a listing shows or misses."""
        self._forget_old_lists()
        if sum(map(self._is_to_list, changes)) > BULK_GET_KEYS:
            near = [change for change in ahead if change.namespace == namespace]
            made = {change.key: change.seq for change in [*near, *changes] if self._is_to_list(change)}
            await self._list(namespace, made, changes, answers)
        free = [
            change for change in changes if not change.attempted and self._listed.get(change.seq, _UNKNOWN)[1]
        ]
        absent = {(namespace, change.key) for change in free}
        answers.digests |= dict.fromkeys(absent)
        told = absent | answers.unasked
        return [change.key for change in changes if (namespace, change.key) not in told]

    def _is_to_list(self, change: Change) -> bool:
        return change.base == b"" and not change.attempted and change.seq not in self._listed

    async def _list(
        self, namespace: NamespaceId, made: Mapping[Key, Seq], changes: Sequence[Change], answers: Answers
    ) -> None:
        """Remember which of the names are free."""
        names, asked_at = (
            Names(crowded=self._crowded.setdefault(namespace, Latest(MOST_CROWDED))),
            trio.current_time(),
        )
        wanted = {change.key for change in changes if change.key in made}
        try:
            await trio.sleep_until(answers.wait_until)
            await look_up(self.store, namespace, list(made), self.now(), names, wanted=wanted)
            answers.answered += 1
            self._width = WIDEST
        except NamespaceNotFoundError:
            raise
        except QuotaError:
            pass  # reads have an allowance of their own
        except StoreError as exc:
            rest, names.rest = set(names.rest), []
            answers.fail(exc, [(namespace, change.key) for change in changes if change.key in rest])
        finally:
            self.requests += names.lists
        unreached = [key for key in names.rest if key in wanted]
        self._listed |= {made[key]: (asked_at, False) for key in [*names.taken, *unreached]}
        self._listed |= {made[key]: (asked_at, True) for key in names.absent}

    def forget_lists(self) -> None:
        """Forget the lists, because another client has written: a name that was free may be taken."""
        self._listed.clear()

    def _forget_old_lists(self) -> None:
        oldest = trio.current_time() - FRESH_SECONDS
        while self._listed and next(iter(self._listed.values()))[0] < oldest:
            del self._listed[next(iter(self._listed))]

    async def _read_namespace(self, namespace: NamespaceId, keys: Sequence[Key], answers: Answers) -> None:
        asker = _Asker(self, answers)
        single = [key for key in keys if self.is_single((namespace, key))]
        others = [key for key in keys if not self.is_single((namespace, key))]
        parts = [*chunks(single, SINGLES), *chunks(others, BULK_GET_KEYS)]
        while parts:
            await trio.sleep_until(answers.wait_until)
            if answers.is_hopeless:
                answers.unasked |= {(namespace, key) for part in parts for key in part}
                return
            wave = [parts.pop() for _ in range(min(self._width, len(parts)))]
            answered, smaller = answers.answered, list[Sequence[Key]]()
            await _at_once(partial(asker.ask, namespace, part, smaller) for part in wave)
            parts = [*smaller, *parts]  # the widest first: see `Doubts`
            self._width = min(2 * self._width, WIDEST) if answers.answered >= answered + len(wave) else 1

    def is_single(self, place: KeyRef) -> bool:
        """Return whether the value is to be asked for alone at once."""
        return self.reading.kinds.is_binary(place) or self.doubts.is_culprit(place)


@dataclass(frozen=True)
class _Asker:
    """Makes the requests of one `Digests.read`, and notes their answers: a `BulkReader`."""

    digests: Digests
    answers: Answers

    async def ask(self, namespace: NamespaceId, part: Sequence[Key], smaller: list[Sequence[Key]]) -> None:
        """Ask for some keys in one request, or each alone; add to `smaller` the parts to ask for instead."""
        single = [key for key in part if self.digests.is_single((namespace, key))]
        if single and len(single) < len(part):  # learned since
            smaller += [*chunks(single, SINGLES), [key for key in part if key not in single]]
            return
        alone = [ReadRequest(namespace, [key], singly=True) for key in single]
        await self._make(alone or [ReadRequest(namespace, part)], smaller)

    async def _make(self, requests: Sequence[ReadRequest], smaller: list[Sequence[Key]]) -> None:
        """Make these beside each other, and then those of one key that follow from them."""
        further: list[ReadRequest] = []

        async def make(request: ReadRequest) -> None:
            further.extend(await self.digests.reading.read(request, self))

        await _at_once(partial(make, request) for request in requests)
        smaller += [request.keys for request in further if not request.singly]
        for some in chunks([request for request in further if request.singly], SINGLES):
            await self._make(some, smaller)

    async def ask_together(self, namespace: NamespaceId, keys: Sequence[Key]) -> Collection[Key]:
        """See `BulkReader`."""
        asked = self.digests
        asked.requests += 1
        with passage() as way:
            entries = await asked.store.bulk_get(namespace, keys)
        self._answered(way, [(namespace, key) for key in entries])
        now = asked.now()
        for key, entry in entries.items():
            self.answers.digests[namespace, key] = _digest_of(entry, now)
        return entries.keys()

    async def ask_alone(self, namespace: NamespaceId, key: Key) -> None:
        """See `BulkReader`."""
        asked, place = self.digests, (namespace, key)
        asked.requests += 1
        with passage() as way, self._patience(place, way):
            value = await asked.store.get(namespace, key)
        self._answered(way, [place])
        self.answers.digests[place] = _digest_of(value, asked.now())
        self.answers.raw.add(place)
        if value is not None:
            asked.reading.learn(place, value.value)

    def _answered(self, way: Passage, places: Sequence[KeyRef]) -> None:
        self.answers.answered += 1
        self.digests.times.note(way.seconds)
        self.digests.doubts.answered(places)

    async def failed(self, request: ReadRequest, error: StoreError) -> list[ReadRequest]:
        """See `BulkReader`: decide what a failure says of the keys. Raises `NamespaceNotFoundError`."""
        if isinstance(error, NamespaceNotFoundError):
            raise error
        places = [(request.namespace, key) for key in request.keys]
        if request.singly:
            if not isinstance(error, RejectedError):  # or no such key can exist
                self.answers.fail(error, places, is_alone=may_be_one_key(error))
            return []
        is_theirs = isinstance(error, RejectedError | BodyTooLargeError)  # a binary, a bad key, too many
        is_one = len(places) == 1
        if not is_theirs:
            is_one_of_them = self.digests.doubts.failed(places, error)
            if not is_one_of_them or (is_one and isinstance(error, NoAnswerError)):
                self.answers.fail(error, places, is_alone=is_one_of_them)
                return []
        return self.digests.reading.instead(request, error, singly=is_theirs or is_one)

    @contextmanager
    def _patience(self, place: KeyRef, way: Passage) -> Iterator[None]:
        """Return how long the others of a round wait: for a key that failed alone before, not for long."""
        seconds = self.digests.times.patience(ALONE_SECONDS) if self.digests.doubts.is_culprit(place) else inf
        way.scope.deadline = trio.current_time() + seconds
        with way.scope:
            yield
        if way.scope.cancelled_caught:
            raise NoAnswerError(f"get: no answer within {seconds:g} s, and none before")


class Checks:
    """Finds the changes that would overwrite another client's value."""

    def __init__(
        self, digests: Digests, row: Callable[[Change], Row | None], now: Callable[[], float], window: float
    ) -> None:
        """`row` returns what the journal has of a change, None when a newer one took its place.

        `window` is the number of seconds after which a value that was replaced is not answered any more.
        """
        self.digests = digests
        self._row = row
        self._now = now
        self._window = window

    async def check(self, changes: Collection[Change], ahead: Sequence[Change] = ()) -> Answers:
        """Ask the store; `ahead` as for `Digests.read`. Of the answers `changed` is set, and `alone` is believed.

        Another client's value that came raw is asked for once more before it is believed.
        """
        answers = await self.digests.read(changes, ahead)
        strange = self._strange(changes, answers)
        doubtful = [change for change in strange if change.place in answers.raw]
        if doubtful:
            again = await self.digests.read(doubtful)
            for change in doubtful:
                place = change.place
                if place in again.digests and again.digests[place] != answers.digests[place]:
                    text = f"two reads of {change.key!r} had two answers"
                    again.fail(UnavailableError(text), [place])
            answers.add_failures(again)
        answers.changed = {change.place for change in strange} - answers.unasked
        if answers.answered:
            for place in answers.alone:
                self.digests.doubts.blame(place)
        answers.alone = set(filter(self.digests.doubts.is_culprit, answers.alone))
        return answers

    def _strange(self, changes: Iterable[Change], answers: Answers) -> list[Change]:
        """Return the changes whose key has a value that was neither read here nor came from here."""
        found, oldest = [], self._now() - self._window
        for change in changes:
            row, place = self._row(change), change.place
            if row is None or place not in answers.digests:
                continue
            if not is_ours(row, answers.digests[place], oldest):
                found.append(change)
        return found


async def _at_once(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run the calls beside each other until all are done. Raises `NamespaceNotFoundError` when one of them did."""
    unknown: list[NamespaceNotFoundError] = []

    async def run(call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except NamespaceNotFoundError as exc:
            unknown.append(exc)

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(run, call)
    if unknown:
        raise unknown[0]


def _digest_of(found: Entry | ValueRead | None, now: float) -> bytes | None:
    """Return the digest of a value that is there, None for one that is missing or has expired."""
    return None if found is None or is_expired(found.expiration, now) else digest(found.value)
