"""The root of an account: its namespaces as directories. Changes here are immediate, never written back."""

import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

import trio

from kvfs.cache.namespace_table import NamespaceTable
from kvfs.core.callers import left_of_call
from kvfs.core.errors import ExistsError, InvalidError, NotEmptyError, NotFoundError, TitleExistsError
from kvfs.core.expiry import is_expired
from kvfs.core.model import Key, KeyPage, Namespace, NamespaceId
from kvfs.core.names import DirRef, title_of
from kvfs.vfs.file.outside import Uploader
from kvfs.vfs.inode.nodes import Directory
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.view.overlay import Overlay

T = TypeVar("T")


class Roots:
    """Namespaces by their directory names."""

    def __init__(
        self,
        table: NamespaceTable,
        overlay: Overlay,
        inodes: InodeTable,
        sender: Uploader,
        now: Callable[[], float],
        timeout: float,
    ) -> None:
        self._table = table
        self._overlay = overlay
        self._inodes = inodes
        self._sender = sender
        self._now = now
        self._timeout = timeout
        self._closing: set[NamespaceId] = set()  # being deleted: nothing can be made in them

    def is_closing(self, namespace: NamespaceId) -> bool:
        """Return whether the store is being told to delete a namespace."""
        return namespace in self._closing

    async def entries(self) -> dict[str, Directory]:
        """Return every namespace under its name."""
        names = await self._table.names()
        return {name: self._node(namespace) for name, namespace in names.items()}

    async def lookup(self, name: bytes) -> Directory | None:
        """Return the namespace of a name."""
        found = await self._table.named(name.decode(errors="surrogateescape"))
        return self._node(found) if found is not None else None

    def _node(self, namespace: Namespace) -> Directory:
        return self._inodes.directory(namespace.id, DirRef.ROOT)

    async def create(self, name: bytes) -> Directory:
        """Do mkdir: make a namespace. Raises `ExistsError`, `InvalidError`, `NameTooLongError`."""
        created = await self._titled(name, self._table.create)
        # It was born empty: nobody need ask what is in it.
        self._overlay.listings.learn(created.id, "", KeyPage((), None))
        return self._node(created)

    async def remove(self, name: bytes) -> None:
        """Do rmdir: only of a namespace that the store itself calls empty, once it knows of our deletions."""
        node = await self._existing(name)
        namespace = node.namespace
        if self._has_live(namespace):
            raise NotEmptyError(f"{name!r} is not empty")
        rows = self._overlay.journal.under(namespace, "")
        pending = [(namespace, change.key) for change in rows if change.acked_at is None]
        if pending:
            await self._sender.send_now(pending, left_of_call(self._timeout, trio.current_time()))

        def gone(key: Key) -> bool:
            change = self._overlay.journal.get(namespace, key)
            return change is not None and change.is_tombstone

        if self._has_live(namespace):  # made while the deletions were on their way
            raise NotEmptyError(f"{name!r} is not empty")
        self._closing.add(namespace)
        try:
            deleted = await self._table.delete_empty(namespace, gone)
        finally:
            self._closing.discard(namespace)
        if not deleted:
            self._overlay.listings.forget(namespace)
            raise NotEmptyError(f"{name!r} is not empty")
        self.vanished(namespace)

    def _has_put(self, namespace: NamespaceId) -> bool:
        now, rows = self._now(), self._overlay.journal.under(namespace, "")
        return any(not change.is_tombstone and not is_expired(change.expiration, now) for change in rows)

    def _has_live(self, namespace: NamespaceId) -> bool:
        if self._has_put(namespace) or self._overlay.unsaved.below(namespace, ""):
            return True
        rows = self._overlay.journal.attributes.dirs_under(namespace, "")
        return any(row.prefix for row in rows)  # the empty one is the namespace's own, with its times

    def vanished(self, namespace: NamespaceId) -> None:
        """Forget a namespace that is gone, but for the last records of open files, which the sender sets aside."""
        if not self._has_put(namespace):
            self._overlay.journal.drop_namespace(namespace)
        self._overlay.listings.forget(namespace)
        self._overlay.values.forget(namespace)
        for node in list(self._inodes.names.of_namespace(namespace)):
            self._inodes.names.detach(node)

    async def rename(self, old: bytes, new: bytes) -> None:
        """Do mv: give another title."""
        node = await self._existing(old)
        if old != new:
            await self._titled(new, partial(self._table.rename, node.namespace))

    async def _titled(self, name: bytes, act: Callable[[str], Awaitable[T]]) -> T:
        """Do what gives a namespace the title of a name. Raises `ExistsError` when another one has it."""
        title = title_of(name.decode(errors="surrogateescape"))
        if await self.lookup(name) is None:
            try:
                return await act(title)
            except TitleExistsError:
                self._table.forget()
        raise ExistsError(f"there is a namespace {title!r}")

    async def _existing(self, name: bytes) -> Directory:
        node = await self.lookup(name)
        if node is None:
            raise NotFoundError(f"there is no namespace {name!r}")
        return node


def find_namespace(namespaces: Iterable[Namespace], wanted: str) -> Namespace:
    """Return the namespace that a source names, by id or by title. Raises `InvalidError` when there is none."""
    known = list(namespaces)
    if re.fullmatch(r"[0-9a-f]{32}", wanted):
        for namespace in known:
            if namespace.id == wanted:
                return namespace
    for namespace in known:
        if namespace.title == wanted:
            return namespace
    titles = ", ".join(sorted(repr(namespace.title) for namespace in known)[:10]) or "none at all"
    raise InvalidError(f"unknown namespace {wanted!r}: the account has {titles}")
