"""The parts outside this room that open files need, as protocols."""

from collections.abc import Collection
from typing import Protocol

from kvfs.core.model import Change, Key, KeyRef, NamespaceId
from kvfs.vfs.answers import Answer


class Uploader(Protocol):
    """The part of the sender that fsync needs."""

    def send_at_once(self, place: KeyRef) -> Answer[bool]:
        """Return True if the store has this key now; False if `send_now` has to see to it."""

    async def send_now(self, keys: Collection[tuple[NamespaceId, Key]], timeout: float) -> None:
        """Return when the store has these keys, or raise why not."""

    def beside(self, namespace: NamespaceId, key: Key) -> Key:
        """Return the name for the content of a file whose key another client has written since; it is reported."""

    def is_in_flight(self, change: Change) -> bool:
        """Return whether a request that carries the change is on its way."""


class Invalidator(Protocol):
    """Makes the kernel forget. Only the calls that are to be awaited wait for it."""

    def attributes(self, ino: int) -> None:
        """Make the kernel forget size and times of an inode."""

    async def contents(self, ino: int) -> None:
        """Forget what was read and written of an inode, with size and times; it has when this returns."""

    def entry(self, parent: int, name: bytes) -> None:
        """Make the kernel forget a dentry, absence included."""

    async def entries_forgotten(self) -> None:
        """Return when the kernel has forgotten all names that `entry` was called for."""
