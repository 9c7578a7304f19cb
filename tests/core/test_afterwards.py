"""Work for after an answer: in order, all of it, and at once where nobody opened it."""

import pytest

from kvfs.core.afterwards import Afterwards


def test_closed_it_does_at_once_what_it_is_given() -> None:
    """As a plain call."""
    afterwards, done = Afterwards(), []
    afterwards(done.append, 1)
    assert done == [1]
    assert not afterwards.late


def test_open_it_keeps_all_until_run_and_the_order() -> None:
    """What comes at once while something is left comes after that."""
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
    """And it is told when the rest is done."""
    afterwards, done = Afterwards(), []
    afterwards.is_open = True
    afterwards(int, "no number")
    afterwards(done.append, 2)
    with pytest.raises(ValueError, match="no number"):
        afterwards.run()
    assert done == [2]
