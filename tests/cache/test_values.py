"""Clean values: bounded, least recently used first to go, sizes remembered beyond them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock

from kvfs.cache.values import _OVERHEAD, Clean, Values
from kvfs.core.model import Key, NamespaceId

NS = NamespaceId("n")
OTHER = NamespaceId("o")


def place(key: str, namespace: NamespaceId = NS) -> tuple[NamespaceId, Key]:
    return namespace, Key(key)


def clean(size: int, clock: Clock) -> Clean:
    return Clean(b"x" * size, None, None, clock())


def test_the_least_recently_used_go_first_and_their_sizes_stay() -> None:
    """Using a value keeps it; an evicted one is gone, its size is not."""
    clock = Clock()
    values = Values(3 * (100 + _OVERHEAD), 60.0, clock)
    for key in "abc":
        values.put(place(key), clean(100, clock))
    values.get(place("a"))
    values.put(place("d"), clean(100, clock))
    assert [key for key in "abcd" if values.get(place(key)) is not None] == ["a", "c", "d"]
    assert values.sizes.get(place("b")) == 100
    assert values.statistics().entries == 3


def test_a_value_above_the_bound_is_kept_alone() -> None:
    """A value above the bound can be read piece by piece, and goes with the next value."""
    clock = Clock()
    values = Values(1000, 60.0, clock)
    values.put(place("small"), clean(10, clock))
    values.put(place("large"), clean(5000, clock))
    assert values.get(place("small")) is None
    assert values.get(place("large")) is not None
    values.put(place("small"), clean(10, clock))
    assert values.get(place("large")) is None


def test_values_and_sizes_get_stale_together() -> None:
    """After the ttl neither value nor size counts as fresh; both are there for a caller that asks for stale ones."""
    clock = Clock()
    values = Values(1000, 60.0, clock)
    values.put(place("a"), clean(10, clock))
    clock.advance(59)
    assert values.sizes.get(place("a")) == 10
    clock.advance(1)
    assert values.sizes.get(place("a")) is None
    assert values.get(place("a")) is None
    assert values.sizes.get(place("a"), stale=True) == 10
    assert values.get(place("a"), stale=True) is not None
    clock.advance(-100)  # a clock that was set back proves nothing
    assert values.sizes.get(place("a")) is None


def test_a_rename_takes_value_and_size_along() -> None:
    """A rename moves also the size of a value that was evicted; the old name knows nothing.

    A rename to the same name changes nothing.
    """
    clock = Clock()
    values = Values(2 * (100 + _OVERHEAD), 60.0, clock)
    for key in "abc":
        values.put(place(key), clean(100, clock))
    values.rename(place("a"), place("x"))
    assert (values.sizes.get(place("a")), values.sizes.get(place("x")), values.get(place("x"))) == (
        None,
        100,
        None,
    )
    values.rename(place("b"), place("c"))
    assert values.get(place("b")) is None
    assert values.get(place("c")) is not None
    values.rename(place("c"), place("c"))
    assert values.get(place("c")) is not None
    values.rename(place("unknown"), place("c"))
    assert values.sizes.get(place("c")) is None
    values.check_invariants()


@pytest.mark.parametrize("limit", [10_000, 1])
def test_what_expires_is_known_still_but_stale(limit: int) -> None:
    """An expired value, and a size whose value was evicted, are answered as stale, and bump the generation of sizes."""
    clock = Clock()
    values = Values(limit, 60.0, clock)
    for key in ("a/1", "a/2", "b/1"):
        values.put(place(key), clean(7, clock))
    before = values.sizes.generation.number
    values.make_stale(NS, "a/")
    assert values.sizes.generation.number > before
    assert [values.sizes.get(place(key)) for key in ("a/1", "a/2", "b/1")] == [None, None, 7]
    assert values.sizes.get(place("a/1"), stale=True) == 7
    assert values.get(place("a/2")) is None
    values.check_invariants()


def test_forgetting_is_of_one_namespace_and_prefix() -> None:
    """Forgetting a namespace and a prefix leaves their neighbours alone."""
    clock = Clock()
    values = Values(10_000, 60.0, clock)
    for where in (place("a/1"), place("a/2"), place("b/1"), place("a/1", OTHER)):
        values.put(where, clean(1, clock))
    values.forget(NS, "a/")
    kept = [place("b/1"), place("a/1", OTHER)]
    assert [w for w in (place("a/1"), place("a/2"), *kept) if values.sizes.get(w) is not None] == kept
    values.forget(NS)
    assert values.sizes.get(place("b/1")) is None
    assert values.sizes.get(place("a/1", OTHER)) == 1


@given(st.lists(st.tuples(st.sampled_from("pgdrf"), st.integers(0, 400)), max_size=60), st.randoms())
def test_the_bound_holds_whatever_happens(steps, rng: random.Random) -> None:
    """The cache never holds more bytes than the bound, except for a single larger value, and its count is true."""
    clock = Clock()
    values = Values(2000, 60.0, clock)
    for kind, number in steps:
        where = place(str(number % 7))
        if kind == "p":
            values.put(where, clean(number * 5, clock))
            assert values.get(where) is not None
        elif kind == "g":
            values.get(where)
        elif kind == "d":
            values.drop(where)
        elif kind == "r":
            values.rename(where, place(str(rng.randrange(7))))
        else:
            values.forget(NS, str(number % 3))
        values.check_invariants()
        statistics = values.statistics()
        assert statistics.bytes <= 2000 or statistics.entries == 1
