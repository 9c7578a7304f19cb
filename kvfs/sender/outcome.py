"""The results of one round of sending, and the listeners that are told of them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from kvfs.core.errors import DeniedError, KvfsError, QuotaError, StoreError, without_frames
from kvfs.core.model import Change, NamespaceId
from kvfs.sender.backoff import asked_wait, may_go_on
from kvfs.sender.events import Event


@dataclass
class Outcome:
    """The result of a round: changes settled in some way, and the failure of the rest, if there was one."""

    done: int = 0
    answered: bool = False  # the store said yes or no to a write
    checked: bool = False  # it answered a check for conflicts
    idle: bool = False  # there was nothing that could be sent
    failure: KvfsError | None = None
    refused: bool = False  # a write failed
    overtaken: bool = False  # another process wrote to the store meanwhile: the rest is to be compared
    overtakings: int = 0  # times that it was
    wait_until: float = float("-inf")  # monotonic; the server wants no request before
    next_try: float = float(
        "inf"
    )  # monotonic; when a deletion that gives way to puts will not wait any longer
    postponed: KvfsError | None = None  # why single keys wait, while the others go on
    quota: QuotaError | None = None  # an allowance of the day turned out to be used up
    accepted: set[NamespaceId] = field(default_factory=set)  # a write to these was taken
    suspects: list[tuple[Change, StoreError]] = field(default_factory=list)  # judged at the end of the round
    alone: list[tuple[Change, KvfsError]] = field(
        default_factory=list
    )  # failed in a body of their own; likewise

    def fail(self, error: KvfsError) -> None:
        """Note that a write failed. Remember the failure that says most: credentials before the network."""
        self.refused = True
        self.fail_check(error, trio.current_time() + asked_wait(error))

    def fail_check(self, error: KvfsError, wait_until: float) -> None:
        """Note that a check for conflicts failed; nothing is to be asked before that moment (monotonic)."""
        self.wait_until = max(self.wait_until, wait_until)
        if self.failure is None or not isinstance(self.failure, DeniedError):
            self.failure = without_frames(error)

    @property
    def is_quiet(self) -> bool:
        """Return True when nothing happened that would make the next choice another one."""
        return self.failure is None and self.postponed is None and self.quota is None

    @property
    def went_well(self) -> bool:
        """Return True when nothing of it waits for another try."""
        return self.is_quiet and self.next_try == float("inf")

    @property
    def progress(self) -> bool:
        """True if it came nearer to its end, so that the next may be tried soon.

        An answered check counts only while no write fails: else a store that takes no writes is never left
        in peace.
        """
        return self.answered or (self.checked and not self.refused)

    @property
    def is_over(self) -> bool:
        """Return True if nothing more of the round may be tried: the store is away, or said so."""
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
    """The listeners of a round.

    `resolved(change, None)` when it arrived, with the error when it was refused; `moved(change, copy)` when a
    conflict took it to another key; `event` for the user.
    """

    resolved: Callable[[Change, KvfsError | None], None]
    moved: Callable[[Change, Change], None]
    event: Callable[[Event], None]
