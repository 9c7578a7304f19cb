"""Requests, and keys as the account is billed for them: what was sent counts, whether its answer came or not.

Repeats count each time. A request that never left, and one that was refused with HTTP 4xx, count nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from kvfs.core.callers import charge
from kvfs.core.durations import Durations, add, no_durations
from kvfs.core.errors import NotSentError, UnavailableError
from kvfs.store.rest.answer import Answer


@dataclass(slots=True)
class Bill:
    """One request; whoever sends it puts the answer here, if one comes."""

    answer: Answer | None = None


class Billing:
    """The counts so far: `keys` as they are billed, by what was done (read, written, deleted, lists).

    `requests` are by operation, and so are `times`: how long each took, whether an answer came or not.
    """

    def __init__(self) -> None:
        self.keys: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.times: defaultdict[str, Durations] = defaultdict(no_durations)

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
        self.keys[what] += count
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
