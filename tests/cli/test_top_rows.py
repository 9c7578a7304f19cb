"""Rows of `kvfs top` that stand for several callers."""

from kvfs.cli.top import _user, grouped
from kvfs.host.replies import BilledKeys, CallerItem


def caller(pid: int, uid: int, command: str) -> CallerItem:
    return CallerItem(pid, uid, command, 1, {"read": 1}, 0, 0.1, [1], 1, BilledKeys(0, 0, 0, 0), 0)


def test_work_of_nobody_is_not_told_as_that_of_root() -> None:
    """The daemon's own work and what is left of many callers stay nobody's when they are joined by user."""
    own, rest, roots = caller(0, 0, "kvfs"), caller(0, 0, "others"), caller(3, 0, "cat")
    found = grouped([own, rest, roots], "user")
    assert [(_user(row), sum(row.operations.values())) for row in found] == [("-", 2), ("root", 1)]
