"""Batches that a bulk get could not answer are divided until each key has its answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import (
    BodyTooLargeError,
    NotTextError,
    RateLimitedError,
    RejectedError,
    StoreError,
    UnreachableError,
)
from kvfs.core.model import Key, NamespaceId
from kvfs.store.bulkread import SINGLES, BulkReading

NS = NamespaceId("0" * 32)
KEYS = st.lists(st.sampled_from(["a", "b.png", "c.txt", "d/e", "f.odd", "g/h.png"]), max_size=3).map("/".join)
BATCHES = st.lists(KEYS.map(Key), min_size=1, max_size=100, unique=True)
ERRORS = [NotTextError("not text"), RejectedError("bad key"), BodyTooLargeError("413")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@given(keys=BATCHES, is_hurried=st.booleans())
def test_the_parts_of_a_batch_are_smaller_and_have_all_its_keys(
    error: StoreError, keys: list[Key], is_hurried: bool
) -> None:
    """Each key is in one part, and a batch comes to single keys in the end."""
    parts = BulkReading(is_hurried=is_hurried).parts_after(error, NS, keys)
    assert sorted(key for part in parts for key in part) == sorted(keys)
    assert all(0 < len(part) < len(keys) or len(keys) == 1 for part in parts)


@given(keys=BATCHES)
def test_a_copy_divides_in_halves_to_the_last_key(keys: list[Key]) -> None:
    """A reading that is in no hurry makes the fewest requests; a hurried one asks singly for a small batch."""
    halved = BulkReading(is_hurried=False).parts_after(NotTextError("not text"), NS, keys)
    assert len(halved) == min(2, len(keys))
    hurried = BulkReading().parts_after(NotTextError("not text"), NS, keys[:SINGLES])
    assert hurried == [[key] for key in keys[:SINGLES]]


@pytest.mark.parametrize("error", [RateLimitedError("429"), UnreachableError("no connection")])
def test_a_failure_that_is_about_no_key_is_not_divided(error: StoreError) -> None:
    """A limit of requests and a missing connection would fail each part as well."""
    assert BulkReading().parts_after(error, NS, [Key("a"), Key("b")]) == []


def test_what_came_singly_is_remembered_until_it_is_text() -> None:
    """One memory tells every reader which value is binary."""
    reading, place = BulkReading(), (NS, Key("k"))
    reading.learn(place, b"\xff")
    assert BulkReading(reading.kinds).kinds.is_binary(place)
    reading.learn(place, b"text")
    assert not reading.kinds.is_binary(place)
