"""What was last read or written under a name is remembered beyond the caches, in bounded memory."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.model import Key, NamespaceId
from kvfs.journal import lastseen
from kvfs.journal.lastseen import FORGOTTEN, LastSeen
from kvfs.journal.spool import digest

NS = NamespaceId("n")
A = (NS, Key("a"))


def place(number: int):
    """One of many names."""
    return NS, Key(f"k{number}")


def test_the_latest_content_counts():
    """Read, read anew, written, removed."""
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
    """It would never ask."""
    seen = LastSeen(enabled=False)
    seen.read(A, b"one")
    seen.wrote(A, digest(b"two"))
    assert seen.digest(A) is None


def test_values_are_let_go_but_not_what_they_were():
    """More bytes than may be held: their digests stay."""
    seen = LastSeen()
    values = [bytes([number]) * (6 * 1024 * 1024) for number in range(5)]
    for number, value in enumerate(values):
        seen.read(place(number), value)
        seen.check_invariants()
    assert seen._bytes <= lastseen.VALUE_BYTES
    assert [seen.digest(place(number)) for number in range(5)] == [digest(value) for value in values]


def test_many_names_go_to_the_disk(monkeypatch):
    """Memory has so many, the table has the others, and each is found."""
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
    """One that has ten names in memory and 50 in its table, and forgot the others."""
    monkeypatch.setattr(lastseen, "SLICE", 10)
    seen = LastSeen(names=10)
    seen._table._most = 50
    expect_log("WARNING kvfs.journal: the table has as many names as it may: names that were read long ago")
    for number in range(200):
        seen.wrote(place(number), digest(b"%d" % number))
    yield seen
    seen.close()


def test_a_name_that_may_have_been_forgotten_equals_nothing(crowded):
    """So that what the server has is kept; the log says it once."""
    assert crowded.digest(place(100)) == FORGOTTEN
    assert crowded.digest(A) == FORGOTTEN
    assert crowded.digest(place(199)) == digest(b"199")
    assert crowded.digest(place(0)) == digest(b"0")


def test_a_disk_that_fails_makes_it_forget(monkeypatch, expect_log):
    """Nothing is raised: the names that were to go there count as forgotten."""
    monkeypatch.setattr(lastseen, "SLICE", 10)

    def full(*args, **options):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(lastseen.sqlite3, "connect", full)
    expect_log("WARNING kvfs.journal: database or disk is full: names that were read long ago")
    seen = LastSeen(names=10)
    for number in range(50):
        seen.wrote(place(number), digest(b"%d" % number))
    assert seen.digest(place(0)) == FORGOTTEN
    assert seen.digest(place(49)) == digest(b"49")


_STEPS = st.lists(st.tuples(st.sampled_from("rwx"), st.integers(0, 7), st.binary(max_size=3)), max_size=60)


@given(_STEPS)
def test_it_is_a_dictionary(steps):
    """Whatever is in memory, digested or not, and whatever is on the disk."""
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
