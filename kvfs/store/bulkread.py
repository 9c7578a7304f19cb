"""Many values from a store: text in bulk, binaries singly, and a request that fails divided to its culprit.

KV answers a hundred texts in one request, but one binary value, one key that the service chokes on or one that
a firewall dislikes fails all hundred. `parts_after` says which smaller requests to make instead; `BulkReader`
makes them. The memory of what is binary is the caller's (`Binaries`), so it can outlive a mount.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from kvfs.core.content import is_text
from kvfs.core.errors import (
    BodyTooLargeError,
    NotTextError,
    RateLimitedError,
    RejectedError,
    StoreError,
    UnavailableError,
    UnreachableError,
)
from kvfs.core.limits import BULK_GET_KEYS
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.base import Store

SINGLES: Final = 8  # up to this many keys, a batch with a binary in it is asked for singly at once
AT_ONCE: Final = 8  # requests in flight
_PROOF: Final = 4  # requests in a row, of different keys, that show the service to be away


class Binaries(Protocol):
    """The memory of which values are binary. A wrong answer costs a request and nothing else."""

    def is_single(self, place: tuple[NamespaceId, Key], /) -> bool:
        """True if the value is better asked for alone."""
        ...

    def learn(self, place: tuple[NamespaceId, Key], /, *, is_text: bool) -> None:
        """A value was seen."""
        ...

    def divide(self, namespace: NamespaceId, keys: Sequence[Key], /) -> list[list[Key]]:
        """Smaller batches for one that a binary value failed."""
        ...


class Remembered:
    """The simplest `Binaries`: keys that were binary when they were last read, the latest `most` of them."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._keys: dict[tuple[NamespaceId, Key], None] = {}

    def is_single(self, place: tuple[NamespaceId, Key]) -> bool:
        """See `Binaries`."""
        return place in self._keys

    def learn(self, place: tuple[NamespaceId, Key], *, is_text: bool) -> None:
        """See `Binaries`."""
        self._keys.pop(place, None)
        if not is_text:
            self._keys[place] = None
            if len(self._keys) > self._most:
                del self._keys[next(iter(self._keys))]

    def divide(self, namespace: NamespaceId, keys: Sequence[Key]) -> list[list[Key]]:
        """See `Binaries`."""
        return halves(keys)


def halves(keys: Sequence[Key]) -> list[list[Key]]:
    """Two halves, or as many as there are keys."""
    middle = (len(keys) + 1) // 2
    return [list(half) for half in (keys[:middle], keys[middle:]) if half]


def may_be_one_key(error: StoreError) -> bool:
    """True if one key of several may be the reason, so that the others can have an answer without it."""
    if isinstance(error, RateLimitedError | UnreachableError):
        return False
    return isinstance(error, UnavailableError | RejectedError)


def parts_after(
    error: StoreError, namespace: NamespaceId, keys: Sequence[Key], binaries: Binaries
) -> list[list[Key]]:
    """Which requests to make instead of a bulk get that failed; none when smaller ones would fail alike.

    A part of one key is to be asked for singly. A single key that failed in bulk gets that chance as well.
    """
    if not may_be_one_key(error):
        return []
    if len(keys) == 1:
        return [list(keys)]
    if isinstance(error, NotTextError):
        return [[key] for key in keys] if len(keys) <= SINGLES else binaries.divide(namespace, keys)
    return halves(keys)


class Suspects:
    """Tells a key that the service chokes on from a service that is away.

    One key may explain every failure since the last answer as long as all of the failed requests named it. When
    none does, and there were at least `proof` failures, it is the service.
    """

    def __init__(self, proof: int) -> None:
        self._proof = proof
        self._failures = 0
        self._keys: Set[object] = frozenset()

    @property
    def is_service(self) -> bool:
        """True while no single key explains the failures since the last answer."""
        return self._failures >= self._proof and not self._keys

    @property
    def has_failures(self) -> bool:
        """True if a request has failed since the last answer."""
        return self._failures > 0

    def answered(self) -> None:
        """Some request had an answer."""
        self._failures = 0

    def failed(self, keys: Set[object]) -> bool:
        """A request that named these failed; true when it is the service."""
        self._keys = self._keys & keys if self._failures else keys
        self._failures += 1
        return self.is_service


@dataclass(frozen=True, slots=True)
class Read:
    """The answer for one key: its `entry` (None: there is none), or the `error` for which there is no answer.

    `is_raw`: it came singly, so its metadata is not in the entry, and anything in between may have made it up.
    """

    entry: Entry | None = None
    error: StoreError | None = None
    is_raw: bool = False


Take = Callable[[Key, Read], None]


class BulkReader:
    """Reads many values of a store; `requests` counts what it asked.

    Unless the store is out of reach, every key has its own answer, however its neighbours fare. While no answer
    comes at all, the rest is given up: waiting is the store's wrappers' affair.
    """

    def __init__(self, store: Store, binaries: Binaries, *, at_once: int = AT_ONCE) -> None:
        self._store = store
        self._binaries = binaries
        self._at_once = at_once
        self.requests = 0

    async def read(self, namespace: NamespaceId, keys: Sequence[Key], take: Take) -> None:
        """Call `take`, which must not await, with each key's answer as it comes. Raises nothing of the store."""
        job = _Job(namespace, deque(self._parts(namespace, keys)), take)
        async with trio.open_nursery() as nursery:
            for _ in range(min(self._at_once, len(job.parts))):
                nursery.start_soon(self._work, job)

    def _parts(self, namespace: NamespaceId, keys: Sequence[Key]) -> "Iterator[_Part]":
        unique = list(dict.fromkeys(keys))
        singles = {key for key in unique if self._binaries.is_single((namespace, key))}
        texts = [key for key in unique if key not in singles]
        for start in range(0, len(texts), BULK_GET_KEYS):
            yield texts[start : start + BULK_GET_KEYS], False
        yield from (([key], True) for key in unique if key in singles)

    async def _work(self, job: "_Job") -> None:
        while job.parts or job.running:
            if not job.parts:  # what is under way may turn into more
                await job.changed.wait()
                continue
            part = job.parts.popleft()
            job.running += 1
            try:
                await self._part(job, *part)
            finally:
                job.running -= 1
                job.changed.set()
                job.changed = trio.Event()

    async def _part(self, job: "_Job", keys: list[Key], singly: bool) -> None:
        if job.failure is not None:
            job.fail(keys, job.failure)
        elif singly:
            await self._single(job, keys[0])
        else:
            await self._bulk(job, keys)

    async def _bulk(self, job: "_Job", keys: list[Key]) -> None:
        try:
            self.requests += 1
            entries = await self._store.bulk_get(job.namespace, keys)
        except StoreError as exc:
            parts = parts_after(exc, job.namespace, keys, self._binaries)
            if not parts or job.is_over(exc, keys):
                job.give_up(keys, exc)
            else:
                job.parts.extendleft((part, len(part) == 1) for part in reversed(parts))
            return
        job.suspects.answered()
        for key in keys:
            if key in entries:
                job.take(key, Read(entries[key]))
            else:  # the answer does not tell plainly
                job.parts.append(([key], True))

    async def _single(self, job: "_Job", key: Key) -> None:
        try:
            self.requests += 1
            found = await self._store.get(job.namespace, key)
        except StoreError as exc:
            if not may_be_one_key(exc) or job.is_over(exc, [key]):
                job.give_up([key], exc)
            else:
                job.fail([key], exc)
            return
        job.suspects.answered()
        if found is None:
            job.take(key, Read(is_raw=True))
            return
        self._binaries.learn((job.namespace, key), is_text=is_text(found.value))
        job.take(key, Read(Entry(found.value, None, found.expiration), is_raw=True))


_Part = tuple[list[Key], bool]
"""Keys of one request, and whether it is to be a single get."""


class _Job:
    """One call of `read`: what is left to ask, and why it was given up if it was."""

    def __init__(self, namespace: NamespaceId, parts: deque[_Part], take: Take) -> None:
        self.namespace = namespace
        self.parts = parts
        self.take = take
        self.running = 0
        self.changed = trio.Event()
        self.suspects = Suspects(_PROOF)
        self.failure: StoreError | None = None

    def is_over(self, error: StoreError, keys: Sequence[Key]) -> bool:
        """Count a failed request; true when it and those before show that the service is away."""
        if isinstance(error, RejectedError | BodyTooLargeError):
            return False  # these are about the keys
        return self.suspects.failed(frozenset(keys))

    def fail(self, keys: Sequence[Key], error: StoreError) -> None:
        """No answer for these."""
        for key in keys:
            self.take(key, Read(error=error))

    def give_up(self, keys: Sequence[Key], error: StoreError) -> None:
        """No answer for these, nor for what is still to be asked."""
        self.failure = error
        self.fail(keys, error)
