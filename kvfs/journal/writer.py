"""The writer, the side of the journal that the file system writes to: puts, deletions, renames.

Invariants:
- Each method is one transaction, or a part of the one around it: when it returns, the change is in the log; when it
  raises, nothing happened.
- A change takes over what the row before it knows of the store (`rules`), *because* otherwise a deleted key could come
  back, or our own value be taken for another client's.
- The superseded state is reported after the record, *because* a history that fails must not fail a change.
"""

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kvfs.changes.records import DropNamespace
from kvfs.changes.rules import (
    Content,
    Put,
    Row,
    adopted_over,
    needs_tombstone,
    outlasts,
    put_over,
    tombstone_over,
)
from kvfs.core.model import Change, ChangeState, How, Key, Metadata, NamespaceId, Seq
from kvfs.core.times import nanoseconds
from kvfs.journal.transaction import Transactions
from kvfs.kept.local import DirRow, LocalAttrs, alive, content_shown
from kvfs.log.spool import Body


class Unchanged(Enum):
    """The mark by which `amend` leaves a field as it is."""

    UNCHANGED = 0


UNCHANGED: Final = Unchanged.UNCHANGED
_NONE: Final = Key("")

log = logging.getLogger("kvfs.journal")


class Move(Struct, frozen=True, gc=False):
    """One key's part in a rename.

    `body` is the content when the journal has none under `old` (it was read from the store), else None. With `attrs`
    None the attributes of `old` go along. The bases are the known digests of the store's values.
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


class Superseded(Struct, frozen=True, gc=False):
    """A key before a change was recorded: its row, if it had one, and its local attributes.

    `how` the change came about, with `other` the other name of a rename; `is_one_of_many`: of a directory's.
    """

    namespace: NamespaceId
    key: Key
    row: Row | None
    attrs: LocalAttrs | None
    how: How
    other: Key = Key("")
    is_one_of_many: bool = False


class JournalWriter:
    """The recording of changes on top of the journal's earlier ones.

    `on_superseded` is called with the superseded state, after the change is in the log and before anybody else knows
    of it. An exception of it is only logged, *because* the change is recorded.
    """

    def __init__(self, transactions: Transactions, now: Callable[[], float]) -> None:
        self.on_superseded: Callable[[Superseded], None] | None = None
        self._transactions = transactions
        self._index = transactions.index
        self._now = now

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
        """Record that the key is to hold this entry.

        `base` counts only where the journal has no change of the key; otherwise the journal knows better. `local` is
        for a key the store does not hold; where an earlier change of ours may be, it is ignored. With `attrs` None the
        attributes of the key stay.
        """
        transactions, seq = self._transactions, self._index.next_seq()
        with transactions:
            old = transactions.get(namespace, key)
            if self.on_superseded is not None:
                self._supersede(namespace, key, old, How.WRITE, base, digest=body.digest)
            if attrs is None:
                attrs = alive(transactions.attrs_of(namespace, key))
            content = Content(seq, body.spool)
            put = Put(
                namespace, key, body.size, content, body.digest, metadata, expiration, base, local, attrs
            )
            transactions.put(put_over(old, put, seq, self._now()), old, body.value)
        return seq

    def _supersede(
        self,
        namespace: NamespaceId,
        key: Key,
        row: Row | None,
        how: How,
        base: bytes | None = None,
        *,
        digest: bytes | None = None,
        other: Key = _NONE,
        is_one_of_many: bool = False,
    ) -> None:
        """Have the listener told, once the transaction is in the log, of the version that it supersedes; `row` has it.

        `digest` is that of a write's content: of an equal one only attributes may differ.
        """
        if self.on_superseded is None:
            return
        if base == b"" if row is None else row.content is None:
            return  # there is none
        attrs = row.attrs if row is not None else self._transactions.attrs_of(namespace, key)
        if digest is not None and digest == (base if row is None else row.digest):
            how = How.ATTRIBUTES
        ended = Superseded(namespace, key, row, attrs, how, other, is_one_of_many)
        self._transactions.then.append(partial(self._tell, ended))

    def _tell(self, ended: Superseded) -> None:
        try:
            if self.on_superseded is not None:
                self.on_superseded(ended)
        except Exception:
            log.exception("what was replaced or deleted is not kept: a bug of kvfs, please report it")

    def _put(self, put: Put, seq: Seq, value: bytes | None = None) -> None:
        old = self._transactions.get(put.namespace, put.key)
        self._transactions.put(put_over(old, put, seq, self._now()), old, value)

    def amend(
        self,
        namespace: NamespaceId,
        key: Key,
        *,
        metadata: Metadata | Unchanged | None = UNCHANGED,
        expiration: int | Unchanged | None = UNCHANGED,
    ) -> Seq:
        """Give an existing put other metadata or another expiration, which moves its ctime.

        Raises KeyError when there is no put.
        """
        seq = self._index.next_seq()
        with self._transactions:
            old = self._transactions.get(namespace, key)
            if old is None or old.content is None:
                raise KeyError(key)
            self._supersede(namespace, key, old, How.ATTRIBUTES)
            metadata = old.metadata if isinstance(metadata, Unchanged) else metadata
            expiration = old.expiration if isinstance(expiration, Unchanged) else expiration
            is_local = old.state is ChangeState.LOCAL
            carried = old.size, old.content, old.digest
            attrs = replace(old.attrs or LocalAttrs(), ctime_ns=nanoseconds(self._now()))
            put = Put(namespace, key, *carried, metadata, expiration, old.base, is_local, attrs)
            self._put(put, seq)
        return seq

    def record_delete(
        self,
        namespace: NamespaceId,
        key: Key,
        *,
        base: bytes | None,
        guarded: bool = False,
        keeps: DirRow | None = None,
    ) -> Seq | None:
        """Record that the key is to be absent, and in the same transaction that the directory `keeps` stays.

        Its attributes go, but for the digest of the content shown, which tells another content when another client
        makes the key anew.

        The server's value is deleted whatever it is, or with `guarded` only if it is that of `base`. A name that is
        made anew is compared with `base`, too. Return None when the store need not hear of it: it never had the key
        (`base` b"", or a put never attempted).
        """
        transactions = self._transactions
        old = transactions.get(namespace, key)
        with transactions if needs_tombstone(old, base) else transactions.of_sending():
            self._supersede(namespace, key, old, How.DELETE, base)
            if keeps is not None:
                transactions.set_directory(namespace, keeps.prefix, keeps.start, keeps)
            return self._delete(old, namespace, key, base, guarded=guarded)

    def _delete(
        self,
        old: Row | None,
        namespace: NamespaceId,
        key: Key,
        base: bytes | None,
        waits_for: Seq | None = None,
        *,
        guarded: bool,
    ) -> Seq | None:
        transactions = self._transactions
        if not needs_tombstone(old, base):
            if old is not None:
                transactions.remove(old)
            elif transactions.attrs_of(namespace, key) is not None:
                transactions.set_attrs(namespace, key, None)
            return None
        kept = content_shown(old.attrs if old is not None else transactions.attrs_of(namespace, key))
        if old is not None and old.is_tombstone and old.state is not ChangeState.REJECTED:
            if old.attrs != kept:
                transactions.set_attrs(namespace, key, kept)
            return old.seq if old.state is ChangeState.PENDING else None
        seq, now = self._index.next_seq(), self._now()
        row = tombstone_over(old, namespace, key, base, seq, now, waits_for, guarded=guarded, attrs=kept)
        transactions.put(row, old)
        return seq

    def move(self, namespace: NamespaceId, moves: Sequence[Move]) -> None:
        """Rename keys, all or none: a put under each new name, and a deletion of the old one after that has landed.

        Raises KeyError when a move has no body and the journal no put under its old name, ValueError when a
        name is both old and new.
        """
        if {move.old for move in moves} & {move.new for move in moves}:
            raise ValueError("a key cannot be both moved and moved over")
        with self._transactions:
            for move in moves:
                old, over = (
                    self._transactions.get(namespace, move.old),
                    self._transactions.get(namespace, move.new),
                )
                self._supersede(namespace, move.new, over, How.REPLACE, move.base_new, other=move.old)
                is_many = len(moves) > 1
                self._supersede(namespace, move.old, old, How.RENAME, other=move.new, is_one_of_many=is_many)
                self._move(namespace, move)

    def _move(self, namespace: NamespaceId, move: Move) -> None:
        transactions, seq = self._transactions, self._index.next_seq()
        old = transactions.get(namespace, move.old)
        if move.body is not None:
            brought = _brought(move.body, seq)
        elif old is not None and old.content is not None:
            brought = old.size, old.content, old.digest
        else:
            raise KeyError(move.old)
        attrs = move.attrs or transactions.attrs_of(namespace, move.old)
        put = Put(
            namespace, move.new, *brought, move.metadata, move.expiration, move.base_new, move.local, attrs
        )
        self._put(put, seq, move.body.value if move.body is not None else None)
        if old is not None and old.awaited:
            transactions.repoint(old.seq, seq)
        old = transactions.get(namespace, move.old)
        self._delete(old, namespace, move.old, move.base_old, waits_for=seq, guarded=True)

    def retry(self, namespace: NamespaceId, key: Key) -> Seq | None:
        """Make a rejected change pending again; return None when there is none."""
        row = self._index.get(namespace, key)
        if row is None or row.state is not ChangeState.REJECTED:
            return None
        seq, now = self._index.next_seq(), self._now()
        with self._transactions:
            again = replace(row, seq=seq, state=ChangeState.PENDING, error=None, since=now)
            self._transactions.put(again, row)
        return seq

    def discard(self, namespace: NamespaceId, key: Key) -> bool:
        """Discard the change of a key, whatever its state: the store's own answer counts again.

        Where it was the new name of a rename, the old name is no longer deleted either. False without one.
        """
        with self._transactions.of_sending():
            row = self._index.get(namespace, key)
            if row is None:
                return False
            self._supersede(namespace, key, row, How.DISCARD)
            waiting = [self._index.get(*place) for place in self._index.waiting.get(row.seq, ())]
            for one in (*waiting, row):
                if one is not None:
                    self._transactions.remove(one)
        return True

    def expire(self, change: Change) -> Seq | None:
        """Make a key absent whose pending put expired before it was sent.

        Returns the tombstone's seq, None when the store never had the key or a newer change came in between.
        """
        row = self._index.pending.get(change.seq)
        if row is None:
            return None
        with self._transactions.of_sending():
            return self._delete(row, change.namespace, change.key, change.base, guarded=True)

    def set_beside(self, change: Change, key: Key) -> Seq | None:
        """Move a pending put to another key and leave the store's value of its own alone: a conflict's copy.

        Returns the copy's seq, None when a newer change came in between.
        """
        row = self._index.pending.get(change.seq)
        if row is None or row.content is None:
            return None
        seq = self._index.next_seq()
        with self._transactions.of_sending():
            attrs = row.attrs or alive(self._transactions.attrs_of(change.namespace, key))
            carried = row.size, row.content, row.digest
            put = Put(row.namespace, key, *carried, row.metadata, row.expiration, b"", attrs=attrs)
            self._put(put, seq)
            self._transactions.repoint(change.seq, seq)
            self._transactions.remove(row)
        return seq

    def adopt(
        self,
        namespace: NamespaceId,
        key: Key,
        body: Body | None,
        *,
        metadata: Metadata | None,
        expiration: int | None,
        attrs: LocalAttrs | None,
        before: float,
    ) -> bool:
        """The store holds this, because a command of this machine wrote it; no body: the key is deleted there.

        The command's request began at `before` (epoch seconds). Its value answers as a change that was acknowledged
        now. False, and nothing is done, where a change of ours is not at the store, because the two are compared when
        it is sent, or may be there after the command's (`outlasts`).
        """
        with self._transactions:
            old = self._transactions.get(namespace, key)
            if old is not None and outlasts(old, before):
                return False
            seq, put = self._index.next_seq(), None
            if body is not None:
                put = Put(namespace, key, *_brought(body, seq), metadata, expiration, None, attrs=attrs)
            row = adopted_over(old, namespace, key, put, seq, before, self._now())
            self._transactions.put(row, old, body.value if body is not None else None)
        return True

    def spare(self, change: Change) -> bool:
        """Give up a pending deletion that was meant for another value than the store has; return False without one."""
        row = self._index.pending.get(change.seq)
        if row is None or not row.is_tombstone:
            return False
        with self._transactions.of_sending():
            self._transactions.remove(row, row.attrs)
        return True

    def drop_namespace(self, namespace: NamespaceId) -> None:
        """Forget everything of a namespace that was deleted, pending changes included."""
        with self._transactions.of_sending():
            self._transactions.say(DropNamespace(namespace))


def _brought(body: Body, seq: Seq) -> tuple[int, Content, bytes]:
    """Return size, location and digest of a content that comes with the change of that number."""
    return body.size, Content(seq, body.spool), body.digest
