"""Objects by number: a table that acts as a dict does, in the order of its numbers."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core import numbered
from kvfs.core.numbered import Numbered

NUMBERS = st.integers(0, 300)  # some pages
STEPS = st.lists(st.tuples(st.sampled_from(["set", "pop", "delete"]), NUMBERS))


@given(STEPS)
def test_a_table_acts_as_a_dict_in_the_order_of_its_numbers(steps):
    """After any steps the table has what a dict has, and yields it in the order of the numbers."""
    table, expected = Numbered(), {}
    for step, (what, number) in enumerate(steps):
        if what == "set":
            table[number] = expected[number] = f"object {step}"
        elif what == "pop":
            assert table.pop(number) == expected.pop(number, None)
        elif number in expected:
            del table[number], expected[number]
        else:
            with pytest.raises(KeyError):
                del table[number]
        assert len(table) == len(expected)
        assert [table.get(at) for at in range(300)] == [expected.get(at) for at in range(300)]
        assert (number in table) is (number in expected)
        assert list(table.values()) == [expected[number] for number in sorted(expected)]


def test_a_number_that_is_not_there_is_a_key_error():
    """A number without an object is a KeyError when it is asked for as of a dict."""
    with pytest.raises(KeyError):
        Numbered()[5]


def test_pages_go_with_their_last_object():
    """A table through which many numbers passed takes no more memory than a new one."""
    table = Numbered()
    for number in range(10_000):
        table[number] = "object"
        if number >= 10:
            del table[number - 10]
    assert len(table) == 10
    assert len(table._pages) <= 2
    assert sys.getsizeof(table._pages) < 1_000


def test_objects_that_come_back_below_a_newer_one_cost_no_sort_each(monkeypatch):
    """Pages that come to be below the newest one are brought into their order once, when somebody asks for it."""
    sorts = []
    monkeypatch.setattr(numbered, "sorted", lambda items: sorts.append(1) or sorted(items), raising=False)
    table = Numbered()
    table[100_000] = "newest"
    for number in range(20_000):
        table[number] = number
    assert list(table.values()) == [*range(20_000), "newest"]
    assert list(table.values())[-1] == "newest"
    assert len(sorts) == 1
