"""Bursts: which versions of a key that changes again and again are kept; tables, and properties of every history."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.model import How, Key, NamespaceId
from kvfs.history.bursts import LONGEST, QUIET, Bursts, Verdict

PLACE = (NamespaceId("n"), Key("k"))
KEEP, HOLD, SKIP = Verdict.KEEP, Verdict.HOLD, Verdict.SKIP


def judged(*steps: tuple[float, How], new: bool = False) -> list[Verdict]:
    bursts = Bursts()
    return [bursts.judge(PLACE, at, how, is_new=new) for at, how in steps]


@pytest.mark.parametrize(
    ("steps", "verdicts"),
    [
        ([(0, How.WRITE)], [KEEP]),
        ([(0, How.WRITE), (1, How.WRITE), (2, How.DELETE)], [KEEP, HOLD, HOLD]),
        ([(0, How.WRITE), (QUIET, How.WRITE)], [KEEP, KEEP]),
        ([(0, How.WRITE), (1, How.ATTRIBUTES)], [KEEP, SKIP]),
        ([(0, How.ATTRIBUTES), (1, How.WRITE)], [KEEP, HOLD]),
        ([(0, How.RENAME), (1, How.REPLACE)], [KEEP, HOLD]),
        ([(5, How.WRITE), (0, How.WRITE)], [KEEP, KEEP]),  # the clock was set back
    ],
)
def test_the_first_of_a_burst_is_kept_and_the_others_wait(steps, verdicts) -> None:
    """The first version of a burst is kept at once, because undo wants the value before it, and the others wait."""
    assert judged(*steps) == verdicts


@pytest.mark.parametrize(
    ("how", "verdict"),
    [(How.WRITE, HOLD), (How.DELETE, HOLD), (How.REPLACE, HOLD), (How.RENAME, SKIP), (How.ATTRIBUTES, SKIP)],
)
def test_before_a_new_key_there_was_nothing(how, verdict) -> None:
    """Attributes that `cp -a` sets after a new key's content, and a temporary file renamed to it, are no versions."""
    assert judged((0, how), new=True) == [verdict]


def test_a_key_that_goes_on_changing_is_kept_ever_more_rarely() -> None:
    """A log rewritten a thousand times a second leaves fewer than 30 first versions in half a day."""
    bursts = Bursts()
    steps = (0.05 * number for number in range(20 * 12 * 3600))
    kept = [at for at in steps if bursts.judge(PLACE, at, How.WRITE, is_new=False) is KEEP]
    assert len(kept) < 30
    assert kept[:4] == pytest.approx([0, 10, 30, 70], abs=1)
    assert max(later - sooner for sooner, later in pairwise(kept)) < LONGEST + 1


def test_a_pause_makes_bursts_short_again() -> None:
    """After a pause bursts are short again, so a user who comes back the next day finds every save apart."""
    bursts = Bursts()
    for at in range(200):
        bursts.judge(PLACE, at, How.WRITE, is_new=False)
    bursts.judge(PLACE, 86_400, How.WRITE, is_new=False)
    assert bursts.seconds(PLACE) == QUIET


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(2, 8))
def test_every_key_begins_with_a_version_and_memory_is_bounded(moments, most) -> None:
    """Every key begins with a version, and memory is bounded, however many keys change and in any order."""
    bursts = Bursts(most)
    for number, at in enumerate(sorted(moments)):
        place = (NamespaceId("n"), Key(str(number)))
        assert bursts.judge(place, at, How.WRITE, is_new=False) is KEEP
        assert len(bursts._of) <= most
