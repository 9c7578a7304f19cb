"""Packs changes into requests: which go together in one body, and in which order. It needs sizes only, no values.

All puts come before all deletes, because a rename is a put and a tombstone: a crash or a refusal between the two may
leave both names, never neither.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from kvfs.core.limits import BULK_VALUE_CHARS
from kvfs.core.model import Change, Key, Metadata, NamespaceId

PAIR_BYTES: Final = 120  # field names, quotes, `"base64":true`, a 16-digit expiration, and some


class BatchKind(StrEnum):
    """The kinds of requests that a batch becomes."""

    PUT = "put"  # one bulk write
    DELETE = "delete"  # one bulk delete
    SINGLE = "single"  # one PUT of one value too big for a bulk body


@dataclass(frozen=True, slots=True)
class Batch:
    """The content of one request: changes of one namespace, oldest first, no key twice.

    `disguised`: no value is to go as readable text.
    """

    namespace: NamespaceId
    kind: BatchKind
    changes: tuple[Change, ...]
    disguised: bool = False

    @property
    def body_bytes(self) -> int:
        """Return at most how many bytes its body has."""
        return sum(map(pair_bytes, self.changes))


def pack(changes: Sequence[Change], *, pairs: int, body_bytes: int) -> list[Batch]:
    """Return the requests for these changes in the order to send them: bulk puts, single puts, bulk deletes.

    Of several changes of a key only the newest is sent. A bulk batch has at most `pairs` changes, and its
    body at most `body_bytes` by `pair_bytes`; a put that would exceed that alone is single. The only batch
    above `body_bytes` is a delete of one key, which cannot be any smaller.
    """
    newest = _newest(changes)
    puts = [change for change in newest if not change.is_tombstone]
    singles = [change for change in puts if _is_single(change, body_bytes)]
    alone = {change.seq for change in singles}
    bulk = [change for change in puts if change.seq not in alone]
    tombstones = [change for change in newest if change.is_tombstone]
    return [
        *_fill(bulk, BatchKind.PUT, pair_bytes, pairs, body_bytes),
        *(Batch(change.namespace, BatchKind.SINGLE, (change,)) for change in singles),
        *_fill(tombstones, BatchKind.DELETE, _key_bytes, pairs, body_bytes),
    ]


def halve(batch: Batch) -> tuple[Batch, Batch]:
    """Return the first and the second half of a batch of two or more changes: `ValueError` for one."""
    middle = len(batch.changes) // 2
    if not middle:
        raise ValueError("a batch of one change has no halves")
    first, second = batch.changes[:middle], batch.changes[middle:]
    return replace(batch, changes=first), replace(batch, changes=second)


def pair_bytes(change: Change) -> int:
    """Return at most how many bytes a put adds to a bulk body: base64, and every odd character of the key escaped.

    A value sent as text instead must be no longer than its base64 would be.
    """
    return bulk_bytes(change.key, change.size, change.metadata)


def bulk_bytes(key: Key, size: int, metadata: Metadata | None) -> int:
    """Return the bytes as `pair_bytes` does, for a value of so many bytes under a key."""
    return _base64_chars(size) + _name_bytes(key) + len(metadata or b"") + PAIR_BYTES


def _key_bytes(change: Change) -> int:
    return _name_bytes(change.key)


def _name_bytes(key: Key) -> int:
    if key.isascii() and key.isprintable() and '"' not in key and "\\" not in key:  # as most are: no escapes
        return len(key) + 3
    return len(json.dumps(key)) + 1


def _base64_chars(size: int) -> int:
    return (size + 2) // 3 * 4


def fits_in_bulk(change: Change) -> bool:
    """Return whether the value is small enough for a bulk body."""
    return _base64_chars(change.size) <= BULK_VALUE_CHARS


def _is_single(change: Change, body_bytes: int) -> bool:
    return not fits_in_bulk(change) or pair_bytes(change) + 2 > body_bytes


def _newest(changes: Iterable[Change]) -> list[Change]:
    """Return one change a key, the newest, oldest first."""
    latest: dict[tuple[NamespaceId, Key], Change] = {}
    for change in sorted(changes, key=lambda change: change.seq):
        place = change.place
        latest.pop(place, None)  # the key moves to where its newest change is
        latest[place] = change
    return list(latest.values())


def _fill(
    changes: Iterable[Change],
    kind: BatchKind,
    cost: Callable[[Change], int],
    pairs: int,
    body_bytes: int,
) -> Iterator[Batch]:
    """Return batches of each namespace, each filled in order until the next change would not fit."""
    spaces: dict[NamespaceId, list[Change]] = {}
    for change in changes:
        spaces.setdefault(change.namespace, []).append(change)
    for namespace, group in spaces.items():
        for part in _parts(group, cost, pairs, body_bytes):
            yield Batch(namespace, kind, part)


def _parts(
    group: Iterable[Change], cost: Callable[[Change], int], pairs: int, body_bytes: int
) -> Iterator[tuple[Change, ...]]:
    part: list[Change] = []
    used = 2  # the brackets
    for change in group:
        size = cost(change)
        if part and (len(part) >= pairs or used + size > body_bytes):
            yield tuple(part)
            part, used = [], 2
        part.append(change)
        used += size
    if part:
        yield tuple(part)
