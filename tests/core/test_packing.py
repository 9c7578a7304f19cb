"""Changes to requests: nothing lost, nothing twice, limits kept, puts before deletes."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.limits import BULK_VALUE_CHARS
from kvfs.core.model import Change, ChangeKind, ChangeState, Key, NamespaceId, Seq
from kvfs.core.packing import Batch, BatchKind, halve, pack, pair_bytes

SPACES = [NamespaceId("one"), NamespaceId("two")]
ROOM = 100_000_000
BIGGEST_IN_BULK = BULK_VALUE_CHARS // 4 * 3


def change(
    seq: int,
    key: str = "",
    *,
    size: int = 1,
    delete: bool = False,
    namespace: NamespaceId = SPACES[0],
    metadata: bytes | None = None,
) -> Change:
    """A pending change; keys are all different unless given."""
    return Change(
        seq=Seq(seq),
        namespace=namespace,
        key=Key(key or f"key{seq}"),
        kind=ChangeKind.DELETE if delete else ChangeKind.PUT,
        state=ChangeState.PENDING,
        size=0 if delete else size,
        metadata=metadata,
        expiration=None,
        base=None,
        attempted=False,
        recorded_at=0.0,
        acked_at=None,
        error=None,
    )


CHANGES = st.lists(
    st.builds(
        change,
        st.just(0),
        st.sampled_from(["a", "b", "c", "d\0", "é" * 200]) | st.text('ab/"\\\1ü😀', min_size=1, max_size=4),
        size=st.integers(0, 400) | st.integers(0, 3_000),
        delete=st.booleans(),
        namespace=st.sampled_from(SPACES),
        metadata=st.none() | st.just(b'{"some":"' + b"m" * 600 + b'"}'),
    ),
    max_size=30,
).map(lambda changes: [change_at(seq, item) for seq, item in enumerate(changes, 1)])


def change_at(seq: int, item: Change) -> Change:
    """Return an equal change with another number."""
    return change(
        seq,
        item.key,
        size=item.size,
        delete=item.is_tombstone,
        namespace=item.namespace,
        metadata=item.metadata,
    )


def encoded(item: Change) -> int:
    """Return the bytes of a put in a bulk body at their worst: value in base64, all but ASCII escaped."""
    pair = {
        "key": item.key,
        "value": base64.b64encode(bytes(item.size)).decode(),
        "base64": True,
        "expiration": 2**53,
        "metadata": json.loads(item.metadata or b"null"),
    }
    return len(json.dumps(pair)) + 1


def seqs(batches: list[Batch]) -> list[list[int]]:
    return [[item.seq for item in batch.changes] for batch in batches]


def test_one_bulk_write_and_one_bulk_delete() -> None:
    """The puts go in one bulk write before one bulk delete, however they were mixed."""
    batches = pack(
        [change(1, delete=True), change(2), change(3, delete=True), change(4)], pairs=9, body_bytes=ROOM
    )
    assert [batch.kind for batch in batches] == [BatchKind.PUT, BatchKind.DELETE]
    assert seqs(batches) == [[2, 4], [1, 3]]


def test_nothing_to_send_is_no_request() -> None:
    """Without changes there are no batches."""
    assert pack([], pairs=9, body_bytes=ROOM) == []


def test_only_the_newest_change_of_a_key_is_sent() -> None:
    """Only the newest change of a key is sent, in any order; an equal key of another namespace is another key."""
    other = change(9, "k", namespace=SPACES[1])
    changes = [
        change(3, "k", delete=True),
        change(2, "k"),
        change(1, "k", delete=True),
        change(8, "j"),
        other,
    ]
    assert seqs(pack(changes, pairs=9, body_bytes=ROOM)) == [[8], [9], [3]]


def test_batches_end_at_the_number_of_pairs() -> None:
    """Ten changes by four are three requests, in the order of the changes."""
    changes = [change(seq) for seq in range(10)]
    assert seqs(pack(changes, pairs=4, body_bytes=ROOM)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_batches_end_at_the_bytes_of_the_body() -> None:
    """A body is filled up to the limit to the byte, and not above it."""
    changes = [change(seq, size=3000) for seq in range(4)]
    two = 2 * pair_bytes(changes[0]) + 2
    assert seqs(pack(changes, pairs=9, body_bytes=two)) == [[0, 1], [2, 3]]
    assert seqs(pack(changes, pairs=9, body_bytes=two - 1)) == [[0], [1], [2], [3]]
    one = pair_bytes(changes[0]) + 2
    assert pack(changes[:1], pairs=9, body_bytes=one)[0].kind is BatchKind.PUT
    assert pack(changes[:1], pairs=9, body_bytes=one - 1)[0].kind is BatchKind.SINGLE


def test_a_value_too_big_for_a_bulk_body_goes_singly() -> None:
    """A value too big for a bulk body, by the API's or the server's limit, goes singly before the deletes."""
    changes = [change(1, delete=True), change(2, size=BIGGEST_IN_BULK + 1), change(3, size=BIGGEST_IN_BULK)]
    batches = pack([*changes, change(4)], pairs=9, body_bytes=ROOM)
    assert [batch.kind for batch in batches] == [BatchKind.PUT, BatchKind.SINGLE, BatchKind.DELETE]
    assert seqs(batches) == [[3, 4], [2], [1]]
    smaller = pack([*changes, change(4)], pairs=9, body_bytes=1_000_000)
    assert seqs(smaller) == [[4], [2], [3], [1]]


def test_ten_thousand_small_files_are_one_request() -> None:
    """Ten thousand files of 1 KiB are one request within the API's own limits."""
    changes = [change(seq, f"some/directory/file{seq}", size=1024) for seq in range(10_000)]
    assert len(pack(changes, pairs=10_000, body_bytes=ROOM)) == 1


def test_halving_stops_at_one() -> None:
    """A batch of one change is the culprit itself."""
    with pytest.raises(ValueError, match="one change"):
        halve(Batch(SPACES[0], BatchKind.PUT, (change(1),)))


@given(CHANGES, st.integers(1, 8), st.integers(300, 9_000))
def test_packing_keeps_its_promises(changes: list[Change], pairs: int, body_bytes: int) -> None:
    """Each key's newest change is in exactly one batch, within the limits, puts before deletes."""
    batches = pack(changes, pairs=pairs, body_bytes=body_bytes)
    newest = {(item.namespace, item.key): item for item in changes}
    sent = [item for batch in batches for item in batch.changes]
    assert sorted(sent, key=lambda item: item.seq) == sorted(newest.values(), key=lambda item: item.seq)
    order = [batch.kind is BatchKind.DELETE for batch in batches]
    assert order == sorted(order)
    for batch in batches:
        assert batch.changes
        assert {item.namespace for item in batch.changes} == {batch.namespace}
        assert {item.is_tombstone for item in batch.changes} == {batch.kind is BatchKind.DELETE}
        assert [item.seq for item in batch.changes] == sorted(item.seq for item in batch.changes)
        if batch.kind is BatchKind.SINGLE:
            assert len(batch.changes) == 1
            assert pair_bytes(batch.changes[0]) + 2 > body_bytes
            continue
        assert len(batch.changes) <= pairs
        if batch.kind is BatchKind.PUT:
            assert sum(map(encoded, batch.changes)) + 2 <= body_bytes
        elif len(batch.changes) > 1:
            assert len(json.dumps([item.key for item in batch.changes], separators=(",", ":"))) <= body_bytes


@given(CHANGES)
def test_halves_make_the_whole(changes: list[Change]) -> None:
    """Neither half is empty, nothing is lost, and halving again and again isolates each change."""
    for batch in pack(changes, pairs=100, body_bytes=ROOM):
        parts = [batch]
        while any(len(part.changes) > 1 for part in parts):
            parts = [half for part in parts for half in (halve(part) if len(part.changes) > 1 else (part,))]
        assert tuple(item for part in parts for item in part.changes) == batch.changes
        assert {(part.namespace, part.kind) for part in parts} == {(batch.namespace, batch.kind)}
