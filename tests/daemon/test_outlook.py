"""The reasons of a wait are said in words that are true."""

import pytest

from kvfs.daemon.outlook import LIMITED, kind_of, limit_words
from kvfs.store.ratelimit import Budget, Priority


@pytest.mark.parametrize(
    ("requests", "window", "told", "words"),
    [
        (1200, 300.0, None, "Cloudflare's limit of 1,200 requests in five minutes"),
        (1200, 300.0, (0, 1200), "Cloudflare's limit of 1,200 requests in five minutes"),
        (30, 300.0, None, "the limit of 30 requests in 5 minutes (--rate-requests)"),
        (30, 60.0, (0, 30), "the limit of 30 requests in 60 seconds (--rate-requests)"),
        (500, 300.0, (3, 1200), "Cloudflare's own limit of 1,200 requests"),
        (500, 300.0, (900, 1200), "the limit of 500 requests in 5 minutes (--rate-requests)"),
    ],
)
async def test_a_limit_is_named_by_its_own_number(autojump_clock, requests, window, told, words):
    """A limit is named by its own number, not less what other machines used, and it is the one that binds."""
    budget = Budget(requests, window)
    async with budget.request(Priority.FOREGROUND):
        pass
    if told is not None:
        left, quota = told
        policy = f'"default";q={quota};w={window:.0f}'
        budget.told({"ratelimit": f'"default";r={left};t=30', "ratelimit-policy": policy})
    assert limit_words(budget.statistics()) == words
    assert kind_of(words)[0] == LIMITED
