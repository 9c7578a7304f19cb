"""Rules for reading many values: how a bulk get that fails is divided to its culprit.

KV answers a hundred texts in one request, but one binary value, one key that the service chokes on or one that
a firewall dislikes fails all hundred. `parts_after` says which smaller requests to make instead, and `Suspects`
when no single key is the reason. The memory of what is binary is the caller's (`Binaries`).
"""

from collections.abc import Sequence, Set
from typing import Final, Protocol

from kvfs.core.errors import (
    NoAnswerError,
    NotTextError,
    RateLimitedError,
    RejectedError,
    StoreError,
    UnavailableError,
    UnreachableError,
)
from kvfs.core.kinds import halves
from kvfs.core.model import Key, NamespaceId

SINGLES: Final = 8  # up to this many keys, a batch with a binary in it is asked for singly at once


class Binaries(Protocol):
    """The memory of which values are binary, as far as it divides a batch. A wrong guess costs a request."""

    def divide(self, namespace: NamespaceId, keys: Sequence[Key], /) -> list[list[Key]]:
        """Smaller batches for one that a binary value failed."""
        ...


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


def parts_after(
    error: StoreError, namespace: NamespaceId, keys: Sequence[Key], binaries: Binaries
) -> list[list[Key]]:
    """Return the requests to make after a failed bulk get; none when smaller ones would fail too.

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

    def failed(self, keys: Set[object], weight: int = 1) -> bool:
        """A request that named these failed, which counts as `weight` failures; true when it is the service."""
        self._keys = self._keys & keys if self._failures else keys
        self._failures += weight
        return self.is_service
