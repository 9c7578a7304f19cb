"""The forms of the daemon's answers on the control socket, each defined once for both sides.

Fields that nobody knows are passed over. A field has a default where a daemon of another version may leave it out:
everywhere in the answer to an unmount, *because* that is the way out when two versions do not understand each other.
Elsewhere an answer that lacks a field is refused, with both versions named (`cli/versions`).
"""

from typing import Any, Generic, Self, TypeVar

from msgspec import Struct

from kvfs.core.model import Change

Number = int | float


class Sending(Struct, frozen=True, tag_field="event", tag="progress"):
    """The progress of sending: changes done of a total, bytes left, its wait and how long that lasts.

    `doing` is the work before it, which has no numbers.
    """

    done: int = 0
    total: int = 0
    bytes: float = 0.0
    waiting: str = ""
    seconds: float | None = None
    doing: str = ""


class ChangeItem(Struct, frozen=True):
    """A change as `kvfs pending --json` shows it."""

    seq: int
    path: str
    kind: str
    state: str
    size: int
    age: float
    error: str
    next_try_seconds: float | None = None
    failed_at: float | None = None

    @classmethod
    def of(cls, change: Change, path: str, now: float, next_try: float | None = None) -> Self:
        """Return the item of a change at a path of the mount."""
        age = max(0.0, now - change.recorded_at)
        return cls(
            change.seq,
            path,
            str(change.kind),
            str(change.state),
            change.size,
            age,
            change.last_error,
            next_try,
            change.failed.at if change.failed is not None else None,
        )


class RejectedItem(Struct, frozen=True):
    """A change as `kvfs rejected list --json` shows it."""

    seq: int
    path: str
    size: int
    error: str

    @classmethod
    def of(cls, change: Change, path: str) -> Self:
        """Return the item of a change at a path of the mount."""
        return cls(change.seq, path, change.size, change.error or "")


class ConflictItem(Struct, frozen=True):
    """An open conflict as `kvfs conflicts list --json` shows it; a size is None while it is not known."""

    path: str
    copy: str
    at: float
    size: int | None = None
    copy_size: int | None = None


class PendingItem(Struct, frozen=True):
    """A change for the commands that lay it over what the server has."""

    key: str
    path: str
    deleted: bool
    metadata: str | None = None
    expiration: int | None = None


ItemT = TypeVar("ItemT")


class Done(Struct, frozen=True):
    """An answer that says nothing more."""


class Text(Struct, frozen=True):
    """The text of a control file."""

    text: str


class ItemList(Struct, Generic[ItemT], frozen=True):
    """An answer that holds some items."""

    items: list[ItemT] = []


class Counted(Struct, frozen=True):
    """An answer that says how many."""

    count: int = 0


class FailedItem(Struct, frozen=True):
    """A conflict that could not be settled."""

    path: str
    error: str


class KeepReport(Counted, frozen=True):
    """The conflicts that were settled, and those that could not be."""

    failed: list[FailedItem] = []


class ReasonItem(Struct, frozen=True):
    """A reason, and how many changes have it."""

    reason: str = "?"
    count: int = 0
    advice: str = ""
    next_try_seconds: float | None = None


class LeftItem(Struct, frozen=True):
    """A change that is left."""

    path: str = "?"
    error: str = ""
    age: float | None = None


class FoundConflict(Struct, frozen=True):
    """A conflict that was found since the start. `copy` is "" where a renamed file's old name stays."""

    path: str = "?"
    copy: str = ""
    at: float = 0.0


class ConflictReport(Counted, frozen=True):
    """Conflicts that were not reported before."""

    items: list[FoundConflict] = []


class SendingReport(Struct, frozen=True):
    """The rest of a sync or an unmount, with its reasons, and the counts of what was sent."""

    left: list[LeftItem] = []
    left_count: int = 0
    reasons: list[ReasonItem] = []
    conflicts: ConflictReport = ConflictReport()
    sent: int = 0
    requests: int = 0


class WhyReport(Struct, frozen=True):
    """A change, why it is not at the server, and the lines of the log that name it."""

    change: ChangeItem | None = None
    reasons: list[ReasonItem] = []
    log: list[str] = []


class AtHand(Struct, frozen=True):
    """The present values of a path: how many would be kept, and how many are not on this machine."""

    bounds: str
    at_hand: int
    away: int
    keeps: bool = True


# the status: docs/status.md says what each field means


class PendingSum(Counted, frozen=True):
    """Changes that wait."""

    bytes: int = 0
    oldest_seconds: float | None = None


class Expirations(Struct, frozen=True):
    """Expirations that came from an mtime."""

    by_mtime: int = 0


class Rejected(Counted, frozen=True):
    """Changes that were refused, and the first of them."""

    items: list[RejectedItem] = []


class Conflicts(ConflictReport, frozen=True):
    """Conflicts since the start, the latest of them, and how many are open."""

    open: int = 0


class Server(Struct, frozen=True):
    """The state of the store."""

    reachable: bool
    error: str
    route: str
    is_local: bool
    state: str
    text: str
    next_try_seconds: float | None


class Renaming(Struct, frozen=True):
    """A directory that is being renamed. `total` is 0 while keys are listed."""

    path: str
    to: str
    done: int
    total: int


class Cached(Struct, frozen=True):
    """Bytes in memory, and the bound on them; values, and keys of listings."""

    bytes: int
    limit: int
    values: int
    keys: int


class HistoryState(Struct, frozen=True):
    """The history: its bounds, versions, and how many have their content; all 0 when nothing is kept."""

    bounds: str = "0"
    versions: int = 0
    kept: int = 0
    bytes: int = 0
    oldest_seconds: float | None = None
    lost: int = 0


class StatusReport(Struct, frozen=True):
    """The whole status. `keys` and `budget` are empty for a store on this machine."""

    state: str
    pending: PendingSum
    settling: Counted
    local: Counted
    expirations: Expirations
    rejected: Rejected
    conflicts: Conflicts
    sender: dict[str, Any]
    store: Server
    reasons: list[ReasonItem]
    renames: list[Renaming]
    requests: dict[str, int]
    keys: dict[str, Number]
    budget: dict[str, Number]
    cache: Cached
    history: HistoryState
    inodes: dict[str, int]


# the callers: docs/status.md as well


class BilledKeys(Struct, frozen=True):
    """Keys as they are billed; of what several callers share, each has a part."""

    read: Number
    written: Number
    deleted: Number
    lists: Number


class CallerItem(Struct, frozen=True):
    """A process, or several that have ended. `durations` are counts in buckets of `core.durations`."""

    pid: int
    uid: int
    command: str
    processes: int
    operations: dict[str, int]
    waited: int
    seconds: float
    durations: list[int]
    requests: Number
    keys: BilledKeys
    dollars: Number


class TopReport(Struct, frozen=True):
    """Every caller since `since`, and the part of the status that says what is left."""

    now: float
    since: float
    callers: list[CallerItem]
    requests: dict[str, int]
    keys: dict[str, Number]
    budget: dict[str, Number]
    pending: PendingSum
