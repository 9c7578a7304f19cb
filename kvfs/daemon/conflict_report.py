"""Keeps the conflicts that the sender found, values that another client had changed meanwhile, until they are settled.

A conflict is settled when its copy is gone from its name: by `kvfs conflicts keep`, by `rm`, by `mv`, or by another
client. The open ones are kept beside the journal. The file is written after the journal, so a crash in between is made
up for when the next mount finds a pending copy that is not in the file.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kvfs.changes.records import DropNamespace, DropRow, LogOperation, SetRow
from kvfs.core.model import Key, KeyRef, NamespaceId
from kvfs.host.open_conflicts import Conflict, ConflictFile
from kvfs.host.replies import ConflictReport, Conflicts, FoundConflict
from kvfs.journal.journal import Journal
from kvfs.sender.copynames import original_of
from kvfs.sender.events import Event

log = logging.getLogger("kvfs.daemon")

SHOWN: Final = 100  # the latest, by name


class ConflictLog:
    """Conflicts of one source. Each is reported once by the next sync or unmount, and listed while it is open."""

    def __init__(
        self, path_of: Callable[[NamespaceId, Key], str], now: Callable[[], float], journal: Journal
    ) -> None:
        self._path_of = path_of
        self._now = now
        self._journal = journal
        self._file = ConflictFile(journal.path)
        self._items: deque[FoundConflict] = deque(maxlen=SHOWN)
        self._count = 0
        self._told = 0
        self._open: dict[KeyRef, Conflict] = {}  # by the copy
        self._restore()

    def _restore(self) -> None:
        """Take up the conflicts that earlier mounts left open."""
        before = self._file.read()
        for conflict in before:
            change = self._journal.get(conflict.namespace, conflict.copy)
            if change is None or not change.is_tombstone:
                self._open[conflict.namespace, conflict.copy] = conflict
        for change in self._journal.iter_pending():
            place, key = change.place, original_of(change.key)
            if key is not None and not change.is_tombstone and place not in self._open:
                self._open[place] = Conflict(change.namespace, key, change.key, change.recorded_at)
        if before != list(self._open.values()):
            self._write(lambda: self._file.replace(self._open.values()))
        self._watch()

    def note(self, event: Event) -> None:
        """Note one more. The caller passes an event of kind CONFLICT."""
        assert event.namespace is not None
        assert event.key is not None
        key = event.key
        if event.copy is not None:
            while (original := original_of(key)) is not None:  # the copy of a copy
                key = original
            conflict = Conflict(event.namespace, key, event.copy, self._now())
            self._open[event.namespace, event.copy] = conflict
            self._write(lambda: self._file.append(conflict))
            self._watch()
        copy = self._path_of(event.namespace, event.copy) if event.copy is not None else ""
        self._items.append(FoundConflict(self._path_of(event.namespace, key), copy, self._now()))
        self._count += 1

    # while they are open

    def open(self) -> list[Conflict]:
        """Return all that are open, the oldest first."""
        return sorted(self._open.values(), key=lambda conflict: conflict.at)

    def is_open(self, conflict: Conflict) -> bool:
        """Return whether nobody has settled it yet."""
        return self._open.get((conflict.namespace, conflict.copy)) is conflict

    def others_of(self, namespace: NamespaceId, key: Key) -> list[Key]:
        """Return the other sides of a key: its copies, or the key that it is a copy of."""
        if (conflict := self._open.get((namespace, key))) is not None:
            return [conflict.key]
        return [one.copy for one in self.open() if (one.namespace, one.key) == (namespace, key)]

    def settle(self, namespace: NamespaceId, copy: Key) -> None:
        """Settle a conflict, because the copy is gone from its name."""
        conflict = self._open.pop((namespace, copy), None)
        if conflict is None:
            return
        if self._open:
            self._write(lambda: self._file.append(conflict, settled=True))
        else:
            self._write(lambda: self._file.replace(()))
        self._watch()

    def _watch(self) -> None:
        """Listen to the journal's changes only while a conflict is open."""
        self._journal.news.watch = self._committed if self._open else None

    def _committed(self, operations: Sequence[LogOperation]) -> None:
        for place in self._gone(operations):
            self.settle(*place)

    def _gone(self, operations: Sequence[LogOperation]) -> Iterable[KeyRef]:
        """Return the names that these operations take away."""
        for operation in operations:
            if isinstance(operation, SetRow) and operation.row.is_tombstone:
                yield operation.row.namespace, operation.row.key
            elif isinstance(operation, DropRow):
                yield operation.namespace, operation.key
            elif isinstance(operation, DropNamespace):
                yield from [place for place in self._open if place[0] == operation.namespace]

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as exc:
            log.warning("the list of conflicts cannot be written (%s): it is right until the unmount", exc)

    # telling

    def status(self) -> Conflicts:
        """Return their number, and the latest ones."""
        return Conflicts(self._count, list(self._items), len(self._open))

    def untold(self) -> ConflictReport:
        """Return the conflicts that were not reported yet, and mark them as reported."""
        count = self._count - self._told
        self._told = self._count
        return ConflictReport(count, list(self._items)[-count:] if count else [])
