"""Work put off until after an answer: all of it is done, in order, and at once where no answer is under way."""

import pytest

from kvfs.core.afterwards import Afterwards


def test_closed_it_does_at_once_what_it_is_given() -> None:
    """While closed, it does its work at once, as a plain call."""
    afterwards, done = Afterwards(), []
    afterwards(done.append, 1)
    assert done == [1]
    assert not afterwards.late


def test_open_it_keeps_all_until_run_and_the_order() -> None:
    """While open, it keeps all work in order until `run`; new work comes after what is left."""
    afterwards, done = Afterwards(), []
    afterwards.is_open = True
    afterwards(done.append, 1)
    afterwards(done.append, 2)
    assert done == []
    afterwards.is_open = False
    afterwards(done.append, 3)
    assert done == [1, 2, 3]
    afterwards.run()
    assert done == [1, 2, 3]


def test_what_fails_takes_nothing_else_with_it() -> None:
    """A failing piece of work stops no other, and its exception is raised when the rest is done."""
    afterwards, done = Afterwards(), []
    afterwards.is_open = True
    afterwards(int, "no number")
    afterwards(done.append, 2)
    with pytest.raises(ValueError, match="no number"):
        afterwards.run()
    assert done == [2]
