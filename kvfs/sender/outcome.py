"""What belongs to one round of sending: what it did, whom it tells, how large its bodies may be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from kvfs.core.errors import DeniedError, KvfsError
from kvfs.core.model import Change
from kvfs.core.packing import Batch, pair_bytes
from kvfs.sender.backoff import asked_wait, may_go_on
from kvfs.sender.events import Event, SenderOptions

LEAST_BYTES: Final = 1_000_000  # bodies are not made smaller than this


@dataclass
class Outcome:
    """What a round did: changes settled in some way, and a failure of what is left, if there was one."""

    done: int = 0
    answered: bool = False  # the store said yes or no to a write
    checked: bool = False  # it answered a check for conflicts
    idle: bool = False  # there was nothing that could be sent
    failure: KvfsError | None = None
    refused: bool = False  # a write failed
    wait_until: float = float("-inf")  # monotonic; the server wants no request before

    def fail(self, error: KvfsError) -> None:
        """A write failed. Remember what says most: credentials before the network."""
        self.refused = True
        self.fail_check(error, trio.current_time() + asked_wait(error))

    def fail_check(self, error: KvfsError, wait_until: float) -> None:
        """A check for conflicts failed; nothing is to be asked before that moment (monotonic)."""
        self.wait_until = max(self.wait_until, wait_until)
        if self.failure is None or not isinstance(self.failure, DeniedError):
            self.failure = error

    @property
    def progress(self) -> bool:
        """Whether it came nearer to its end, so that the next may be tried soon.

        An answered check counts only while no write fails: else a store that takes no writes is never left
        in peace.
        """
        return self.answered or (self.checked and not self.refused)

    @property
    def is_over(self) -> bool:
        """Whether nothing more of the round may be tried: the store is away, or said so."""
        return self.failure is not None and not (may_go_on(self.failure) and self.progress)


@dataclass
class Counts:
    """See SenderStatistics."""

    sent: int = 0
    deleted: int = 0
    requests: int = 0
    failures: int = 0
    rejected: int = 0
    conflicts: int = 0
    expired: int = 0


@dataclass
class Reports:
    """Whom to tell.

    `resolved(change, None)` when it arrived, with the error when it was refused; `moved(change, copy)` when a
    conflict took it to another key; `event` for the user.
    """

    resolved: Callable[[Change, KvfsError | None], None]
    moved: Callable[[Change, Change], None]
    event: Callable[[Event], None]


@dataclass
class Limits:
    """What the server copes with: halved when a body was too much, grown slowly while all is well."""

    options: SenderOptions
    pairs: int = field(init=False)
    body_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.pairs, self.body_bytes = self.options.pairs, self.options.body_bytes

    def shrink(self, batch: Batch) -> None:
        """This one was too much."""
        self.pairs = max(1, min(self.pairs, len(batch.changes)) // 2)
        self.body_bytes = max(LEAST_BYTES, min(self.body_bytes, body_size(batch)) // 2)

    def grow(self, batch: Batch) -> None:
        """This one was taken: if it was near a limit, a little more may be."""
        if (self.pairs, self.body_bytes) == (self.options.pairs, self.options.body_bytes):
            return  # the usual case, without looking at ten thousand sizes
        if len(batch.changes) * 2 > self.pairs or body_size(batch) * 2 > self.body_bytes:
            self.pairs = min(self.options.pairs, self.pairs + self.pairs // 4 + 1)
            self.body_bytes = min(self.options.body_bytes, self.body_bytes + self.body_bytes // 4)


def body_size(batch: Batch) -> int:
    """At most how many bytes its body has."""
    return sum(map(pair_bytes, batch.changes))
