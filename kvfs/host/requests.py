"""The messages between the command line and the daemon of a mount, each defined once for both sides.

`host/control.py` carries them and does not look into them. A daemon of another version may leave fields out or have
more: fields have defaults, and those that nobody knows are passed over.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import msgspec
from msgspec import Meta, Struct

from kvfs.core.errors import InvalidError
from kvfs.core.measures import LONGEST
from kvfs.core.model import Change
from kvfs.host.control import ControlHandler, Message, Send

Timeout = Annotated[float, Meta(ge=0, le=LONGEST)] | None
"""Seconds; None stands for what the mount was told."""


class Request(Struct, frozen=True):
    """A request of the command line; `name` says which."""

    name: ClassVar[str] = ""

    def message(self) -> Message:
        """The request as it travels."""
        return {"request": self.name, **msgspec.to_builtins(self)}


class StatusRequest(Request, frozen=True):
    """The whole status: docs/status.md."""

    name = "status"


class TopRequest(Request, frozen=True):
    """The work of each process, and its cost."""

    name = "top"


class MetricsRequest(Request, frozen=True):
    """The text of `.kvfs/metrics`."""

    name = "metrics"


class ErrorsRequest(Request, frozen=True):
    """The text of `.kvfs/errors`."""

    name = "errors"


class SyncRequest(Request, frozen=True):
    """Send what is pending; answered by `Sending` events and a `SendingReport`."""

    name = "sync"
    timeout: Timeout = None


class UnmountRequest(Request, frozen=True):
    """End the mount; answered like `SyncRequest`."""

    name = "unmount"
    timeout: Timeout = None
    lazy: bool = False


class RefreshRequest(Request, frozen=True):
    """Forget what was read at and below a path of the mount; "" is its root."""

    name = "refresh"
    path: str = ""


class WhyRequest(Request, frozen=True):
    """Why a path is not at the server."""

    name = "why"
    path: str = ""


class PendingRequest(Request, frozen=True):
    """The changes of a namespace that the server may not show yet: `PendingItem`s."""

    name = "pending"
    namespace: str = ""


class PendingListRequest(Request, frozen=True):
    """The changes that are not at the server: `ChangeItem`s."""

    name = "pending_list"


class RejectedListRequest(Request, frozen=True):
    """The changes that the server refused for ever: `RejectedItem`s."""

    name = "rejected_list"


class ChosenRequest(Request, frozen=True):
    """Refused changes by their numbers, or all of them."""

    seqs: list[int] = []
    all: bool = False


class RetryRequest(ChosenRequest, frozen=True):
    """Send them again."""

    name = "rejected_retry"


class DiscardRequest(ChosenRequest, frozen=True):
    """Give them up."""

    name = "rejected_discard"


class ConflictsRequest(Request, frozen=True):
    """The open conflicts: `ConflictItem`s."""

    name = "conflicts_list"


class KeepRequest(Request, frozen=True):
    """Settle the conflicts of these copies."""

    name = "conflicts_keep"
    keep: Literal["mine", "theirs"]
    copies: list[str]


class HistoryRequest(Request, frozen=True):
    """Write what was noted of the past, and tell how much of a key or prefix is at hand now."""

    name = "history"
    namespace: str = ""
    key: str = ""


class ClearHistoryRequest(Request, frozen=True):
    """Forget the whole past."""

    name = "history_clear"


class ToldRequest(Request, frozen=True):
    """Show what a command has written beside the mount: a file of `host/told.py`."""

    name = "told"
    file: str = ""


# answers


class Sending(Struct, frozen=True):
    """The progress of sending: changes done of a total, bytes left, its wait and how long that lasts.

    `doing` is the work before it, which has no numbers.
    """

    event: ClassVar[str] = "progress"
    done: int = 0
    total: int = 0
    bytes: float = 0.0
    waiting: str = ""
    seconds: float | None = None
    doing: str = ""

    def message(self) -> Message:
        """The event as it travels."""
        return {"event": self.event, **msgspec.to_builtins(self)}


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
        """The change at a path of the mount."""
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
        """The change at a path of the mount."""
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


def items(found: "list[Any]") -> Message:
    """The answer that holds some items."""
    return {"items": msgspec.to_builtins(found)}


# the daemon's side

R = TypeVar("R", bound=Request)
Answering = Callable[[R, Send], Awaitable[Message]]


def handlers_of(answers: Mapping[type[Any], Answering[Any]]) -> dict[str, ControlHandler]:
    """Handlers by the names of requests, of functions by the classes of requests."""
    return {kind.name: _handler(kind, answer) for kind, answer in answers.items()}


def _handler(kind: type[R], answer: Answering[R]) -> ControlHandler:
    async def handle(message: Message, send: Send) -> Message:
        try:
            request = msgspec.convert(message, kind)
        except msgspec.ValidationError as exc:
            raise InvalidError(f"the request {kind.name} is not understood: {exc}") from exc
        return await answer(request, send)

    return handle
