"""The requests that the control socket of a running mount answers."""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import TypeVar

from kvfs.core.model import Change, ChangeState, NamespaceId
from kvfs.daemon.shutdown import Ending
from kvfs.daemon.status import Reporter
from kvfs.host import replies
from kvfs.host.control import Send
from kvfs.host.requests import (
    ChosenRequest,
    DiscardRequest,
    ErrorsRequest,
    MetricsRequest,
    PendingListRequest,
    PendingRequest,
    RefreshRequest,
    RejectedListRequest,
    RetryRequest,
    StatusRequest,
    SyncRequest,
    TopRequest,
    UnmountRequest,
    WhyRequest,
)
from kvfs.journal.journal import Journal
from kvfs.sender.chunks import chunks, turn
from kvfs.sender.events import SenderStatistics
from kvfs.sender.sender import Sender
from kvfs.vfs.filesystem import FileSystem

T = TypeVar("T")


class Controls:
    """Handlers for the control socket; see `kvfs/host/requests.py` for what they get and answer."""

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

    async def status(self, request: StatusRequest, send: Send) -> replies.StatusReport:
        """Return the whole status."""
        return self._reporter.status()

    async def top(self, request: TopRequest, send: Send) -> replies.TopReport:
        """Return the work of each process, and its cost."""
        return await self._reporter.usage.top(self._reporter.status())

    async def metrics(self, request: MetricsRequest, send: Send) -> replies.Text:
        """Return the text of `.kvfs/metrics`."""
        return replies.Text(self._reporter.metrics().decode())

    async def errors(self, request: ErrorsRequest, send: Send) -> replies.Text:
        """Return the text of `.kvfs/errors`."""
        return replies.Text(self._reporter.errors())

    async def sync(self, request: SyncRequest, send: Send) -> replies.SendingReport:
        """Send pending changes, with progress; return what is left."""
        timeout = self._ending.drain_timeout if request.timeout is None else request.timeout
        self._ask_again()
        before = self._sender.statistics()
        await self._ending.drain(timeout, send)
        await self._fs.forgetting.reach_kernel()  # copies made of conflicts have names
        return self._left(before)

    def _left(self, before: SenderStatistics) -> replies.SendingReport:
        """Return the changes that are left, with their reasons, and the counts of what was sent since `before`."""
        totals, now = self._journal.totals, self._sender.statistics()
        return replies.SendingReport(
            self._reporter.left(),
            totals.pending_count + totals.rejected_count,
            self._ending.outlook.summary(totals, in_flight=self._sender.in_flight_count),
            self._reporter.conflicts.untold(),
            now.sent + now.deleted - before.sent - before.deleted,
            now.requests - before.requests,
        )

    async def unmount(self, request: UnmountRequest, send: Send) -> replies.SendingReport:
        """End the mount: unmount, send pending changes, return what is left."""
        timeout = self._ending.drain_timeout if request.timeout is None else request.timeout
        self._ask_again()
        before = self._sender.statistics()
        with self._ending.announced():
            await self._ending.unmount(lazy=request.lazy)
            await self._ending.finished(timeout, send)
            return self._left(before)

    async def refresh(self, request: RefreshRequest, send: Send) -> replies.Done:
        """Forget the cached knowledge at and below a path."""
        self._ask_again()
        await self._sender.settle_due(at_once=True)  # a change that settles later would hide the news
        await self._fs.forgetting.refresh(PurePosixPath(request.path).parts)
        await self._fs.forgetting.reach_kernel()
        return replies.Done()

    async def pending(self, request: PendingRequest, send: Send) -> replies.ItemList[replies.PendingItem]:
        """Return the changes of a namespace that the server may not show yet."""
        changes = self._journal.under(NamespaceId(request.namespace), "")
        shown = (ChangeState.PENDING, ChangeState.SETTLING)
        return await _items((change for change in changes if change.state in shown), self._pending_item)

    def _pending_item(self, change: Change) -> replies.PendingItem:
        metadata = None if change.metadata is None else change.metadata.decode()
        path = self._reporter.path_of(change)
        return replies.PendingItem(change.key, path, change.is_tombstone, metadata, change.expiration)

    async def pending_list(
        self, request: PendingListRequest, send: Send
    ) -> replies.ItemList[replies.ChangeItem]:
        """Return the changes that are not at the server, the oldest first, and when each is tried again."""
        return await _items(self._journal.pending(), self._reporter.item)

    async def why(self, request: WhyRequest, send: Send) -> replies.WhyReport:
        """Explain why a path is not at the server, with the last lines of the log that name it."""
        found: list[Change] = []
        for number, some in enumerate(chunks([*self._journal.rejected(), *self._journal.pending()])):
            await turn(number)
            if found := [change for change in some if self._reporter.path_of(change) == request.path]:
                break
        item = self._reporter.item(found[0]) if found else None
        reasons = self._ending.outlook.reasons(found[:1])
        return replies.WhyReport(item, reasons, self._reporter.lines_about(request.path))

    async def rejected_list(
        self, request: RejectedListRequest, send: Send
    ) -> replies.ItemList[replies.RejectedItem]:
        """Return the changes that the server refused for ever."""
        return await _items(self._journal.rejected(), self._reporter.rejected_item)

    async def rejected_retry(self, request: RetryRequest, send: Send) -> replies.Counted:
        """Send refused changes again."""
        return await self._with_each(request, lambda change: self._journal.retry(*change.place))

    async def rejected_discard(self, request: DiscardRequest, send: Send) -> replies.Counted:
        """Discard refused changes: the store's own answer counts again."""
        answer = await self._with_each(request, self._discard)
        await self._fs.forgetting.reach_kernel()
        return answer

    def _discard(self, change: Change) -> None:
        self._journal.discard(*change.place)
        self._fs.forgetting.given_up(*change.place)

    async def _with_each(self, request: ChosenRequest, act: Callable[[Change], object]) -> replies.Counted:
        """Do this with each chosen change, a few at a time; those that were written anew meanwhile stay."""
        count = 0
        for number, some in enumerate(chunks(self._chosen(request))):
            await turn(number)
            for change in some:
                now = self._journal.get(*change.place)
                if now is not None and now.seq == change.seq:
                    act(change)
                    count += 1
        return replies.Counted(count)

    def _chosen(self, request: ChosenRequest) -> list[Change]:
        wanted = set(request.seqs)
        return [c for c in self._journal.rejected() if request.all or c.seq in wanted]


async def _items(changes: Iterable[Change], item_of: Callable[[Change], T]) -> replies.ItemList[T]:
    """Return the answer that holds an item for each change, made a few at a time."""
    found: list[T] = []
    for number, some in enumerate(chunks(changes)):
        await turn(number)
        found += map(item_of, some)
    return replies.ItemList(found)
