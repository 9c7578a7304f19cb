"""Last-seen contents: the content last read or written under a name, remembered beyond the caches and bounded."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.digest import digest
from kvfs.core.model import Key, NamespaceId
from kvfs.vfs.view import lastseen
from kvfs.vfs.view.lastseen import FORGOTTEN, LastSeen

NS = NamespaceId("n")
A = (NS, Key("a"))


def place(number: int):
    """Return one of many names."""
    return NS, Key(f"k{number}")


def test_the_latest_content_counts():
    """The latest content counts: after a read, another read, a write, a removal."""
    seen = LastSeen()
    assert seen.digest(A) is None
    seen.read(A, b"one")
    seen.read(A, b"two")
    assert seen.digest(A) == digest(b"two")
    seen.wrote(A, digest(b"three"))
    assert seen.digest(A) == digest(b"three")
    seen.read(A, b"four")
    assert seen.digest(A) == digest(b"four")
    seen.removed(A)
    assert seen.digest(A) is None
    assert len(seen) == 0


def test_a_mount_that_overwrites_remembers_nothing():
    """A mount that overwrites remembers nothing, because it would never ask."""
    seen = LastSeen(enabled=False)
    seen.read(A, b"one")
    seen.wrote(A, digest(b"two"))
    assert seen.digest(A) is None


@pytest.mark.parametrize("cache_bytes", [13 * 1024 * 1024, 256 * 1024 * 1024])
def test_values_are_let_go_but_not_what_they_were(cache_bytes):
    """Values are let go if they hold more bytes than allowed, or than the cache may, and their digests stay."""
    seen = LastSeen(cache_bytes=cache_bytes)
    values = [bytes([number]) * (6 * 1024 * 1024) for number in range(5)]
    for number, value in enumerate(values):
        seen.read(place(number), value)
        seen.check_invariants()
    assert seen._bytes <= min(cache_bytes, lastseen.VALUE_BYTES)
    assert [seen.digest(place(number)) for number in range(5)] == [digest(value) for value in values]


def test_a_digest_that_is_known_takes_the_place_of_its_value(monkeypatch):
    """A digest that somebody made takes the place of its value, also of the only one, which may exceed the bound."""
    monkeypatch.setattr(lastseen, "VALUE_BYTES", 2)
    seen, value = LastSeen(), b"long"
    seen.read(A, value)
    assert seen._values == {A: value}
    seen.digested(A, b"other", b"its digest")
    seen.digested(place(1), value, b"its digest")
    assert seen._values == {A: value}
    seen.digested(A, value, digest(value))
    assert (seen._bytes, seen.digest(A), seen.digest(place(1))) == (0, digest(value), None)
    seen.read(A, b"more", digest(b"more"))
    seen.check_invariants()
    assert (seen._bytes, seen.digest(A)) == (0, digest(b"more"))


def test_many_names_go_to_the_disk(monkeypatch):
    """Memory has so many names, the table has the others, and each is found."""
    monkeypatch.setattr(lastseen, "SLICE", 10)
    seen = LastSeen(names=50)
    for number in range(500):
        seen.wrote(place(number), digest(b"%d" % number))
    assert len(seen._digests) <= 60
    assert len(seen) == 500
    assert all(seen.digest(place(number)) == digest(b"%d" % number) for number in range(500))
    seen.wrote(place(3), digest(b"again"))
    seen.removed(place(4))
    assert seen.digest(place(3)) == digest(b"again")
    assert seen.digest(place(4)) is None
    assert seen.digest(A) is None
    seen.close()


@pytest.fixture
def crowded(monkeypatch, expect_log):
    """Return a table that has ten names in memory and 50 on the disk, and forgot the others."""
    monkeypatch.setattr(lastseen, "SLICE", 10)
    seen = LastSeen(names=10)
    seen._table._most = 50
    expect_log("WARNING kvfs.vfs: the table has as many names as it may: names that were read long ago")
    for number in range(200):
        seen.wrote(place(number), digest(b"%d" % number))
    yield seen
    seen.close()


def test_a_name_that_may_have_been_forgotten_equals_nothing(crowded):
    """A name that may have been forgotten equals nothing, so that the server's value is kept; the log says it once."""
    assert crowded.digest(place(100)) == FORGOTTEN
    assert crowded.digest(A) == FORGOTTEN
    assert crowded.digest(place(199)) == digest(b"199")
    assert crowded.digest(place(0)) == digest(b"0")


def test_a_disk_that_fails_makes_it_forget(monkeypatch, expect_log):
    """Names that were to go to a disk that fails count as forgotten, and nothing is raised."""
    monkeypatch.setattr(lastseen, "SLICE", 10)

    def full(*args, **options):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(lastseen.sqlite3, "connect", full)
    expect_log("WARNING kvfs.vfs: database or disk is full: names that were read long ago")
    seen = LastSeen(names=10)
    for number in range(50):
        seen.wrote(place(number), digest(b"%d" % number))
    assert seen.digest(place(0)) == FORGOTTEN
    assert seen.digest(place(49)) == digest(b"49")


_STEPS = st.lists(st.tuples(st.sampled_from("rwx"), st.integers(0, 7), st.binary(max_size=3)), max_size=60)


@given(_STEPS)
def test_it_is_a_dictionary(steps):
    """The whole behaves as a dictionary, wherever its entries are and whether they are digested or not."""
    seen, model = LastSeen(names=2), {}
    old, lastseen.SLICE = lastseen.SLICE, 2
    try:
        for what, number, value in steps:
            if what == "r":
                seen.read(place(number), value)
            elif what == "w":
                seen.wrote(place(number), digest(value))
            else:
                seen.removed(place(number))
            model[place(number)] = None if what == "x" else digest(value)
            seen.check_invariants()
            assert {name: seen.digest(name) for name in model} == model
    finally:
        lastseen.SLICE = old
        seen.close()
