"""A few rounds of the crash harness, which `scripts/crash` runs for longer: all that was promised survives kill -9."""

from collections import Counter
from pathlib import Path

import pytest
from crash.harness import run
from crash.lane import Violation
from crash.plan import Plan, Report

pytestmark = pytest.mark.fuse


def test_nothing_is_lost_and_nothing_comes_back(tmp_path: Path) -> None:
    """A daemon killed at random moments and at statements of the journal, with changes pending, keeps every promise."""
    report = run(tmp_path, Plan(kills=9, seed=4, deep=0.25, write_back=(0.1, 0.4, 1.0)))
    assert report.kills == 9
    assert report.promised > 30
    assert report.statements >= 1
    assert report.drained >= 1


def test_faults_lost_answers_and_a_stale_store_end_in_the_right_state(tmp_path: Path) -> None:
    """With a third of the requests failing, lost answers, and answers a minute old, the final state is right."""
    report = run(tmp_path, Plan(kills=4, faults=True, lost=0.2, stale=60, seed=3, deep=0))
    assert report.promised > 10
    assert report.drained == 1


@pytest.mark.parametrize(("plant", "seed"), [("ack-by-key", 2), ("delete-before-put", 1)])
def test_the_harness_finds_a_planted_bug(tmp_path: Path, plant: str, seed: int) -> None:
    """The harness fails on a planted bug: acknowledging by key, or deleting the old name before the new one is sent."""
    deep = 0.8 if plant == "ack-by-key" else 0.2
    plan = Plan(kills=150, seed=seed, deep=deep, plant=plant, latency=0.1, write_back=(0, 0.02))
    with pytest.raises(Violation, match=r"the mount shows|the server has"):
        run(tmp_path, plan)


@pytest.mark.parametrize(
    ("idle", "busy"), [(4, {"left": 6, "right": 6}), (0, {"left": 10}), (0, {"left": 10, "right": 3})]
)
def test_a_run_with_nothing_at_stake_is_no_success(idle: int, busy: dict[str, int]) -> None:
    """A run fails if at too many kills nothing was pending, or if a writer's changes were always sent by then."""
    Report(kills=10, idle=3, busy=Counter(left=4, right=7)).judge()
    with pytest.raises(Violation, match="pending"):
        Report(kills=10, idle=idle, busy=Counter(busy)).judge()
