"""The history of one mount: takes superseded versions, in memory, and has a thread write them.

Invariants:
- `note` does nothing but put a version into a queue: no disk, no digest, no await, *because* it is called between a
  change and its answer.
- What waits is bounded, by bytes and by number. Beyond it versions are noted without their contents, and say so.
- A daemon that is killed loses what waited: the last second, and the last versions of bursts that were not over. That
  is history; a change is never lost by it.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

import trio

from kvfs.core.model import KeyRef, NamespaceId
from kvfs.history.bursts import Bursts, Verdict
from kvfs.history.shelf import INCOMING, HistoryTotals, Shelf, VersionContent
from kvfs.history.version import BUSY, NO_ROOM, Version

DELAY: Final = 1.0  # seconds that versions are gathered for
HURRY_BYTES: Final = 8 * 1024 * 1024  # that are not waited with
HURRY_COUNT: Final = 20_000
TRIM: Final = 15.0  # seconds between looks at age and free room
MOST_COUNT: Final = 200_000
MOST_HELD: Final = 20_000  # versions that wait for the end of their burst
MOST_HELD_BYTES: Final = 16 * 1024 * 1024
_BATCH: Final = 2_000  # versions that a thread writes in one go: some milliseconds
_BATCH_BYTES: Final = 16 * 1024 * 1024

log = logging.getLogger("kvfs.history")


class History:
    """Notes versions, and writes them to the shelf. `title` returns the directory name of a namespace, or None."""

    def __init__(
        self,
        shelf: Shelf,
        now: Callable[[], float],
        title: Callable[[NamespaceId], str | None],
        *,
        most_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self.shelf = shelf
        self._now = now
        self._title = title
        self._most_bytes = most_bytes
        self._bursts = Bursts()
        self._titles: dict[NamespaceId, str] = {}
        # Versions that wait to be written. Invariant: each number is the sum of the sizes beside it.
        self._queue: deque[tuple[Version, VersionContent]] = deque()
        self._bytes = 0
        self._held: dict[KeyRef, tuple[Version, VersionContent, float]] = {}  # until when; the oldest first
        self._held_bytes = 0  # bytes of memory
        self._held_on_disk = 0  # bytes of files
        self._files = 0  # contents that wait and are files
        self._empty = 0  # versions that wait without a content
        self._numbers = count()
        self._due = trio.Event()  # something waits
        self._hurry = trio.Event()  # much does
        self._turn = trio.Lock()

    # on the way of a change

    def note(self, version: Version, content: VersionContent, *, is_new: bool) -> None:
        """Note a superseded value; `is_new` is true if its key was made a moment ago.

        A file in `incoming` is taken over.
        """
        place = (version.namespace, version.key)
        verdict = self._bursts.judge(place, version.at, version.how, is_new=is_new)
        if verdict is Verdict.SKIP:
            _drop(content)
            return
        if version.namespace not in self._titles:
            self._titles[version.namespace] = self._title(version.namespace) or ""
        if place in self._held:
            self._let_go(place)
        if verdict is Verdict.HOLD:
            self._hold(place, version, content)
        else:
            self._enqueue(version, content)
        if not self._due.is_set():
            self._due.set()

    @property
    def has_room(self) -> bool:
        """True if a content that is read only for this would be kept."""
        return self._bytes < self._most_bytes

    def incoming(self) -> Path:
        """Return an unused name for a file that is handed over, on the disk of the history."""
        return self.shelf.directory / INCOMING / str(next(self._numbers))

    def _let_go(self, place: KeyRef) -> None:
        """Drop a held version, because it was not the last of its burst."""
        _drop(self._take_held(place)[1])

    def _hold(self, place: KeyRef, version: Version, content: VersionContent) -> None:
        self._held[place] = (version, content, version.at + self._bursts.seconds(place))
        self._held_bytes += _size(content)
        self._empty += bool(version.why)
        if isinstance(content, Path):
            self._files += 1
            self._held_on_disk += version.size
        while self._holds_too_much():
            self._release(next(iter(self._held)))

    def _holds_too_much(self) -> bool:
        if len(self._held) > MOST_HELD or self._held_bytes > MOST_HELD_BYTES:
            return True
        return self._held_on_disk > self.shelf.most_bytes

    def _take_held(self, place: KeyRef) -> tuple[Version, VersionContent]:
        version, content, _ = self._held.pop(place)
        self._held_bytes -= _size(content)
        self._empty -= bool(version.why)
        if isinstance(content, Path):
            self._files -= 1
            self._held_on_disk -= version.size
        return version, content

    def _release(self, place: KeyRef) -> None:
        self._enqueue(*self._take_held(place))

    def _enqueue(self, version: Version, content: VersionContent) -> None:
        size = _size(content)
        if len(self._queue) >= MOST_COUNT:
            self.shelf.lost += 1
            _drop(content)
            return
        if content is not None and self._bytes + size > self._most_bytes:
            _drop(content)
            version.why, content, size = BUSY, None, 0
        self._queue.append((version, content))
        self._empty += bool(version.why)
        self._files += isinstance(content, Path)
        self._bytes += size
        if self._bytes >= HURRY_BYTES or len(self._queue) >= HURRY_COUNT:
            self._hurry.set()

    # to the disk

    async def run(self) -> None:
        """Write versions that are due, and trim, for ever."""
        while True:
            with trio.move_on_after(self._pause()):
                await self._due.wait()
            with trio.move_on_after(DELAY):
                await self._hurry.wait()
            self._due = trio.Event()
            await self._write()

    def _pause(self) -> float:
        """Return the seconds until there is something to do, should nothing more be noted."""
        first = min((until for _, _, until in self._held.values()), default=self._now() + TRIM)
        return min(TRIM, max(0.0, first - self._now()))

    async def flush(self) -> None:
        """Write everything, also bursts that are not over, because a caller wants to read it."""
        self._release_all()
        await self._write()

    async def _write(self) -> None:
        async with self._turn:
            self._release_due()
            self._hurry = trio.Event()
            while self._queue:
                await trio.lowlevel.checkpoint_if_cancelled()
                with trio.CancelScope(shield=True):  # the versions taken must be written, or nobody has them
                    some = self._taken()
                    await trio.to_thread.run_sync(self.shelf.add, some, self._titles_of(some), self._now())
            await trio.to_thread.run_sync(self.shelf.trim, self._now())

    def give_way(self) -> bool:
        """Make room on a full disk: of large files that wait, else of the shelf; return False if there is none.

        The loop calls it again and again as long as it has made room.
        """
        if not self._files:
            return self.shelf.give_way()
        self._queue = deque((version, _without_file(version, content)) for version, content in self._queue)
        for place, (version, content, until) in self._held.items():
            self._held[place] = (version, _without_file(version, content), until)
        self._empty += self._files
        self._files = self._held_on_disk = 0
        return True

    async def clear(self) -> None:
        """Forget everything."""
        async with self._turn:
            self._release_all()
            while some := self._taken():
                for _, content in some:
                    _drop(content)
            await trio.to_thread.run_sync(self.shelf.clear)

    def close(self) -> None:
        """Write everything at once, at the end of the mount."""
        self._release_all()
        while some := self._taken():
            self.shelf.add(some, self._titles_of(some), self._now())
        self.shelf.close()

    def _release_due(self) -> None:
        now = self._now()
        for place in [place for place, (_, _, until) in self._held.items() if until <= now]:
            self._release(place)

    def _release_all(self) -> None:
        for place in list(self._held):
            self._release(place)

    def _taken(self) -> list[tuple[Version, VersionContent]]:
        """Return the oldest of the waiting versions, for a thread that owns them from now on."""
        some: list[tuple[Version, VersionContent]] = []
        size = 0
        while self._queue and len(some) < _BATCH and size < _BATCH_BYTES:
            some.append(self._queue.popleft())
            size += _size(some[-1][1])
            self._empty -= bool(some[-1][0].why)
            self._files -= isinstance(some[-1][1], Path)
        self._bytes -= size
        return some

    def _titles_of(self, some: list[tuple[Version, VersionContent]]) -> dict[str, str]:
        found = {}
        for namespace in {version.namespace for version, _ in some}:
            title = self._title(namespace)
            if title is not None:  # it may have another by now; one that is gone has the last
                self._titles[namespace] = title
            found[str(namespace)] = self._titles.get(namespace, "")
        return found

    def statistics(self) -> HistoryTotals:
        """Count the versions that are kept, those that wait included; bytes are those on the disk."""
        totals, waiting = self.shelf.totals(), len(self._queue) + len(self._held)
        return replace(
            totals,
            versions=totals.versions + waiting,
            kept=totals.kept + waiting - self._empty,
            oldest=self._oldest_waiting() if totals.oldest is None else totals.oldest,
        )

    def _oldest_waiting(self) -> float | None:
        """Return the moment of the first that waits, which is about the oldest of all."""
        queued = next((version.at for version, _ in self._queue), None)
        held = next((version.at for version, _, _ in self._held.values()), None)
        return min((at for at in (queued, held) if at is not None), default=None)

    def check_invariants(self) -> None:
        """Raise AssertionError when the byte counts are not the sums of what waits."""
        assert self._bytes == sum(_size(content) for _, content in self._queue)
        assert self._held_bytes == sum(_size(content) for _, content, _ in self._held.values())
        waiting = [one[1] for one in (*self._queue, *self._held.values())]
        assert self._files == sum(isinstance(content, Path) for content in waiting)
        versions = [*(one[0] for one in self._queue), *(one[0] for one in self._held.values())]
        assert self._empty == sum(not version.is_kept for version in versions)
        files = [one[0].size for one in self._held.values() if isinstance(one[1], Path)]
        assert self._held_on_disk == sum(files)


def _size(content: VersionContent) -> int:
    """Return the bytes of memory."""
    return len(content) if isinstance(content, bytes) else 0


def _without_file(version: Version, content: VersionContent) -> VersionContent:
    """Return the version without its content, a file that is dropped; the version says so."""
    if not isinstance(content, Path):
        return content
    version.why = NO_ROOM
    _drop(content)
    return None


def _drop(content: VersionContent) -> None:
    if isinstance(content, Path):
        content.unlink(missing_ok=True)
