"""The rules for a new change of a key on top of the one before it: pure, no I/O.

A row carries over the knowledge of the *store*, which the newer change must not forget: the value this mount had read
before its first change, whether the store may hold the key at all, and which old values of our own it may still
answer. An error here brings a deleted key back, or takes our own value for another client's.
"""

from math import ceil
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from kvfs.core.digest import DIGEST_BYTES, digest
from kvfs.core.errors import JournalError
from kvfs.core.model import Change, ChangeKind, ChangeState, Key, Metadata, NamespaceId, Seq
from kvfs.kept.local import LocalAttrs

ANCESTORS: Final = 64  # more of them than writes a second in KV's minute of staleness
_UNREAD: Final = bytes(DIGEST_BYTES // 2)  # how no digest begins: see `unread`


class Content(Struct, array_like=True, gc=False):
    """The location of a put's content. Rows of an equal content share one, so that a move of it moves them all.

    `identity` is unique in a journal: the number of the change that brought the content.
    `spool` names its file in the spool; None: it is in a segment of the log, at an offset.
    `segment` is 0 until the content was appended, and means nothing in the log itself.
    """

    identity: int
    spool: str | None = None
    segment: int = 0
    offset: int = 0


class Row(Change, frozen=True, array_like=True, gc=False):
    """The newest change of a key with what only the journal needs of it: the unit of log, index and snapshot.

    `content` is None exactly for tombstones, `digest` is b"" for them.
    `may_exist`: whatever the base says, the store may hold the key because of an earlier change of ours.
    `ancestors` are digests of values that a stale store may still answer and that are our own doing;
    see `unread` for one that was written over without having been read.
    `waits_for`, of a rename's tombstone, is the number of the put that must land first; no such pending or
    rejected put: it has landed.
    `since` is when this key began to differ from what was last attempted (epoch seconds).
    `guarded`: a tombstone that may delete only what its base says, because nobody asked for more.
    `attrs` is what this machine keeps of the key while it has this change; None: nothing.

    The log has the fields by position: a new one goes to the end and has a default.
    """

    content: Content | None = None
    digest: bytes = b""
    may_exist: bool = False
    ancestors: bytes = b""
    waits_for: Seq | None = None
    since: float = 0.0
    attrs: LocalAttrs | None = None
    guarded: bool = False

    @property
    def awaited(self) -> bool:
        """Return True if a tombstone that waits for this put still has to: it has not landed."""
        return self.state in (ChangeState.PENDING, ChangeState.REJECTED)


def checked(row: Row, value: bytes) -> bytes:
    """Return `value` if it is the row's content. Raises JournalError when it is not what was recorded."""
    if len(value) != row.size or digest(value) != row.digest:
        raise JournalError(
            f"the content of {row.key!r} is damaged: what the disk answers is not what was recorded"
        )
    return value


class Put(Struct, frozen=True, gc=False):
    """The fields of a put, independent of the row before."""

    namespace: NamespaceId
    key: Key
    size: int
    content: Content
    digest: bytes
    metadata: Metadata | None
    expiration: int | None
    base: bytes | None
    local: bool = False
    attrs: LocalAttrs | None = None


def store_may_hold(row: Row) -> bool:
    """Return whether the store may hold the row's key, now or once a request under way lands."""
    if row.may_exist or row.attempted or row.is_tombstone or row.state is ChangeState.SETTLING:
        return True
    return row.state is not ChangeState.LOCAL and row.base != b""


def base_over(old: Row | None, base: bytes | None) -> bytes | None:
    """Return the base of a change on top of `old`: what `old` knows of the store beats what the caller had read.

    Over a deletion that has not arrived, what was read under the name counts, because the name that is made anew
    stands for the one that was removed; a caller that has read nothing there passes b"" or None. Over what a command
    wrote beside the mount it counts as well, because no program of the mount need have seen that.
    """
    if old is None:
        return base
    if old.state is ChangeState.SETTLING:
        return base if old.by_command and base is not None else old.digest
    return base if base and old.is_tombstone else old.base


def ancestors_over(old: Row | None, now: float) -> bytes:
    """Return the values that a stale store may answer once `old` is replaced: our own, and those they replaced."""
    if old is None:
        return b""
    if old.by_command:  # a command beside the mount wrote it, and no program in it
        return old.ancestors
    found = old.ancestors
    if old.attempted or old.state is ChangeState.SETTLING:
        replaced = unread(old.acked_at or now) if _replaces_anything(old) else old.base
        for digest in (replaced, old.digest):
            if digest and not is_among(digest, found):
                found += digest
    return found[-ANCESTORS * DIGEST_BYTES :]


def _replaces_anything(row: Row) -> bool:
    """Return whether the change is sent whatever the store has: a stale store may go on answering that."""
    return row.base is None or (row.is_tombstone and not row.guarded)


def unread(at: float) -> bytes:
    """Return the mark among ancestors for a value that was overwritten unread, at epoch seconds."""
    return _UNREAD + ceil(at).to_bytes(DIGEST_BYTES - len(_UNREAD))


def is_unread_since(ancestor: bytes, moment: float) -> bool:
    """Return whether this is what `unread` made, of a value that was still there at that moment (epoch seconds)."""
    return ancestor.startswith(_UNREAD) and int.from_bytes(ancestor[len(_UNREAD) :]) >= moment


def is_among(digest: bytes, ancestors: bytes) -> bool:
    """Return whether a digest is one of `Row.ancestors`, without splitting them: a database has many of each file."""
    at = ancestors.find(digest)
    while at % DIGEST_BYTES and at >= 0:
        at = ancestors.find(digest, at + 1)
    return at >= 0


def digests(ancestors: bytes) -> list[bytes]:
    """Split `Row.ancestors` into digests."""
    return [ancestors[start : start + DIGEST_BYTES] for start in range(0, len(ancestors), DIGEST_BYTES)]


def since_over(old: Row | None, now: float) -> float:
    """Return since when a key waits: one rewritten before it was ever sent waits since its first rewrite."""
    if old is None or old.state is not ChangeState.PENDING or old.attempted:
        return now
    return old.since


def put_over(old: Row | None, put: Put, seq: Seq, now: float) -> Row:
    """Return the row of `put` on top of `old`.

    All fields by position, because it takes a third as long, for every new file.
    """
    state = ChangeState.LOCAL if put.local and (old is None or _may_stay_local(old)) else ChangeState.PENDING
    base, may_exist, ancestors, since = put.base, False, b"", now
    if old is not None:
        base, may_exist, ancestors = base_over(old, base), store_may_hold(old), ancestors_over(old, now)
        since = since_over(old, now)
    return Row(
        seq, put.namespace, put.key, ChangeKind.PUT, state, put.size, put.metadata, put.expiration, base, False,
        now, None, None, False, None, put.content, put.digest, may_exist, ancestors, None, since, put.attrs,
    )  # fmt: skip


def acknowledged(row: Row, at: float) -> Row:
    """Return the change as acknowledged by the store at `at` (epoch seconds)."""
    return replace(
        row,
        state=ChangeState.SETTLING,
        attempted=True,
        acked_at=at,
        error=None,
        failed=None,
        by_command=False,
    )


def _may_stay_local(old: Row) -> bool:
    """Return whether a file may stay local: it must hide neither a key of the store, nor a tombstone for it."""
    if old.state is ChangeState.LOCAL or not store_may_hold(old):
        return True
    return old.is_tombstone and old.state is ChangeState.SETTLING


def outlasts(change: Change, began: float) -> bool:
    """Return whether the change may be what the store has in the end, beside a command's request of that moment.

    Of two commands the one that began later counts. A change of ours counts if its answer came after the command had
    begun, *because* it may have arrived last; if it did not, the two are compared with the next write.
    """
    if change.state is not ChangeState.SETTLING:
        return True
    if change.by_command or change.acked_at is None:
        return change.recorded_at >= began
    return change.acked_at >= began


def adopted_over(
    old: Row | None, namespace: NamespaceId, key: Key, put: Put | None, seq: Seq, began: float, now: float
) -> Row:
    """Return the row of what a command wrote at the store, on top of `old`, which is settling; no put: a deletion.

    It is recorded at `began`, the moment of the command's request, by which `outlasts` compares it with others.
    """
    row = tombstone_over(old, namespace, key, None, seq, now) if put is None else put_over(old, put, seq, now)
    return replace(
        row, state=ChangeState.SETTLING, base=None, attempted=True, recorded_at=began, acked_at=now, by_command=True,
        may_exist=True,
    )  # fmt: skip


def needs_tombstone(old: Row | None, base: bytes | None) -> bool:
    """Return whether deleting the key must reach the store; if not, forgetting the row is all."""
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
    attrs: LocalAttrs | None = None,
) -> Row:
    """Return the row of a deletion on top of `old`; `waits_for` is the put that it must not be sent before."""
    return Row(
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
        may_exist=True,
        ancestors=ancestors_over(old, now),
        waits_for=waits_for,
        since=since_over(old, now),
        guarded=guarded,
        attrs=attrs,
    )
