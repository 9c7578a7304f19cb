"""The messages between the command line and the daemon of a mount, each defined once for both sides.

`host/control.py` carries them and does not look into them. A daemon of another version may leave fields out or have
more: fields have defaults, and those that nobody knows are passed over.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final, Generic, Literal, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

from kvfs.core.errors import InvalidError
from kvfs.core.measures import LONGEST
from kvfs.core.model import Change
from kvfs.host.control import ControlHandler, Message, Send

Timeout = Annotated[float, Meta(ge=0, le=LONGEST)] | None
"""Seconds; None stands for what the mount was told."""


def _name_of(kind: str) -> str:
    return kind.removesuffix("Request").lower()


class Request(Struct, frozen=True, tag_field="request", tag=_name_of):
    """A request of the command line. Its name as it travels is that of the class, if no `tag` says another.

    `SHAPES` has the forms of answers.
    """


class StatusRequest(Request, frozen=True):
    """The whole status: docs/status.md."""


class TopRequest(Request, frozen=True):
    """The work of each process, and its cost."""


class MetricsRequest(Request, frozen=True):
    """The text of `.kvfs/metrics`."""


class ErrorsRequest(Request, frozen=True):
    """The text of `.kvfs/errors`."""


class SyncRequest(Request, frozen=True):
    """Send what is pending; answered by `Sending` events, and in the end by what is left."""

    timeout: Timeout = None


class UnmountRequest(Request, frozen=True):
    """End the mount; answered like `SyncRequest`."""

    timeout: Timeout = None
    lazy: bool = False


class RefreshRequest(Request, frozen=True):
    """Forget what was read at and below a path of the mount; "" is its root."""

    path: str = ""


class WhyRequest(Request, frozen=True):
    """Why a path is not at the server."""

    path: str = ""


class PendingRequest(Request, frozen=True):
    """The changes of a namespace that the server may not show yet: `PendingItem`s."""

    namespace: str = ""


class PendingListRequest(Request, frozen=True, tag="pending_list"):
    """The changes that are not at the server: `ChangeItem`s."""


class RejectedListRequest(Request, frozen=True, tag="rejected_list"):
    """The changes that the server refused for ever: `RejectedItem`s."""


class ChosenRequest(Request, frozen=True):
    """Refused changes by their numbers, or all of them."""

    seqs: list[int] = []
    all: bool = False


class RetryRequest(ChosenRequest, frozen=True, tag="rejected_retry"):
    """Send them again."""


class DiscardRequest(ChosenRequest, frozen=True, tag="rejected_discard"):
    """Give them up."""


class ConflictsRequest(Request, frozen=True, tag="conflicts_list"):
    """The open conflicts: `ConflictItem`s."""


class KeepRequest(Request, frozen=True, tag="conflicts_keep"):
    """Settle the conflicts of these copies."""

    keep: Literal["mine", "theirs"]
    copies: list[str]


class HistoryRequest(Request, frozen=True):
    """Write what was noted of the past, and tell how much of a key or prefix is at hand now."""

    namespace: str = ""
    key: str = ""


class ClearHistoryRequest(Request, frozen=True, tag="history_clear"):
    """Forget the whole past."""


class ToldRequest(Request, frozen=True):
    """Show what a command has written beside the mount: a file of `host/told.py`."""

    file: str = ""


# answers


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
    """An answer to a `KeepRequest`."""

    failed: list[FailedItem] = []


class ReasonItem(Struct, frozen=True):
    """A reason, and how many changes have it."""

    count: int = 0
    reason: str = "?"
    advice: str | None = None
    next_try_seconds: float | None = None


class LeftItem(Struct, frozen=True):
    """A change that is left."""

    path: str = "?"
    error: str | None = None
    age: float | None = None


class ConflictReport(Counted, frozen=True):
    """Conflicts that were not reported before."""

    items: list[Message] = []


class SendingReport(Struct, frozen=True):
    """An answer to a request that sends: see `Controls`."""

    left: list[LeftItem | str] = []
    left_count: int = 0
    reasons: list[ReasonItem] = []
    conflicts: ConflictReport = ConflictReport()
    sent: int = 0
    requests: int = 0


class WhyReport(Struct, frozen=True):
    """An answer to a `WhyRequest`."""

    change: ChangeItem | None = None
    reasons: list[ReasonItem] = []
    log: list[str] = []


SHAPES: Final[Mapping[type[Request], Any]] = {
    SyncRequest: SendingReport,
    UnmountRequest: SendingReport,
    WhyRequest: WhyReport,
    PendingRequest: ItemList[PendingItem],
    PendingListRequest: ItemList[ChangeItem],
    RejectedListRequest: ItemList[RejectedItem],
    ConflictsRequest: ItemList[ConflictItem],
    RetryRequest: Counted,
    DiscardRequest: Counted,
    KeepRequest: KeepReport,
}
"""The forms of answers; those of other requests may hold anything."""


def items(found: "list[Any]") -> Message:
    """Return the answer that holds some items."""
    return {"items": msgspec.to_builtins(found)}


# the daemon's side

R = TypeVar("R", bound=Request)
Answering = Callable[[R, Send], Awaitable[Message]]


def handlers_of(*owners: object) -> dict[str, ControlHandler]:
    """Return handlers by the names of requests: the public methods of these objects that take a `request`."""
    found: dict[str, ControlHandler] = {}
    for owner in owners:
        for name, method in vars(type(owner)).items():
            kind = getattr(method, "__annotations__", {}).get("request")
            if kind is not None and not name.startswith("_"):
                found[name_of(kind)] = _handler(kind, getattr(owner, name))
    return found


def name_of(kind: type[Struct]) -> str:
    """Return the name of a request as it travels."""
    return str(kind.__struct_config__.tag)


def _handler(kind: type[R], answer: Answering[R]) -> ControlHandler:
    async def handle(message: Message, send: Send) -> Message:
        try:
            request = msgspec.convert(message, kind)
        except msgspec.ValidationError as exc:
            raise InvalidError(f"the request {name_of(kind)} is not understood: {exc}") from exc
        return await answer(request, send)

    return handle
