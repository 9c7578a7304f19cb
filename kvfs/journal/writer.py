"""The side of the journal that the file system writes to: puts, deletions, renames. `Journal` is made of it.

Each method is one transaction: when it returns, the change is in the file; when it raises, nothing happened.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Final

from msgspec import Struct

from kvfs.core.model import ChangeState, Key, Metadata, NamespaceId, Seq
from kvfs.journal.attributes import Attributes, LocalAttrs
from kvfs.journal.contents import Body
from kvfs.journal.index import Ledger
from kvfs.journal.rules import Put, Row, first_put, needs_tombstone, put_over, tombstone_over


class Unchanged(Enum):
    """For `amend`: leave this as it is."""

    UNCHANGED = 0


UNCHANGED: Final = Unchanged.UNCHANGED


class Move(Struct, frozen=True, gc=False):
    """One key's part in a rename.

    `body` is the content when the journal has none under `old` (it was read from the store), else None.
    `attrs` None: the attributes kept for `old` go along. The bases are what is known of the store's values.
    """

    old: Key
    new: Key
    metadata: Metadata | None
    expiration: int | None
    body: Body | None = None
    base_old: bytes | None = None
    base_new: bytes | None = None
    local: bool = False
    attrs: LocalAttrs | None = None


class Recording:
    """What can be recorded, on top of whatever the journal has of the key."""

    def __init__(self, ledger: Ledger, now: Callable[[], float]) -> None:
        self.attributes: Attributes = ledger.attributes
        self._ledger = ledger
        self._bodies = ledger.bodies
        self._now = now
        self._touched = False  # this transaction gives the sender something to do

    def transaction(self) -> AbstractContextManager[None]:
        """Group any of the methods that write: all or none of them. No await inside."""
        return self._ledger.transaction()

    def record_put(
        self,
        namespace: NamespaceId,
        key: Key,
        body: Body,
        *,
        metadata: Metadata | None,
        expiration: int | None,
        base: bytes | None,
        local: bool = False,
        attrs: LocalAttrs | None = None,
    ) -> Seq:
        """The key is to hold this entry.

        `base` counts only where the journal has no change of the key; otherwise the journal knows better.
        `local` is for a key the store does not hold; where an earlier change of ours may be, it is ignored.
        """
        ledger = self._ledger
        if attrs is not None and body.value is not None and ledger.is_new(namespace, key):
            identity, seq, now = self._bodies.reserve(), ledger.next_seq(), self._now()
            row = first_put(
                namespace, key, body.size, identity, body.digest, metadata, expiration, base, local, seq, now
            )
            self._touched = True
            ledger.insert(row, body.value, attrs)
            return seq
        with ledger.transaction():
            identity = self._bodies.insert(body)
            put = Put(namespace, key, body.size, identity, body.digest, metadata, expiration, base, local)
            row = self._put(put)
            if attrs is not None:
                self.attributes.write_file(namespace, key, attrs)
            return row.change.seq

    def _put(self, put: Put) -> Row:
        old = self._ledger.get(put.namespace, put.key)
        row = put_over(old, put, self._ledger.next_seq(), self._now())
        self._ledger.put(row, old)
        self._touched = True
        return row

    def amend(
        self,
        namespace: NamespaceId,
        key: Key,
        *,
        metadata: Metadata | Unchanged | None = UNCHANGED,
        expiration: int | Unchanged | None = UNCHANGED,
    ) -> Seq:
        """Give an existing put other metadata or another expiration; KeyError when there is no put."""
        with self._ledger.transaction():
            old = self._ledger.get(namespace, key)
            if old is None or old.body is None:
                raise KeyError(key)
            change = old.change
            put = Put(
                namespace,
                key,
                change.size,
                old.body,
                old.digest,
                change.metadata if isinstance(metadata, Unchanged) else metadata,
                change.expiration if isinstance(expiration, Unchanged) else expiration,
                change.base,
                local=change.state is ChangeState.LOCAL,
            )
            return self._put(put).change.seq

    def record_delete(
        self, namespace: NamespaceId, key: Key, *, base: bytes | None, guarded: bool = False
    ) -> Seq | None:
        """The key is to be absent, and what was kept of it here goes.

        What is at the server is deleted whatever it is; `guarded`: only if it is what `base` says. A name that is
        made anew is compared with `base`, too. None when the store need not hear of it: it never had the key
        (`base` b"", or a put never attempted).
        """
        with self._ledger.transaction():
            self.attributes.write_file(namespace, key, None)
            return self._delete(namespace, key, base, guarded=guarded)

    def _delete(
        self,
        namespace: NamespaceId,
        key: Key,
        base: bytes | None,
        waits_for: Seq | None = None,
        *,
        guarded: bool,
    ) -> Seq | None:
        old = self._ledger.get(namespace, key)
        if not needs_tombstone(old, base):
            if old is not None:
                self._ledger.remove(old)
            return None
        if old is not None and old.change.is_tombstone and old.change.state is not ChangeState.REJECTED:
            return old.change.seq if old.change.state is ChangeState.PENDING else None
        seq, now = self._ledger.next_seq(), self._now()
        row = tombstone_over(old, namespace, key, base, seq, now, waits_for, guarded=guarded)
        self._ledger.put(row, old)
        self._touched = True
        return row.change.seq

    def move(self, namespace: NamespaceId, moves: Sequence[Move]) -> None:
        """Rename keys, all or none: a put under each new name; the old one deleted, but not before it landed.

        Raises KeyError when a move has no body and the journal no put under its old name, ValueError when a
        name is both old and new.
        """
        if {move.old for move in moves} & {move.new for move in moves}:
            raise ValueError("a key cannot be both moved and moved over")
        with self._ledger.transaction():
            for move in moves:
                self._move(namespace, move)

    def _move(self, namespace: NamespaceId, move: Move) -> None:
        old = self._ledger.get(namespace, move.old)
        if move.body is not None:
            size, identity, content = move.body.size, self._bodies.insert(move.body), move.body.digest
        elif old is not None and old.body is not None:
            size, identity, content = old.change.size, old.body, old.digest
        else:
            raise KeyError(move.old)
        put = self._put(
            Put(namespace, move.new, size, identity, content, move.metadata, move.expiration,
                move.base_new, move.local)
        )  # fmt: skip
        if old is not None and old.awaited:
            self._ledger.repoint(old.change.seq, put.change.seq)
        self._delete(namespace, move.old, move.base_old, waits_for=put.change.seq, guarded=True)
        attrs = move.attrs or self.attributes.file_attrs(namespace, move.old)
        self.attributes.drop_file_attrs(namespace, move.old)
        if attrs is not None:
            self.attributes.set_file_attrs(namespace, move.new, attrs)
        else:
            self.attributes.drop_file_attrs(namespace, move.new)

    def drop_namespace(self, namespace: NamespaceId) -> None:
        """Forget everything of a namespace that was deleted, pending changes included."""
        with self._ledger.transaction():
            for row in list(self._ledger.rows.get(namespace, {}).values()):
                self._ledger.remove(row)
            self.attributes.drop_namespace(namespace)
