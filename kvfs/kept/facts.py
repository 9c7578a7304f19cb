"""Local facts about keys without a change, directories and namespaces, as far as memory holds them.

Invariants:
- `unsaved` has the attributes that the log says of keys without a change and that the side table may lack; `dropped`
  the namespaces whose rows in the side table do not count.
- All of it is altered only after the log was. A `save` that fails alters nothing, *because* the log has it all.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

from sortedcontainers import SortedDict

from kvfs.core.errors import JournalError, JournalFullError
from kvfs.core.generation import Generation
from kvfs.core.model import KeyRef, NamespaceId
from kvfs.kept.local import DirRow, LocalAttrs
from kvfs.kept.side import SideBusyError, SideTable

SAVE_COUNT: Final = 1024  # this many are worth a transaction of SQLite, which takes three milliseconds
CACHED_FILES: Final = 65_536

log = logging.getLogger("kvfs.journal")


class LocalFacts:
    """Attributes of keys without a change, made directories, and when namespaces were seen first."""

    def __init__(self, side: SideTable | None = None) -> None:
        """Without `side` it only knows what the log says, and saves nothing."""
        self._side = side
        self._cached: dict[KeyRef, LocalAttrs | None] = {}  # rows of the side table
        self._is_failing = False
        self._is_told = False
        self.unsaved: dict[KeyRef, LocalAttrs | None] = {}
        self.dropped: set[NamespaceId] = set()
        self.directories: dict[NamespaceId, SortedDict[tuple[str, int], DirRow]] = {}
        self.seen: dict[NamespaceId, int] = {}
        self.generation = (
            Generation()
        )  # of what a change, or what is kept here, shows: the journal bumps it, too

    def file(self, place: KeyRef) -> LocalAttrs | None:
        """Return the local attributes of a key without a change."""
        if place in self.unsaved:
            return self.unsaved[place]
        if self._side is None or self._side.is_empty or place[0] in self.dropped:
            return None
        if place not in self._cached:
            self._remember({place: self._side.get(place)})
        return self._cached[place]

    def _remember(self, files: Mapping[KeyRef, LocalAttrs | None]) -> None:
        """Remember attributes, in bounds.

        Many go at once, because a dict that loses its first entry looks at all places of lost ones.
        """
        self._cached.update(files)
        excess = len(self._cached) - CACHED_FILES
        if excess > CACHED_FILES // 16:
            for place in list(islice(self._cached, excess)):
                del self._cached[place]

    # operations of the log

    def set_file(self, place: KeyRef, attrs: LocalAttrs | None, *, is_visible: bool = True) -> None:
        """Keep these attributes of a key without a change."""
        if attrs is None and place not in self.unsaved and self._side is not None and self._side.is_empty:
            return  # so it is already: files that come and go leave nothing to save
        self.unsaved[place] = attrs
        if is_visible:
            self.generation.bump()

    def settled(self, place: KeyRef, attrs: LocalAttrs | None) -> None:
        """Note that the key has no change any more; the side table was told before, if possible."""
        if place not in self._cached or self._cached[place] is not attrs:
            self.set_file(place, attrs)

    def has_change(self, place: KeyRef) -> None:
        """Note that the key has a change, which now has its attributes; the generation tells so already."""
        self.unsaved.pop(place, None)

    def set_directory(self, namespace: NamespaceId, row: DirRow) -> None:
        """Note that a directory was made, or has these attributes."""
        self.directories.setdefault(namespace, SortedDict())[row.prefix, row.start] = row
        self.generation.bump()

    def drop_directory(self, namespace: NamespaceId, prefix: str, start: int) -> None:
        """Note that a directory is no longer one that mkdir made."""
        rows = self.directories.get(namespace)
        if rows is not None:
            rows.pop((prefix, start), None)
        self.generation.bump()

    def drop_namespace(self, namespace: NamespaceId) -> None:
        """Forget all attributes of a namespace."""
        for files in (self.unsaved, self._cached):
            for place in [place for place in files if place[0] == namespace]:
                del files[place]
        self.dropped.add(namespace)
        self.directories.pop(namespace, None)
        self.seen.pop(namespace, None)
        self.generation.bump()

    # to the side table

    def save(self, more: Iterable[tuple[KeyRef, LocalAttrs | None]] = ()) -> None:
        """Write the rows that the side table lacks, and `more`. Raises JournalError; the log has them all the same."""
        files = {**self.unsaved, **dict(more)}
        assert self._side is not None
        self._side.save(files, self.dropped)
        self._remember(files)
        self.unsaved.clear()
        self.dropped.clear()
        self._is_failing = self._is_told = False

    def not_saved(self) -> tuple[list[tuple[KeyRef, LocalAttrs | None]], list[NamespaceId]]:
        """Do `save`; return what a full disk keeps from the side table, and the namespaces it must not count.

        JournalError.
        """
        with suppress(JournalFullError):
            self.save()
        return list(self.unsaved.items()), list(self.dropped)

    def try_to_save(self, more: Iterable[tuple[KeyRef, LocalAttrs | None]] = ()) -> None:
        """Do `save`; a side table that takes nothing now (on a full disk) is no error yet."""
        try:
            self.save(more)
        except SideBusyError:
            self._is_failing = True
        except JournalError as exc:
            if not self._is_told:
                log.warning("attributes stay in the journal's log for now: %s", exc)
            self._is_failing = self._is_told = True

    def save_if_due(self) -> None:
        """Save if enough rows wait; called after each commit."""
        if len(self.unsaved) >= SAVE_COUNT and not (self._is_failing and len(self.unsaved) % SAVE_COUNT):
            self.try_to_save()
