"""A short soak: eight processes at mixed work, with faults, for some seconds; `scripts/soak` does it for an hour."""

import errno
from pathlib import Path

import pytest
from crash.soak import Sample, judge, soak
from crash.temper import explained, lifted, rules, staleness

pytestmark = pytest.mark.fuse


def test_nothing_stalls_nothing_leaks_and_nothing_is_left(tmp_path: Path) -> None:
    """No call passes the bound, nothing grows, no descriptor or inode is kept, and every count is back at zero."""
    assert soak(tmp_path, 10, faults=True) == []


@pytest.mark.parametrize(
    ("minutes", "growing", "peak", "wrong"),
    [
        (60, 0.0, 0, []),
        (60, 0.5, 0, []),
        (60, 1.0, 0, ["the daemon grew by 20 MiB in the last third"]),
        (2, 10.0, 0, []),  # the caches fill
        (2, 60.0, 0, ["the daemon took 168 MiB"]),
        (60, 0.0, 110, ["the daemon took 158 MiB"]),
    ],
)
def test_a_soak_sees_a_daemon_that_grows(minutes: int, growing: float, peak: float, wrong: list[str]) -> None:
    """A soak fails for a daemon that grows: by MiB a minute over an hour, and by its peak in a run of minutes."""
    start = Sample(0.0, 48.0, 18, 7)
    samples = [Sample(at, 48.0 + growing * at / 60, 22, 100) for at in range(0, minutes * 60 + 1, 10)]
    samples[1] = Sample(10.0, samples[1].rss + peak, 22, 100)
    assert judge(samples, start) == wrong


def test_a_program_sees_no_errors_but_those_that_the_temper_explains() -> None:
    """Each fault explains its own errors: without faults there are none, and no temper explains a refusal."""
    assert explained([]) == frozenset()
    assert explained(rules("cloudflare", 60)) == {errno.EIO, errno.ETIMEDOUT}
    assert explained(rules("stale=60s,firewall,denied=0.01,floats", 60)) == frozenset()
    assert explained(rules("", 60)) == {errno.EIO, errno.ETIMEDOUT}


@pytest.mark.parametrize(
    ("seconds", "requests", "window", "stale"), [(3600, 1200, 300, 60), (120, 120, 30, 6), (60, 60, 15, 3)]
)
def test_a_short_run_meets_windows_in_proportion(
    seconds: float, requests: int, window: float, stale: float
) -> None:
    """A short run has as many windows as one of twenty minutes, with as many requests a second, and an end of them."""
    found = rules("cloudflare", seconds)
    assert [rule for rule in found if rule["fault"] == "rate_budget"] == [
        {"fault": "rate_budget", "probability": 1.0, "count": requests, "seconds": window}
    ]
    assert staleness(found) == stale
    assert "rate_budget" not in [rule["fault"] for rule in lifted(found)]
    assert len(lifted(found)) == len(found) - 1
