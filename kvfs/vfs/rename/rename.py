"""Rename: of a file, and of a directory with everything below it, inside one namespace.

A rename is a put under the new name and a tombstone under the old, recorded together and sent in that order:
at no moment, and after no crash, does neither name exist. The kernel's inode goes along.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from kvfs.core.errors import (
    CrossDeviceError,
    ExistsError,
    InvalidError,
    IsADirectoryError_,
    NotADirectoryError_,
    NotFoundError,
    TimedOutError,
)
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import SELF, Child, DirRef
from kvfs.core.times import nanoseconds
from kvfs.journal.writer import Move
from kvfs.vfs.answers import answered
from kvfs.vfs.inode.nodes import Directory, Root
from kvfs.vfs.rename.gather import Gathering, RenameProgress, renamed
from kvfs.vfs.rename.move import Moves
from kvfs.vfs.roots import Roots
from kvfs.vfs.tree import Tree
from kvfs.vfs.view.overlay import Overlay

log = logging.getLogger("kvfs.vfs")


@dataclass(frozen=True, slots=True)
class _Place:
    directory: Directory
    name: bytes
    child: Child
    target: Key | DirRef | None
    ref: DirRef

    @property
    def holds(self) -> bool:
        """Return True if the directory still is what it was when the name was found in it."""
        return self.directory.ref is self.ref and not self.directory.detached


class Renames:
    """rename(2), with `no_replace` for RENAME_NOREPLACE."""

    def __init__(
        self,
        overlay: Overlay,
        tree: Tree,
        roots: Roots,
        moves: Moves,
        now: Callable[[], float],
        timeout: float,
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._tree = tree
        self._roots = roots
        self._moves = moves
        self._now = now
        self._timeout = timeout
        self.under_way: list[RenameProgress] = []  # renames of directories

    async def rename(
        self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, *, no_replace: bool
    ) -> None:
        """Give a file or directory another name.

        Raises `CrossDeviceError` across namespaces, `TimedOutError` when nothing arrives for too long.
        """
        progress = RenameProgress(old_name, new_name, self._timeout)
        try:
            with progress.scope:
                await self._rename(old_parent, old_name, new_parent, new_name, no_replace, progress)
                return
        finally:
            if progress in self.under_way:
                self.under_way.remove(progress)
        raise TimedOutError(f"the store is too slow to rename {old_name!r}: nothing was renamed")

    async def _rename(
        self,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        no_replace: bool,
        progress: RenameProgress,
    ) -> None:
        source, goal = self._tree.parent(old_parent), self._tree.parent(new_parent)
        self._tree.hidden.check_changeable(source, old_name)
        self._tree.hidden.check_changeable(goal, new_name)
        if isinstance(source, Root) and isinstance(goal, Root):
            await self._roots.rename(old_name, new_name)
            return
        if not isinstance(source, Directory) or not isinstance(goal, Directory):
            raise CrossDeviceError("a namespace is no directory of another")
        if source.namespace != goal.namespace:
            raise CrossDeviceError("from one namespace to another is a copy and a delete")
        while not await self._renamed(source, old_name, goal, new_name, no_replace, progress):
            pass  # one of the directories was renamed meanwhile: what was found is where it was

    async def _renamed(
        self,
        source: Directory,
        old_name: bytes,
        goal: Directory,
        new_name: bytes,
        no_replace: bool,
        progress: RenameProgress,
    ) -> bool:
        """Try once; return False, with nothing done, when a directory was renamed before the end of it."""
        old = _Place(source, old_name, *await answered(self._tree.child(source, old_name)), source.ref)
        new = _Place(goal, new_name, *await answered(self._tree.child(goal, new_name)), goal.ref)
        if old.target is None:
            raise NotFoundError(f"{old_name!r} is not there")
        if no_replace and new.target is not None:
            raise ExistsError(f"{new_name!r} exists")
        if old.target == new.target:
            return True
        if isinstance(old.target, DirRef):
            is_done = await self._directory(old, old.target, new, progress)
        else:
            is_done = await self._file(old, old.target, new)
        if not is_done:
            return False
        new.directory.changed = old.directory.changed = nanoseconds(self._now())
        return True

    # files

    async def _file(self, old: _Place, key: Key, new: _Place) -> bool:
        if isinstance(new.target, DirRef):
            raise IsADirectoryError_(f"{new.name!r} is a directory")
        if new.child.key is None:
            raise InvalidError(f"{new.name!r} can only be a directory: a key of that name is forbidden")
        namespace, goal = old.directory.namespace, new.child.key
        move = await self._moves.prepare(namespace, key, goal, replaced=new.target, inherits=True)
        if not (old.holds and new.holds):
            return False
        left = self._moves.shown(namespace, key)
        keeps = self._tree.removals.kept(old.directory, key.__eq__, goal)
        with self._journal.transaction():
            self._journal.move(namespace, [move])
            self._tree.removals.keep(namespace, keeps)
        self._moves.leave(namespace, key, left)
        self._moves.moved(namespace, move)
        return True

    async def put_in_place(self, namespace: NamespaceId, key: Key, goal: Key) -> None:
        """Give `goal` all that `key` has, metadata and expiration too, and take `key` away: one change.

        What the store has under `goal` counts as seen: only what comes after that is a conflict again. Raises
        `NotFoundError` when nothing is at `key`, store errors when `goal` cannot be read.
        """
        place, last_seen = (namespace, goal), self._overlay.last_seen
        if self._journal.get(namespace, goal) is None:
            try:
                last_seen.read(place, (await self._overlay.reads.content(namespace, goal)).value)
            except NotFoundError:
                last_seen.removed(place)
        move = await self._moves.prepare(namespace, key, goal, replaced=None)
        self._journal.move(namespace, [move])
        self._moves.moved(namespace, move)

    # directories

    async def _directory(self, old: _Place, source: DirRef, new: _Place, progress: RenameProgress) -> bool:
        namespace = old.directory.namespace
        goal = self._goal(source, new)
        progress.directories = (namespace, source, goal)
        if progress not in self.under_way:
            self.under_way.append(progress)
        if isinstance(new.target, DirRef):
            await self._tree.removals.check_empty(namespace, new.target, new.name)
        keys = await self._overlay.keys_below(namespace, source, progress.moved)
        pairs = {key: renamed(key, source, goal) for key in keys}
        own, own_goal = self._overlay.naming.self_key(source), self._overlay.naming.self_key(goal)
        if own is not None and await self._overlay.view(namespace, own) is not None:
            if own_goal is None:
                raise InvalidError(f"{SELF} cannot go along: KV forbids the key {goal.prefix[:-1]!r}")
            pairs[own] = own_goal
        with self._overlay.listings.settled.asking():  # as long as stamps must hold
            moves = await Gathering(self._overlay, self._moves, namespace, source, goal, progress).all(pairs)
            if not (old.holds and new.holds):
                return False
            gone = {move.old for move in moves}
            keeps = self._tree.removals.kept(
                old.directory, lambda text: text in gone or text.startswith(source.prefix), goal.prefix
            )
            with self._journal.transaction():
                self._record(namespace, source, goal, moves, replaced=isinstance(new.target, DirRef))
                self._tree.removals.keep(namespace, keeps)
        self._moves.directory_moved(namespace, source, goal, moves)
        return True

    def _record(
        self, namespace: NamespaceId, source: DirRef, goal: DirRef, moves: list[Move], *, replaced: bool
    ) -> None:
        """Say what a directory's rename changes, inside the caller's transaction."""
        attributes = self._journal.attributes
        self._journal.move(namespace, moves)
        if replaced:
            attributes.remove_dir(namespace, goal.prefix, goal.start)
        attributes.move_dirs(namespace, source.prefix, goal.prefix)
        if not attributes.has_dir(namespace, goal.prefix, goal.start):
            self._tree.removals.keep(namespace, self._tree.removals.row(goal))

    @staticmethod
    def _goal(source: DirRef, new: _Place) -> DirRef:
        if new.target is not None and not isinstance(new.target, DirRef):
            raise NotADirectoryError_(f"{new.name!r} is a file")
        if new.child.directory is None:
            raise InvalidError(f"nothing can be below {new.name!r}")
        goal = new.child.directory
        if source.is_chunk or goal.is_chunk:
            raise InvalidError("the directories of a long name stand for parts of it: rename the file")
        if goal.prefix.startswith(source.prefix):
            raise InvalidError("a directory cannot become its own descendant")
        return goal
