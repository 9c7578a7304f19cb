"""Gathers the moves of all files of a directory that is renamed, while others go on working in it."""

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import trio

from kvfs.cache.flights import Flight
from kvfs.cache.values import Clean
from kvfs.core.callers import SLACK, call_ends, prolong_call
from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import NameTooLongError, NotFoundError
from kvfs.core.limits import BULK_GET_KEYS, KEY_BYTES
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.journal.writer import Move
from kvfs.log.spool import Body
from kvfs.vfs.rename.move import Moves, Stamp
from kvfs.vfs.view.overlay import Overlay

T = TypeVar("T")

_LOADS: Final = 1_600  # values awaited at once while a directory moves: sixteen bulk gets
_TELL: Final = 10.0  # seconds between two lines in the log
_MOMENT: Final = 0.1  # seconds between two looks at the clock that count
_BREATH: Final = 100  # values between two checkpoints, where nothing is waited for

log = logging.getLogger("kvfs.vfs")


class RenameProgress:
    """The progress of a directory's rename, which may take long but must not stand still for long."""

    def __init__(self, old: bytes, new: bytes, timeout: float) -> None:
        """`timeout`: the seconds it may stand still."""
        self._names = old, new
        self._timeout = timeout
        self.done_count = self.total = 0
        self.directories: tuple[NamespaceId, DirRef, DirRef] | None = None  # from and to, once they are known
        self._moved_at = self._told_at = trio.current_time()
        self.scope = trio.CancelScope(deadline=min(self._moved_at + timeout, call_ends()) + SLACK)

    def moved(self) -> None:
        """Note that something arrived."""
        now = trio.current_time()
        if now - self._moved_at > _MOMENT:
            self._moved_at, self.scope.deadline = now, now + self._timeout + SLACK
            prolong_call(now + self._timeout)

    def expect(self, total: int) -> None:
        """Note how many values are to be read."""
        self.done_count, self.total = 0, total

    def count(self) -> None:
        """Count one of them as read."""
        self.moved()
        self.done_count += 1
        if self._moved_at - self._told_at >= _TELL:
            self._told_at = self._moved_at
            log.info("renaming %r to %r: %d of %d values read", *self._names, self.done_count, self.total)

    async def done(self) -> None:
        """Count a key as done, and let other tasks run now and then."""
        self.count()
        if self.done_count % _BREATH == 0:
            await trio.lowlevel.checkpoint()


class Gathering:
    """Prepares a move for every file, by as few requests as there can be, and those that changed meanwhile anew.

    To be used by who is `asking` (see `Settled`) for as long as the moves are not recorded.
    """

    def __init__(
        self,
        overlay: Overlay,
        moves: Moves,
        namespace: NamespaceId,
        source: DirRef,
        goal: DirRef,
        progress: RenameProgress,
    ) -> None:
        self._overlay = overlay
        self._moves = moves
        self._namespace = namespace
        self._source = source
        self._goal = goal
        self._progress = progress
        self._pairs: dict[Key, Key] = {}
        self._found: dict[Key, Move] = {}
        self._stamps: dict[
            Key, Stamp
        ] = {}  # the states for which the moves are right; of keys that vanished, too
        # of values that the store was asked for
        self._coming: Iterator[Key] = iter(())  # not yet
        self._outstanding = 0
        self._left: list[Key] = []  # more is to be seen to than a value
        self._failures: list[Exception] = []
        self._news = trio.Event()  # all have landed, or one failed
        self._nursery: trio.Nursery | None = None  # while they land

    async def all(self, pairs: dict[Key, Key]) -> list[Move]:
        """Return every file's move, as things are when this returns; `pairs` are the new names of those known so far.

        Raises what `Moves.prepare` raises, and `NameTooLongError`.
        """
        self._pairs = pairs
        before: tuple[int, int] | None = None
        while True:
            creating = self._overlay.unsaved.below(self._namespace, self._source.prefix)
            if before == (before := self._moves.state) and not creating:
                break
            stale = self._stale(creating)
            if not stale:
                break
            await self._prepare(stale)
        return [self._found[key] for key in pairs if key in self._found]

    def _stale(self, creating: Sequence[Key]) -> list[Key]:
        """Return files that are not prepared, or were changed since."""
        written = [change.key for change in self._overlay.known.written_below(self._namespace, self._source)]
        for key in (*creating, *written):
            self._pairs.setdefault(key, renamed(key, self._source, self._goal))
        unsaved = set(creating)
        return [key for key in self._pairs if key in unsaved or not self._is_prepared(key)]

    def _is_prepared(self, key: Key) -> bool:
        stamp = self._stamps.get(key)
        return stamp is not None and self._moves.holds(self._namespace, key, stamp)

    async def _prepare(self, keys: Sequence[Key]) -> None:
        for key in keys:
            if len(self._pairs[key].encode()) > KEY_BYTES:
                raise NameTooLongError(f"{key!r} would have more than {KEY_BYTES} bytes under its new name")
        self._progress.expect(len(keys))
        left = await self._from_store(await self._at_once(keys))
        await _each(left, self._singly, most=_LOADS)

    async def _at_once(self, keys: Sequence[Key]) -> list[Key]:
        """Prepare the keys whose values are here; return the others."""
        away = []
        for key in keys:
            move = self._moves.prepare_now(self._namespace, key, self._pairs[key])
            if move is None:
                away.append(key)
                continue
            self._found[key], self._stamps[key] = move, self._moves.stamp(self._namespace, key)
            await self._progress.done()
        return away

    # from the store

    async def _from_store(self, keys: Sequence[Key]) -> list[Key]:
        """Prepare the keys whose values the store has, as they arrive; return the others."""
        self._coming, self._left = iter(keys), []
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._ask()
                while self._outstanding and not self._failures:
                    self._news = trio.Event()
                    await self._news.wait()
        finally:
            self._nursery = None  # nobody waits for values that land from now on
        if self._failures:
            raise copy(self._failures[0])
        return self._left

    def _ask(self) -> None:
        """Ask for as many values as may be under way."""
        namespace = self._namespace
        while self._outstanding <= _LOADS - BULK_GET_KEYS and not self._failures:
            some = list(islice(self._coming, BULK_GET_KEYS))
            if not some:
                return
            for key in some:
                stamp = self._moves.stamp(namespace, key)
                if self._moves.ask(namespace, key, partial(self._landed, key, stamp)):
                    self._outstanding += 1
                else:
                    self._left.append(key)

    def _landed(self, key: Key, stamp: Stamp, flight: Flight) -> None:
        """Take in a fetched value, called by the loader: a small one at once, a large one by a task of its own."""
        nursery = self._nursery
        if nursery is None:
            return
        self._outstanding -= 1
        try:
            clean = self._moves.landed(self._namespace, key, flight)
            if clean is not None and len(clean.value) > INLINE_BYTES:
                nursery.start_soon(self._write, key, stamp, clean)
            else:
                body = self._overlay.journal.stage(clean.value) if clean is not None else None
                self._take_up(key, stamp, clean, body)
            self._ask()
        except Exception as exc:
            self._failures.append(exc)
        if self._failures or not self._outstanding:
            self._news.set()

    async def _write(self, key: Key, stamp: Stamp, clean: Clean) -> None:
        try:
            self._take_up(key, stamp, clean, await self._overlay.journal.spool(clean.value))
        except Exception as exc:
            self._failures.append(exc)
            self._news.set()

    def _take_up(self, key: Key, stamp: Stamp, clean: Clean | None, body: Body | None) -> None:
        try:
            move = self._moves.prepare_landed(self._namespace, key, self._pairs[key], clean, body, stamp)
        except NotFoundError:
            self._vanished(key, stamp)
        else:
            if move is None:
                self._left.append(key)  # and counts when it is done
                self._progress.moved()
                return
            self._found[key], self._stamps[key] = move, stamp
        self._progress.count()

    # one by one

    async def _singly(self, key: Key) -> None:
        before = self._moves.stamp(self._namespace, key)
        try:
            move = await self._moves.prepare(self._namespace, key, self._pairs[key], replaced=None)
        except NotFoundError:
            self._vanished(key, before)
        else:
            after = self._moves.stamp(self._namespace, key)
            self._found[key], self._stamps[key] = move, Stamp(after.seq, before.moment)
        await self._progress.done()

    def _vanished(self, key: Key, stamp: Stamp) -> None:
        """Note that a file vanished meanwhile: there is nothing to move."""
        self._found.pop(key, None)
        self._stamps[key] = stamp


async def _each(items: Sequence[T], act: Callable[[T], Awaitable[None]], *, most: int) -> None:
    """Do `act` on all, on `most` at a time; raise the first failure when those under way have ended."""
    failures: list[Exception] = []
    coming = iter(items)

    async def work() -> None:
        for item in coming:
            try:
                await act(item)
            except Exception as exc:
                failures.append(exc)
            if failures:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(most, len(items))):
            nursery.start_soon(work)
    if failures:
        raise failures[0]


def renamed(key: Key, source: DirRef, goal: DirRef) -> Key:
    """Return the key that a key below `source` has below `goal`."""
    return Key(goal.prefix + key[len(source.prefix) :])
