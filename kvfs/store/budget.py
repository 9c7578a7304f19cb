"""The state of the budget of requests, as `kvfs status` and the metrics show it."""

from dataclasses import dataclass

from kvfs.core.limits import RATE_REQUESTS


@dataclass(frozen=True, slots=True)
class BudgetStatistics:
    """Requests `used` and `left` in a `window` of seconds; `blocked_until` is trio's time, None when not."""

    used: int
    left: int
    window: float
    blocked_until: float | None
    in_flight: int
    waiting: int
    next_in: float = 0.0
    """Seconds until somebody who waits may make a request, as far as it is known now."""
    limit: int = RATE_REQUESTS
    """The most requests that this budget allows in the window."""
    other_limit: int | None = None
    """The API's own limit, where it is another one and the API's count is the one that binds."""
