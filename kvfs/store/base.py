"""The `Store` protocol: every place that can keep entries, and every wrapper around one.

Contract of all methods:

- They raise the `StoreError` family and nothing else for what the store does; a cancelled call may or may not
  have taken effect. Every operation is idempotent, so a caller may repeat it.
- Keys are validated by the caller's types but checked again before any URL is built: a forbidden or over-long
  key raises `RejectedError`, it never becomes a request.
- `NamespaceNotFoundError` when the namespace is gone; a key that is missing is `None`, never an error.
- Entries that have expired are not returned.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from kvfs.core.limits import LIST_KEYS
from kvfs.core.model import Entry, Key, KeyPage, Metadata, Namespace, NamespaceId, ValueRead


class Store(Protocol):
    """Somewhere entries live."""

    async def list_namespaces(self) -> list[Namespace]:
        """Return all namespaces of the account, every page of them."""

    async def create_namespace(self, title: str) -> Namespace:
        """Create an empty namespace. Raises `TitleExistsError`."""

    async def get_namespace(self, namespace: NamespaceId) -> Namespace:
        """Return one namespace by its id."""

    async def rename_namespace(self, namespace: NamespaceId, title: str) -> None:
        """Give it another title. Raises `TitleExistsError`."""

    async def delete_namespace(self, namespace: NamespaceId) -> None:
        """Delete it with everything in it: the API does not ask whether it is empty."""

    async def list_keys(
        self, namespace: NamespaceId, *, prefix: str = "", cursor: str | None = None, limit: int = LIST_KEYS
    ) -> KeyPage:
        """Return one page of the keys that start with `prefix`, in UTF-8 order; `cursor` is the page before's."""

    async def get(self, namespace: NamespaceId, key: Key) -> ValueRead | None:
        """Return value and expiration of one key, text or binary."""

    async def get_metadata(self, namespace: NamespaceId, key: Key) -> Metadata | None:
        """Return metadata of one key; `None` when it has none or does not exist."""

    async def bulk_get(self, namespace: NamespaceId, keys: Sequence[Key]) -> Mapping[Key, Entry | None]:
        """Return whole entries of 1 to 100 keys. The caller asks singly for a key that the answer leaves out.

        The answer may leave out an expiration, and is a `BareEntry` where it told the value alone. Raises
        `NotTextError` when one of the values is binary and `BodyTooLargeError` when they are too much for one
        answer; then nothing is returned and the caller splits.
        """

    async def put(self, namespace: NamespaceId, key: Key, entry: Entry) -> None:
        """Replace one entry, up to 25 MiB of any bytes."""

    async def bulk_put(
        self, namespace: NamespaceId, entries: Mapping[Key, Entry], *, disguised: bool = False
    ) -> frozenset[Key]:
        """Replace up to 10,000 entries; returns the keys that were *not* written and should be retried.

        With `disguised` no value goes over the network as readable text, which a firewall may object to.
        """

    async def delete(self, namespace: NamespaceId, key: Key) -> None:
        """Remove one key; success also when it did not exist."""

    async def bulk_delete(self, namespace: NamespaceId, keys: Sequence[Key]) -> frozenset[Key]:
        """Remove up to 10,000 keys; returns the keys that were *not* removed and should be retried."""


class Watch(Protocol):
    """Knows when somebody else has written to a store."""

    @property
    def others(self) -> int:
        """Grows when one of our writes finds that somebody else has written since the one before it."""

    def unless_others(self, others: int) -> Store:
        """Return the store with writes that raise `OvertakenError`, and do nothing, once `others` has changed."""

    @property
    def is_prompt(self) -> bool:
        """True for a store in memory, whose writes wait for no disk."""

    def put_now(self, namespace: NamespaceId, key: Key, entry: Entry, others: int | None) -> None:
        """Put one entry into a prompt store; with `others` as the store of `unless_others` does.

        Raises UnavailableError, and does nothing, if somebody else is writing.
        """

    async def put_soon(self, namespace: NamespaceId, key: Key, entry: Entry, others: int | None) -> None:
        """Do `put_now` in any store: wait for the disk, but for no other writer."""


@runtime_checkable
class Watched(Store, Protocol):
    """A store with a `Watch`."""

    @property
    def watch(self) -> Watch:
        """See the class."""
