"""Rules for reading many values: how a bulk get that fails is divided to its culprit.

KV answers a hundred texts in one request, but one binary value, one key that the service chokes on or one that
a firewall dislikes fails all hundred. `BulkReading` makes the requests and says which smaller ones to make instead,
and `Suspects` when no single key is the reason. The cache, the sender and copies all read by it. Each is a
`BulkReader`: it decides the order of its requests, keeps the answers, and knows what a failure means to it.
"""

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, Protocol

from kvfs.core.content import is_text
from kvfs.core.errors import (
    NoAnswerError,
    NotTextError,
    RateLimitedError,
    RejectedError,
    StoreError,
    UnavailableError,
    UnreachableError,
)
from kvfs.core.kinds import Kinds, halves
from kvfs.core.model import Key, KeyRef, NamespaceId

SINGLES: Final = 8  # up to this many keys, a batch with a binary in it is asked for singly at once


def is_stuck(error: StoreError) -> bool:
    """True if the time was up before an answer came, which says nothing about the size of the answer."""
    return isinstance(error, NoAnswerError)


def may_be_one_key(error: StoreError) -> bool:
    """True if one key of several may be the reason, so that the others can have an answer without it."""
    if isinstance(error, NoAnswerError):
        return True
    if isinstance(error, RateLimitedError | UnreachableError):
        return False
    return isinstance(error, UnavailableError | RejectedError)


@dataclass(slots=True, eq=False)
class ReadRequest:
    """One request to come: a bulk get, or with `singly` one key alone.

    `rest` comes after it. `has_binary`: one of the values is known to be no text, so that a bulk get would fail.
    """

    namespace: NamespaceId
    keys: Sequence[Key]
    singly: bool = False
    rest: "list[ReadRequest]" = field(default_factory=list)
    has_binary: bool = False


class BulkReader(Protocol):
    """Keeps the values of requests. What it raises, beside the store's errors, ends the reading."""

    async def ask_together(self, namespace: NamespaceId, keys: Sequence[Key]) -> Collection[Key]:
        """Make a bulk get, and keep its values. Return the keys that it told of. Raises the store's errors."""

    async def ask_alone(self, namespace: NamespaceId, key: Key) -> None:
        """Get one value, and keep it. Raises the store's errors."""

    async def failed(self, request: ReadRequest, error: StoreError) -> list[ReadRequest]:
        """Return the requests to make after one that failed: those `BulkReading.instead` of it, or fewer."""


class BulkReading:
    """Divides keys into requests, and remembers in `kinds` which values are binary: one object for all who read.

    `is_hurried`: an answer soon is worth more than a few requests. Then a small batch with a binary in it is asked
    for singly at once, and endings say how a larger one is divided; else it is always divided in halves.
    """

    def __init__(self, kinds: Kinds | None = None, *, is_hurried: bool = True) -> None:
        self.kinds = kinds if kinds is not None else Kinds()
        self._is_hurried = is_hurried

    def learn(self, place: KeyRef, value: bytes) -> None:
        """Learn from a value that came singly."""
        self.kinds.learn(place, is_text=is_text(value))

    async def read(self, request: ReadRequest, reader: BulkReader) -> list[ReadRequest]:
        """Make a request; return those to make after it. Raises what the reader's `failed` raises."""
        try:
            if request.has_binary:
                raise NotTextError("")  # nobody gets to see it
            return await self.make(request, reader)
        except StoreError as exc:
            request.has_binary = isinstance(exc, NotTextError)
            return await reader.failed(request, exc)

    async def make(self, request: ReadRequest, reader: BulkReader) -> list[ReadRequest]:
        """Make a request; return those to make after it. Raises the store's errors."""
        if request.singly:
            await reader.ask_alone(request.namespace, request.keys[0])
            return request.rest
        told = await reader.ask_together(request.namespace, request.keys)
        odd = [key for key in request.keys if key not in told]  # the answer does not tell plainly
        return [*(ReadRequest(request.namespace, [key], singly=True) for key in odd), *request.rest]

    def instead(self, request: ReadRequest, error: StoreError, *, singly: bool = True) -> list[ReadRequest]:
        """Return the requests to make instead of a failed one, as `parts_after`; with `singly` one key goes alone."""
        parts = self.parts_after(error, request.namespace, request.keys)
        return [ReadRequest(request.namespace, part, singly=singly and len(part) == 1) for part in parts]

    def parts_after(self, error: StoreError, namespace: NamespaceId, keys: Sequence[Key]) -> list[list[Key]]:
        """Return the requests to make after a failed bulk get; none when smaller ones would fail too.

        A single key that failed in bulk is to be asked for singly; of a batch with a binary in it, each part of one.
        """
        if not may_be_one_key(error):
            return []
        if len(keys) == 1:
            return [list(keys)]
        if not self._is_hurried or not isinstance(error, NotTextError):
            return halves(keys)
        return [[key] for key in keys] if len(keys) <= SINGLES else self.kinds.divide(namespace, keys)


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
        """Note that some request had an answer."""
        self._failures = 0

    def failed(self, keys: Set[object], weight: int = 1) -> bool:
        """Note a failed request that named these, as `weight` failures; return True when the service is the reason."""
        self._keys = self._keys & keys if self._failures else keys
        self._failures += weight
        return self.is_service
