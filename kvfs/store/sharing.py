"""A budget that a process shares with others, and clients whose requests it counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.store.ledger import Ledger
from kvfs.store.ratelimit import Budget, Priority


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


def count_requests(client: httpx.AsyncClient, budget: Budget) -> None:
    """Have each request of a client that has no `Limiting` wait for its turn, as somebody's who waits for it."""

    async def ask(request: httpx.Request) -> None:
        async with budget.request(Priority.FOREGROUND):
            pass  # counted from now on; who uses such a client makes one at a time

    async def learn(response: httpx.Response) -> None:
        budget.told(response.headers)

    client.event_hooks = {"request": [ask], "response": [learn]}
