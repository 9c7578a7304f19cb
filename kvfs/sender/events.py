"""The types by which the sender speaks to other rooms: events, options, results."""

import socket
from dataclasses import dataclass, field
from enum import StrEnum

from kvfs.core.bulksize import BODY_BYTES, FIRST_PAIRS
from kvfs.core.limits import BULK_PAIRS
from kvfs.core.model import Key, NamespaceId
from kvfs.store.bulkread import BulkReading


class EventKind(StrEnum):
    """The kinds of events."""

    CONFLICT = "conflict"  # another client changed the key: our change went to `copy`
    REJECTED = "rejected"  # the store will never take it; set aside
    EXPIRED = "expired"  # its time passed before it was sent
    UNAVAILABLE = "unavailable"  # the store cannot be reached; once until `recovered`
    DENIED = "denied"  # the credentials do not permit it; once likewise
    QUOTA = "quota"  # the day's allowance is used up; once likewise
    RECOVERED = "recovered"  # the store takes changes again


@dataclass(frozen=True, slots=True)
class Event:
    """One event that a user may want to know: `text` says it in a line; without a key it is about all of them."""

    kind: EventKind
    text: str
    namespace: NamespaceId | None = None
    key: Key | None = None
    copy: Key | None = None


class OnConflict(StrEnum):
    """The treatment of a change whose value somebody else changed meanwhile."""

    KEEP_BOTH = "keep-both"
    OVERWRITE = "overwrite"


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """Times in seconds. `timeout` bounds a request, `pairs` and `body_bytes` a body; `parallel` at once.

    `first_pairs` is how many pairs the first body has at most, before anything is known of the server. `reading` is
    shared with the cache, so that what one learned of binary values the other need not ask again.
    """

    delay: float = 5.0
    max_age: float = 30.0
    pairs: int = BULK_PAIRS
    first_pairs: int = FIRST_PAIRS
    body_bytes: int = BODY_BYTES
    settle_window: float = 90.0
    timeout: float = 300.0
    parallel: int = 4
    on_conflict: OnConflict = OnConflict.KEEP_BOTH
    host: str = field(default_factory=socket.gethostname)
    reading: BulkReading = field(default_factory=BulkReading)


class SenderState(StrEnum):
    """The states of the sender."""

    IDLE = "idle"
    SENDING = "sending"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"
    QUOTA = "quota"


@dataclass(frozen=True, slots=True)
class SenderStatistics:
    """Counts since the start; `retry_at` is epoch seconds, None when nothing is wrong.

    `sent` and `deleted` count changes, `requests` the writes and reads made for them.
    """

    state: SenderState
    sent: int
    deleted: int
    requests: int
    failures: int
    rejected: int
    conflicts: int
    expired: int
    last_error: str | None
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class DrainResult:
    """The result of a drain: `sent` arrived; `left` did not, `rejected` of them are set aside.

    `error` is why the others stay.
    """

    sent: int
    left: int
    rejected: int
    error: str | None
