"""A budget that a process shares with others."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.store.ledger import Ledger
from kvfs.store.ratelimit import Budget


@contextmanager
def shared_budget(
    path: Path, requests: int = RATE_REQUESTS, window: float = RATE_SECONDS
) -> Iterator[Budget]:
    """Yield a budget that is counted together with that of all processes that name the same file."""
    budget = Budget(requests, window, ledger=Ledger(path, requests, window))
    try:
        yield budget
    finally:
        budget.close()
