"""What a new change of a key means on top of the one before it: pure rules, no I/O.

A row carries over what is known of the *store*, which the newer change must not forget: the value this mount
had read before its first change, whether the store may hold the key at all, and which values it may still
answer that are our own doing. Get this
wrong and a deleted key comes back, or we take ourselves for a stranger.
"""

from math import ceil
from typing import Final

from msgspec import Struct

from kvfs.core.model import Change, ChangeKind, ChangeState, Key, Metadata, NamespaceId, Seq
from kvfs.journal.contents import DIGEST_BYTES

ANCESTORS: Final = 64  # more of them than writes a second in KV's minute of staleness
_UNREAD: Final = bytes(DIGEST_BYTES // 2)  # how no digest begins: see `unread`


class Row(Struct, frozen=True, gc=False):
    """A change and what only this room needs of it; the columns of `changes` say what each means."""

    change: Change
    body: int | None
    digest: bytes  # of the body, b"" for a tombstone
    may_exist: bool
    ancestors: bytes
    waits_for: Seq | None
    since: float  # when this key began to differ from what was last attempted; memory only
    guarded: bool = False  # a tombstone that may delete only what `base` says, because nobody asked for more

    @property
    def awaited(self) -> bool:
        """Whether a tombstone that waits for this still has to: it has not landed."""
        return self.change.state in (ChangeState.PENDING, ChangeState.REJECTED)


class Put(Struct, frozen=True, gc=False):
    """What a put says, whatever was there before."""

    namespace: NamespaceId
    key: Key
    size: int
    body: int
    digest: bytes
    metadata: Metadata | None
    expiration: int | None
    base: bytes | None
    local: bool = False


def store_may_hold(row: Row) -> bool:
    """Whether the store may hold the row's key, now or once a request under way lands."""
    change = row.change
    if row.may_exist or change.attempted or change.is_tombstone or change.state is ChangeState.SETTLING:
        return True
    return change.state is not ChangeState.LOCAL and change.base != b""


def base_over(old: Row | None, base: bytes | None) -> bytes | None:
    """The base of a change on top of `old`: what `old` knows of the store beats what the caller had read.

    Over a deletion that has not arrived, what was read under the name counts, because the name that is made anew
    stands for the one that was removed; a caller that has read nothing there passes b"" or None.
    """
    if old is None:
        return base
    if old.change.state is ChangeState.SETTLING:
        return old.digest
    return base if base and old.change.is_tombstone else old.change.base


def ancestors_over(old: Row | None, now: float) -> bytes:
    """Values that a stale store may still answer once `old` is replaced: our own, and what these replaced."""
    if old is None:
        return b""
    found = digests(old.ancestors)
    if old.change.attempted or old.change.state is ChangeState.SETTLING:
        replaced = unread(old.change.acked_at or now) if _replaces_anything(old) else old.change.base
        found += [digest for digest in (replaced, old.digest) if digest]
    return b"".join(list(dict.fromkeys(found))[-ANCESTORS:])


def _replaces_anything(row: Row) -> bool:
    """Whether the change is sent whatever the store has: a stale store may go on answering that."""
    return row.change.base is None or (row.change.is_tombstone and not row.guarded)


def unread(at: float) -> bytes:
    """Stands among ancestors for a value that was written over without having been read, at epoch seconds."""
    return _UNREAD + ceil(at).to_bytes(DIGEST_BYTES - len(_UNREAD))


def is_unread_since(ancestor: bytes, moment: float) -> bool:
    """Whether this is what `unread` made, of a value that was still there at that moment (epoch seconds)."""
    return ancestor.startswith(_UNREAD) and int.from_bytes(ancestor[len(_UNREAD) :]) >= moment


def digests(ancestors: bytes) -> list[bytes]:
    """What `Row.ancestors` is made of."""
    return [ancestors[start : start + DIGEST_BYTES] for start in range(0, len(ancestors), DIGEST_BYTES)]


def since_over(old: Row | None, now: float) -> float:
    """A key rewritten before it was ever sent has been waiting since its first rewrite."""
    if old is None or old.change.state is not ChangeState.PENDING or old.change.attempted:
        return now
    return old.since


def first_put(
    namespace: NamespaceId,
    key: Key,
    size: int,
    body: int,
    digest: bytes,
    metadata: Metadata | None,
    expiration: int | None,
    base: bytes | None,
    local: bool,
    seq: Seq,
    now: float,
) -> Row:
    """The row of a put where nothing was before. By its parts: it is the way of every new file."""
    change = Change(
        seq, namespace, key, ChangeKind.PUT, ChangeState.LOCAL if local else ChangeState.PENDING, size,
        metadata, expiration, base, False, now, None, None,
    )  # fmt: skip
    return Row(change, body, digest, False, b"", None, now)


def put_over(old: Row | None, put: Put, seq: Seq, now: float) -> Row:
    """The row of `put` on top of `old`."""
    if old is None:
        return first_put(
            put.namespace, put.key, put.size, put.body, put.digest, put.metadata, put.expiration, put.base,
            put.local, seq, now,
        )  # fmt: skip
    change = Change(
        seq=seq,
        namespace=put.namespace,
        key=put.key,
        kind=ChangeKind.PUT,
        state=ChangeState.LOCAL if put.local and _may_stay_local(old) else ChangeState.PENDING,
        size=put.size,
        metadata=put.metadata,
        expiration=put.expiration,
        base=base_over(old, put.base),
        attempted=False,
        recorded_at=now,
        acked_at=None,
        error=None,
    )
    ancestors, since = ancestors_over(old, now), since_over(old, now)
    return Row(change, put.body, put.digest, store_may_hold(old), ancestors, None, since)


def attempted(change: Change) -> Change:
    """The same, carried by a request. Thousands at a time: all fields by position, which takes half as long."""
    return Change(
        change.seq, change.namespace, change.key, change.kind, change.state, change.size, change.metadata,
        change.expiration, change.base, True, change.recorded_at, change.acked_at, change.error,
    )  # fmt: skip


def acknowledged(change: Change, at: float) -> Change:
    """The same, taken by the store at `at` (epoch seconds)."""
    return Change(
        change.seq, change.namespace, change.key, change.kind, ChangeState.SETTLING, change.size,
        change.metadata, change.expiration, change.base, True, change.recorded_at, at, None,
    )  # fmt: skip


def _may_stay_local(old: Row) -> bool:
    """A local file may not hide a key the store holds, nor the tombstone that is to remove it there."""
    if old.change.state is ChangeState.LOCAL or not store_may_hold(old):
        return True
    return old.change.is_tombstone and old.change.state is ChangeState.SETTLING


def needs_tombstone(old: Row | None, base: bytes | None) -> bool:
    """Whether deleting the key must reach the store; if not, forgetting the row is all."""
    if old is None:
        return base != b""
    return store_may_hold(old)


def tombstone_over(
    old: Row | None,
    namespace: NamespaceId,
    key: Key,
    base: bytes | None,
    seq: Seq,
    now: float,
    waits_for: Seq | None = None,
    *,
    guarded: bool = False,
) -> Row:
    """The row of a deletion on top of `old`; `waits_for`: the put that it must not be sent before."""
    change = Change(
        seq=seq,
        namespace=namespace,
        key=key,
        kind=ChangeKind.DELETE,
        state=ChangeState.PENDING,
        size=0,
        metadata=None,
        expiration=None,
        base=base_over(old, base),
        attempted=False,
        recorded_at=now,
        acked_at=None,
        error=None,
    )
    ancestors, since = ancestors_over(old, now), since_over(old, now)
    return Row(change, None, b"", True, ancestors, waits_for, since, guarded)
