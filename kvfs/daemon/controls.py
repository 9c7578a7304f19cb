"""The requests that the control socket of a running mount answers."""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from kvfs.core.errors import InvalidError
from kvfs.core.model import Change, ChangeState, NamespaceId
from kvfs.daemon.outlook import NOT_TRIED, UNANSWERED
from kvfs.daemon.shutdown import Ending
from kvfs.daemon.status import Reporter
from kvfs.host.control import ControlHandler, Message, Send
from kvfs.journal.journal import Journal
from kvfs.sender.chunks import chunks, turn
from kvfs.sender.events import SenderStatistics
from kvfs.sender.sender import Sender
from kvfs.vfs.filesystem import FileSystem


class Controls:
    """Handlers of the requests; `kvfs/host/control.py` calls them."""

    def __init__(
        self,
        fs: FileSystem,
        journal: Journal,
        sender: Sender,
        reporter: Reporter,
        ending: Ending,
        ask_again: Callable[[], None] = lambda: None,
    ) -> None:
        """`ask_again` makes the store forget that the token was refused, because the user may have mended it."""
        self._ask_again = ask_again
        self._fs = fs
        self._journal = journal
        self._sender = sender
        self._reporter = reporter
        self._ending = ending

    def handlers(self) -> Mapping[str, ControlHandler]:
        """Return the handlers by the name of the request."""
        return {
            "status": self.status,
            "top": self.top,
            "metrics": self.metrics,
            "errors": self.errors,
            "sync": self.sync,
            "unmount": self.unmount,
            "refresh": self.refresh,
            "pending": self.pending,
            "pending_list": self.pending_list,
            "why": self.why,
            "rejected_list": self.rejected_list,
            "rejected_retry": self.rejected_retry,
            "rejected_discard": self.rejected_discard,
        }

    async def status(self, request: Message, send: Send) -> Message:
        """Return the whole status."""
        return self._reporter.status()

    async def top(self, request: Message, send: Send) -> Message:
        """Return the work of each process, and its cost."""
        return await self._reporter.usage.top(self._reporter.status())

    async def metrics(self, request: Message, send: Send) -> Message:
        """Return the text of `.kvfs/metrics`."""
        return {"text": self._reporter.metrics().decode()}

    async def errors(self, request: Message, send: Send) -> Message:
        """Return the text of `.kvfs/errors`."""
        return {"text": self._reporter.errors()}

    async def sync(self, request: Message, send: Send) -> Message:
        """Send pending changes, with progress; return what is left."""
        timeout = _seconds(request.get("timeout"), self._ending.drain_timeout)
        self._ask_again()
        before = self._sender.statistics()
        await self._ending.drain(timeout, send)
        return self._left(before)

    def _left(self, before: SenderStatistics) -> Message:
        """Return the changes that are left, with their reasons, and the counts of what was sent since `before`."""
        left, now = [*self._journal.rejected(), *self._journal.pending()], self._sender.statistics()
        return {
            "left": self._reporter.left(),
            "left_count": len(left),
            "reasons": self._ending.outlook.reasons(left, untried=self._untried),
            "conflicts": self._reporter.conflicts.untold(),
            "sent": now.sent + now.deleted - before.sent - before.deleted,
            "requests": now.requests - before.requests,
        }

    def _untried(self, change: Change) -> str:
        return UNANSWERED if self._sender.is_in_flight(change) else NOT_TRIED

    async def unmount(self, request: Message, send: Send) -> Message:
        """End the mount: unmount, send pending changes, return what is left."""
        timeout = _seconds(request.get("timeout"), self._ending.drain_timeout)
        self._ask_again()
        before = self._sender.statistics()
        with self._ending.announced():
            await self._ending.unmount(lazy=bool(request.get("lazy")))
            await self._ending.finished(timeout, send)
            return self._left(before)

    async def refresh(self, request: Message, send: Send) -> Message:
        """Forget the cached knowledge at and below a path."""
        self._ask_again()
        await self._sender.settle_due(at_once=True)  # a change that settles later would hide the news
        await self._fs.forgetting.refresh(PurePosixPath(str(request.get("path", ""))).parts)
        return {}

    async def pending(self, request: Message, send: Send) -> Message:
        """Return the changes of a namespace that the server may not show yet."""
        changes = self._journal.under(NamespaceId(str(request.get("namespace", ""))), "")
        shown = (ChangeState.PENDING, ChangeState.SETTLING)
        return {"items": [self._pending_item(change) for change in changes if change.state in shown]}

    def _pending_item(self, change: Change) -> Message:
        return {
            "key": change.key,
            "path": self._reporter.path_of(change),
            "deleted": change.is_tombstone,
            "metadata": None if change.metadata is None else change.metadata.decode(),
            "expiration": change.expiration,
        }

    async def pending_list(self, request: Message, send: Send) -> Message:
        """Return the changes that are not at the server, the oldest first, and when each is tried again."""
        items: list[Message] = []
        for number, some in enumerate(chunks(self._journal.pending())):
            await turn(number)
            items += map(self._reporter.item, some)
        return {"items": items}

    async def why(self, request: Message, send: Send) -> Message:
        """Explain why a path is not at the server, with the last lines of the log that name it."""
        path = str(request.get("path", ""))
        found: list[Change] = []
        for number, some in enumerate(chunks([*self._journal.rejected(), *self._journal.pending()])):
            await turn(number)
            if found := [change for change in some if self._reporter.path_of(change) == path]:
                break
        item = self._reporter.item(found[0]) if found else None
        reasons = self._ending.outlook.reasons(found[:1])
        return {"change": item, "reasons": reasons, "log": self._reporter.lines_about(path)}

    async def rejected_list(self, request: Message, send: Send) -> Message:
        """Return the changes that the server refused for ever."""
        return {"items": self._reporter.rejected()}

    async def rejected_retry(self, request: Message, send: Send) -> Message:
        """Send refused changes again."""
        chosen = self._chosen(request)
        for change in chosen:
            self._journal.retry(change.namespace, change.key)
        return {"count": len(chosen)}

    async def rejected_discard(self, request: Message, send: Send) -> Message:
        """Discard refused changes: the store's own answer counts again."""
        chosen = self._chosen(request)
        for change in chosen:
            self._discard(change)
        return {"count": len(chosen)}

    def _chosen(self, request: Message) -> list[Change]:
        seqs = request.get("seqs") or []
        if not isinstance(seqs, list) or not all(isinstance(seq, int) for seq in seqs):
            raise InvalidError("seqs is a list of numbers")
        wanted = set(seqs)
        return [c for c in self._journal.rejected() if request.get("all") or c.seq in wanted]

    def _discard(self, change: Change) -> None:
        self._journal.discard(change.namespace, change.key)
        self._fs.forgetting.given_up(change.namespace, change.key)


_LONGEST = 1e9  # seconds


def _seconds(value: object, default: float) -> float:
    if value is None:
        return default
    if not isinstance(value, int | float) or not 0 <= value < _LONGEST:  # NaN is not either
        raise InvalidError("timeout is a number of seconds")
    return float(value)
