"""Why something is not at the server yet, in words for the user: reasons, what to do, when it goes on."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import trio

from kvfs.core.model import Change
from kvfs.sender.events import SenderStatistics
from kvfs.store.ratelimit import BudgetStatistics

Message = dict[str, Any]

NOT_TRIED: Final = "the time was over before it was their turn"

_ADVICE: Final = (
    (r"code 10048|free usage limit", "the account's allowance is renewed at 00:00 UTC"),
    (r"HTTP 40[13]\b|code 10000|code 9109", "the token needs the permission Workers KV Storage: Edit for this account"),
    (r"No space left|cannot be written", "make room on the disk of the state directory (--state-dir)"),
    (r"HTTP 429|limit of [\d,]+ requests", "nothing to do: it goes on when the window is over"),
    (r"code 10013|namespace", "the namespace is gone: kvfs recover writes the values into files"),
    (r"HTTP 5\d\d|does not answer|no answer|ConnectError|Timeout", "nothing to do: it is tried again by itself"),
    (r"HTTP 4\d\d", "kvfs rejected list: retry or discard it"),
)  # fmt: skip


def advice_for(reason: str) -> str:
    """What a user can do about a reason, "" when nothing is known."""
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, reason)), "")


class Outlook:
    """Reads the statistics of those who send; changes nothing. `budget` is None for stores without a limit."""

    def __init__(
        self, sender: Callable[[], SenderStatistics], budget: Callable[[], BudgetStatistics] | None
    ) -> None:
        self._sender = sender
        self._budget = budget

    def waiting(self) -> tuple[str, float | None]:
        """What sending waits for right now, and in how many seconds it goes on; "" when it does not wait."""
        budget = self._budget() if self._budget is not None else None
        if budget is not None and budget.waiting and budget.next_in > 0.5:
            minutes = budget.window / 60
            window = f"{minutes:g} minutes" if minutes >= 1 else f"{budget.window:g} seconds"
            return f"the limit of {budget.used + budget.left:,} requests in {window}", budget.next_in
        sender = self._sender()
        if sender.retry_at is not None:
            return sender.last_error or "the server", max(0.0, sender.retry_at - time.time())
        return "", None

    def reasons(self, changes: Iterable[Change]) -> list[Message]:
        """Why these changes are not at the server: each reason, how many, what to do, when it is tried again."""
        waiting, seconds = self.waiting()
        general = f"waiting for {waiting}" if waiting.startswith("the limit") else waiting
        counts = Counter(change.error or general or NOT_TRIED for change in changes)
        return [
            {
                "reason": reason,
                "count": count,
                "advice": advice_for(reason),
                "next_try_seconds": seconds if reason in (general, self._sender().last_error) else None,
            }
            for reason, count in counts.most_common()
        ]

    def event(self, done: int, total: int, pending_bytes: int) -> Message:
        """How far sending is, for whoever waits for it."""
        waiting, seconds = self.waiting()
        return {
            "event": "progress",
            "done": done,
            "total": total,
            "bytes": pending_bytes,
            "waiting": waiting,
            "seconds": seconds,
        }


async def tell_often(
    latest: Callable[[], Message], send: Callable[[Message], Any], *, period: float = 0.5
) -> None:
    """For ever: how far it is, from the first moment on."""
    while True:
        with trio.CancelScope(shield=True):  # half a line would spoil the answer that follows it
            await send(latest())
        await trio.sleep(period)
