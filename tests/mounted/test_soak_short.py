"""A short soak: eight processes at mixed work, with faults, for some seconds; `scripts/soak` does it for an hour."""

import errno
from pathlib import Path

import pytest
from crash.soak import Sample, judge, soak, too_many, unforeseen
from crash.temper import explained, lifted, rules, staleness
from crash.worker import Worker

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


@pytest.mark.parametrize(
    ("log", "wrong"),
    [
        ("WARNING open of 'ns/f': EIO: the API is away\n", 0),
        (
            "ERROR open of 'ns/f' failed: a bug of kvfs, please report it\nTraceback (most recent call last):\n",
            1,
        ),
        ("ERROR a control request failed\nTraceback (most recent call last):\n", 1),
    ],
)
def test_a_soak_sees_bugs_that_a_program_takes_for_errors_of_the_server(log: str, wrong: int) -> None:
    """A bug in a handler is an EIO for the program, as an outage is: the log tells them apart."""
    assert len(unforeseen(log)) == wrong


@pytest.mark.parametrize(("failed", "wrong"), [(0, 0), (950, 0), (1100, 1), (20_000, 1)])
def test_a_soak_sees_a_daemon_that_goes_on_failing(failed: int, wrong: int) -> None:
    """Errors that the temper explains are the exception: a daemon that answers nothing else is not well."""
    assert len(too_many(failed, 20_000)) == wrong


def test_nothing_of_the_server_explains_an_error_of_an_open_file(tmp_path: Path) -> None:
    """An open may fail because of the server; the file that it opened is read, written and closed without it."""
    worker = Worker(str(tmp_path), 0, {errno.EIO})

    def fails() -> None:
        raise OSError(errno.EIO, "failed")

    for name, wrong in (("open", 0), ("fsync", 0), ("write", 1), ("read", 2), ("close", 3)):
        fails.__name__ = name
        with pytest.raises(OSError, match="failed") as caught:
            worker.timed(fails)
        worker._failed("work", caught.value)
        assert len(worker.wrong) == wrong
