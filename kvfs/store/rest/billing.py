"""Requests, and keys as the account is billed for them: what was sent counts, whether its answer came or not.

Repeats count each time. A request that never left, and one that was refused with HTTP 4xx, count nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from kvfs.core.callers import charge
from kvfs.core.durations import Durations, add, no_durations
from kvfs.core.errors import NotSentError, UnavailableError
from kvfs.store.rest.answer import Answer


@dataclass(frozen=True, slots=True)
class RestStatistics:
    """The counts so far. `requests` by operation; keys as they are billed; bytes of bodies.

    `times`: how long requests took, by operation, whether an answer came or not.
    """

    requests: Mapping[str, int]
    keys_read: int
    keys_written: int
    keys_deleted: int
    lists: int
    bytes_sent: int
    bytes_received: int
    times: Mapping[str, Durations]


@dataclass(slots=True)
class Bill:
    """One request; whoever sends it puts the answer here, if one comes."""

    answer: Answer | None = None


class Billing:
    """Counts by what was done: read, written, deleted, lists."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.times: defaultdict[str, Durations] = defaultdict(no_durations)
        self.bytes_sent = 0
        self.bytes_received = 0

    def statistics(self) -> RestStatistics:
        """Requests, keys and bytes so far."""
        return RestStatistics(
            requests=dict(self.requests),
            keys_read=self._counts["read"],
            keys_written=self._counts["written"],
            keys_deleted=self._counts["deleted"],
            lists=self._counts["lists"],
            bytes_sent=self.bytes_sent,
            bytes_received=self.bytes_received,
            times=self.times,
        )

    @contextmanager
    def asking(self, operation: str) -> Iterator[None]:
        """Count one request that is made inside, and charge it to its callers."""
        self.requests[operation] += 1
        charge("requests")
        began = trio.current_time()
        try:
            yield
        finally:
            add(self.times[operation], int((trio.current_time() - began) * 1e9))

    def add(self, what: str, count: int) -> None:
        """Count so many more, and charge the caller they are for."""
        self._counts[what] += count
        if count:
            charge(what, count)

    @contextmanager
    def sending(self, what: str, count: int) -> Iterator[Bill]:
        """Count a request inside that carries `count` keys."""
        bill = Bill()
        try:
            yield bill
        except UnavailableError as exc:
            self.add(what, 0 if isinstance(exc, NotSentError) else count)
            raise
        if bill.answer is not None and not 400 <= bill.answer.status < 500:
            self.add(what, count)
