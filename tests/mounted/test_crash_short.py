"""What was promised survives kill -9: a few rounds of the crash harness, which `scripts/crash` runs for longer."""

from pathlib import Path

import pytest
from crash.harness import Plan, run
from crash.lane import Violation

pytestmark = pytest.mark.fuse


def test_nothing_is_lost_and_nothing_comes_back(tmp_path: Path) -> None:
    """Killed at random moments and at statements of the journal, with changes pending: every promise is kept."""
    report = run(tmp_path, Plan(kills=25, seed=4, deep=0.3))
    assert report.kills == 25
    assert report.promised > 50
    assert report.statements >= 5
    assert report.drained >= 3


@pytest.mark.parametrize("plant", ["ack-by-key", "delete-before-put"])
def test_the_harness_finds_a_planted_bug(tmp_path: Path, plant: str) -> None:
    """Acknowledging by key, or deleting the old name before the new one is sent, turns it red."""
    with pytest.raises(Violation, match=r"the mount shows|the server has"):
        run(tmp_path, Plan(kills=150, seed=1, deep=0.8 if plant == "ack-by-key" else 0.2, plant=plant))
