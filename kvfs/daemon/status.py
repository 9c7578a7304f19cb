"""The daemon's report on itself: the status object (docs/status.md), the queue, recent errors, metrics."""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Final

import msgspec

from kvfs.core.callers import Callers
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.core.prices import BILLED, dollars
from kvfs.core.text import field, one_line
from kvfs.daemon.build import ReadParts, Stores
from kvfs.daemon.conflict_report import ConflictLog
from kvfs.daemon.outlook import Outlook
from kvfs.daemon.usage import MountUsage
from kvfs.host import replies
from kvfs.journal.journal import Journal
from kvfs.sender.sender import Sender
from kvfs.vfs.filesystem import FileSystem

SHOWN: Final = 100  # changes listed by name
QUEUED: Final = 1_000  # lines of `.kvfs/queue`
ABOUT: Final = 5  # lines of the log that `kvfs why` repeats


class RecentErrors(logging.Handler):
    """Keeps the last warnings and errors for `.kvfs/errors`."""

    def __init__(self, count: int = 200) -> None:
        super().__init__(logging.WARNING)
        self._lines: deque[str] = deque(maxlen=count)
        self._clock = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Remember one line, without its traceback."""
        self._lines.append(
            f"{self._clock.formatTime(record)} {record.levelname} {one_line(record.getMessage())}"
        )

    def text(self) -> bytes:
        """All that are kept, oldest first. Threads may log meanwhile."""
        self.acquire()
        try:
            lines = list(self._lines)
        finally:
            self.release()
        return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True, slots=True)
class Watching:
    """The notes taken while the mount of `source` is served: its last errors, and the work of each process."""

    source: str
    errors: RecentErrors
    callers: Callers


class Reporter:
    """Reads the statistics of all parts; changes nothing."""

    def __init__(
        self,
        fs: FileSystem,
        journal: Journal,
        sender: Sender,
        reading: ReadParts,
        stores: Stores,
        outlook: Outlook,
    ) -> None:
        self._fs = fs
        self._journal = journal
        self._sender = sender
        self._reading = reading
        self._stores = stores
        self._outlook = outlook
        self.usage: MountUsage  # of `files`, like the source
        self._source: str
        self.is_offline = False
        self.history: Callable[[], replies.HistoryState] = replies.HistoryState
        self._errors: RecentErrors | None = None
        self.conflicts = ConflictLog(self.path_at, time.time, journal)

    def path_of(self, change: Change) -> str:
        """Return a change's path below the mount point, as far as names are known."""
        return self.path_at(change.namespace, change.key)

    def path_at(self, namespace: NamespaceId, key: Key) -> str:
        """Return the path of a key below the mount point."""
        return self._fs.paths.of_key(namespace, key)

    def left(self) -> list[replies.LeftItem]:
        """Return the changes that are not at the server: path, error, age; the oldest first, at most `SHOWN`."""
        now = time.time()
        return [
            replies.LeftItem(self.path_of(c), c.last_error, max(0.0, now - c.recorded_at))
            for c in self._journal.totals.not_sent(SHOWN)
        ]

    def item(self, change: Change) -> replies.ChangeItem:
        """Return a change, and when it is tried again."""
        return replies.ChangeItem.of(change, self.path_of(change), time.time(), self._sender.next_try(change))

    def lines_about(self, path: str) -> list[str]:
        """Return the last warnings and errors that name a path, or its last part."""
        name = repr(path.rpartition("/")[2])[1:-1]
        return [line for line in self.errors().splitlines() if name and name in line][-ABOUT:]

    def rejected_item(self, change: Change) -> replies.RejectedItem:
        """Return a change that the server refused for ever."""
        return replies.RejectedItem.of(change, self.path_of(change))

    def status(self) -> replies.StatusReport:
        """Return the whole status; times are seconds, sizes bytes.

        The event loop makes it, often, so it reads counts that others keep, and looks at some hundred changes at
        most.
        """
        totals = self._journal.totals
        sender = self._sender.statistics()
        values = self._reading.values.statistics()
        listings = self._reading.listings.statistics()
        oldest = totals.oldest_pending_at
        rejected = [self.rejected_item(change) for change in self._journal.rejected(SHOWN)]
        return replies.StatusReport(
            state="offline" if self.is_offline else "mounted",
            pending=replies.PendingSum(
                totals.pending_count,
                totals.pending_bytes,
                max(0.0, time.time() - oldest) if oldest is not None else None,
            ),
            settling=replies.Counted(totals.settling_count),
            local=replies.Counted(totals.local_count),
            expirations=replies.Expirations(self._fs.attributes.expirations),
            rejected=replies.Rejected(totals.rejected_count, rejected),
            conflicts=self.conflicts.status(),
            sender={**asdict(sender), "state": str(sender.state)},
            store=self._store(),
            reasons=self._outlook.summary(totals),
            renames=self._renames(),
            requests=dict(self._stores.rest.billing.requests) if self._stores.rest is not None else {},
            keys=self._keys(),
            budget=self._budget(),
            cache=replies.Cached(values.bytes, values.limit, values.entries, listings.keys),
            history=self.history(),
            inodes={"count": self._fs.inodes.count, "open": self._fs.handles.open_files()},
        )

    def _renames(self) -> list[replies.Renaming]:
        """Return the directories that are being renamed, with their values read. `total` is 0 while keys are listed."""
        found = []
        for one in self._fs.renames.under_way:
            if one.directories is not None:
                namespace, source, goal = one.directories
                path, to = (self._fs.paths.of_directory(namespace, ref) for ref in (source, goal))
                found.append(replies.Renaming(path, to, one.done_count, one.total))
        return found

    def _store(self) -> replies.Server:
        sender = self._sender.statistics()
        found = self._outlook.server()
        return replies.Server(
            reachable=sender.retry_at is None,
            error=sender.last_error or "",
            route=self._stores.route() if self._stores.route is not None else "",
            is_local=self._stores.rest is None,
            state=found.kind,
            text=found.reason,
            next_try_seconds=found.seconds,
        )

    def _keys(self) -> dict[str, replies.Number]:
        """Return keys as they are billed, the requests that bulk calls saved, and the price at list."""
        if self._stores.rest is None:
            return {}
        billing = self._stores.rest.billing
        return {
            **{kind: billing.keys[kind] for kind in BILLED},
            "requests_saved": max(0, billing.keys.total() - billing.requests.total()),
            "dollars": round(dollars(billing.keys), 6),
        }

    def _budget(self) -> dict[str, replies.Number]:
        if self._stores.budget is None:
            return {}
        budget = self._stores.budget.statistics()
        return {"used": budget.used, "left": budget.left, "window_seconds": budget.window}

    # the control files

    def errors(self) -> str:
        """Return the last warnings and errors, one a line."""
        return self._errors.text().decode() if self._errors is not None else ""

    def metrics(self) -> bytes:
        """Return all numbers in the format of Prometheus."""
        from kvfs.daemon.metrics import Measured, MountMetrics  # most mounts are never asked

        rest = self._stores.rest
        measured = Measured(
            self._source,
            self.status,
            self._pending_by_namespace,
            self.usage.by_operation,
            lambda: rest.billing.times if rest is not None else {},
            self.usage.waited,
        )
        return MountMetrics(measured).text()

    def files(self, watching: Watching) -> dict[str, Callable[[], bytes]]:
        """Return the contents of `.kvfs/`; called once, before anything else is asked."""
        self._errors = watching.errors
        self.usage = MountUsage(watching.callers)
        self._source = watching.source
        return {
            "status": lambda: msgspec.json.format(msgspec.json.encode(self.status()), indent=2) + b"\n",
            "queue": lambda: b"".join(self._queue()),
            "errors": watching.errors.text,
            "metrics": self.metrics,
        }

    def _pending_by_namespace(self) -> dict[str, tuple[int, int]]:
        """Return count and bytes by the name of a namespace, of those that the mount shows and those with changes."""
        counts = self._journal.totals.pending_by_namespace
        names = {namespace.id: name for name, namespace in self._reading.table.known.items()}
        return {names.get(id_, str(id_)): counts.get(id_, (0, 0)) for id_ in {*names, *counts}}

    def _queue(self) -> Iterable[bytes]:
        totals = self._journal.totals
        for change in totals.not_sent(QUEUED):
            size = "-" if change.is_tombstone else str(change.size)
            path = field(self.path_of(change))
            yield f"{change.seq}\t{change.state}\t{change.kind}\t{size}\t{path}\n".encode()
        if (more := totals.pending_count + totals.rejected_count - QUEUED) > 0:
            yield f"# {more} more: kvfs pending\n".encode()
