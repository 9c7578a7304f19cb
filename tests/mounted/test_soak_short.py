"""A short soak: eight processes at mixed work, with faults, for some seconds; `scripts/soak` does it for an hour."""

from pathlib import Path

import pytest
from crash.soak import Sample, judge, soak

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
