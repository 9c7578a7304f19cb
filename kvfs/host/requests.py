"""The requests of the command line to the daemon of a mount, each defined once for both sides, with its answer's form.

`host/control.py` carries them and does not look into them. A command of another version may leave fields out or have
more: fields have defaults, and those that nobody knows are passed over.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta, Struct

from kvfs.core.errors import InvalidError
from kvfs.core.measures import LONGEST
from kvfs.host import replies
from kvfs.host.control import ControlHandler, Message, Send

A = TypeVar("A", bound=Struct)

Timeout = Annotated[float, Meta(ge=0, le=LONGEST)] | None
"""Seconds; None stands for what the mount was told."""


def _name_of(kind: str) -> str:
    return kind.removesuffix("Request").lower()


class Request(Struct, Generic[A], frozen=True, tag_field="request", tag=_name_of):
    """A request that is answered by an `A`. Its name as it travels is that of the class, if no `tag` says another."""


class StatusRequest(Request[replies.StatusReport], frozen=True):
    """The whole status: docs/status.md."""


class TopRequest(Request[replies.TopReport], frozen=True):
    """The work of each process, and its cost."""


class MetricsRequest(Request[replies.Text], frozen=True):
    """The text of `.kvfs/metrics`."""


class ErrorsRequest(Request[replies.Text], frozen=True):
    """The text of `.kvfs/errors`."""


class SyncRequest(Request[replies.SendingReport], frozen=True):
    """Send what is pending; answered by `Sending` events, and in the end by what is left."""

    timeout: Timeout = None


class UnmountRequest(Request[replies.SendingReport], frozen=True):
    """End the mount; answered like `SyncRequest`."""

    timeout: Timeout = None
    lazy: bool = False


class RefreshRequest(Request[replies.Done], frozen=True):
    """Forget what was read at and below a path of the mount; "" is its root."""

    path: str = ""


class WhyRequest(Request[replies.WhyReport], frozen=True):
    """Why a path is not at the server."""

    path: str = ""


class PendingRequest(Request[replies.ItemList[replies.PendingItem]], frozen=True):
    """The changes of a namespace that the server may not show yet."""

    namespace: str = ""


class PendingListRequest(Request[replies.ItemList[replies.ChangeItem]], frozen=True, tag="pending_list"):
    """The changes that are not at the server."""


class RejectedListRequest(Request[replies.ItemList[replies.RejectedItem]], frozen=True, tag="rejected_list"):
    """The changes that the server refused for ever."""


class ChosenRequest(Request[replies.Counted], frozen=True):
    """Refused changes by their numbers, or all of them."""

    seqs: list[int] = []
    all: bool = False


class RetryRequest(ChosenRequest, frozen=True, tag="rejected_retry"):
    """Send them again."""


class DiscardRequest(ChosenRequest, frozen=True, tag="rejected_discard"):
    """Give them up."""


class ConflictsRequest(Request[replies.ItemList[replies.ConflictItem]], frozen=True, tag="conflicts_list"):
    """The open conflicts."""


class KeepRequest(Request[replies.KeepReport], frozen=True, tag="conflicts_keep"):
    """Settle the conflicts of these copies."""

    keep: Literal["mine", "theirs"]
    copies: list[str]


class HistoryRequest(Request[replies.AtHand], frozen=True):
    """Write what was noted of the past, and tell how much of a key or prefix is at hand now."""

    namespace: str = ""
    key: str = ""


class ClearHistoryRequest(Request[replies.Done], frozen=True, tag="history_clear"):
    """Forget the whole past."""


class ToldRequest(Request[replies.Counted], frozen=True):
    """Show what a command has written beside the mount: a file of `host/told.py`."""

    file: str = ""


# the daemon's side

Answering = Callable[[Any, Send], Awaitable[Struct]]


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


def form_of(kind: type[Request[A]]) -> type[A]:
    """Return the form of the answer to a request."""
    form: type[A] = get_args(kind.__orig_bases__[0])[0]  # type: ignore[attr-defined]
    return form


def _handler(kind: type[Struct], answer: Answering) -> ControlHandler:
    async def handle(message: Message, send: Send) -> Message:
        try:
            request = msgspec.convert(message, kind)
        except msgspec.ValidationError as exc:
            raise InvalidError(f"the request {name_of(kind)} is not understood: {exc}") from exc
        found: Message = msgspec.to_builtins(await answer(request, send))
        return found

    return handle
