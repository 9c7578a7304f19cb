"""The outlook of pending changes, in words for the user: why they wait, what to do, what comes next."""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import nlargest
from typing import Any, Final

import trio
from msgspec import to_builtins

from kvfs.changes.totals import Totals
from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.core.model import Change
from kvfs.host.control import Message
from kvfs.host.replies import ReasonItem, Sending
from kvfs.sender.events import SenderState, SenderStatistics
from kvfs.store.budget import BudgetStatistics

NOT_TRIED: Final = "the time was over before it was their turn"
UNANSWERED: Final = "the time was over before the server had answered"

# How a server can be. The words are those of the status; docs/status.md explains them.
ANSWERS, LIMITED, QUOTA, REFUSES, AWAY, DISK = "answers", "limited", "quota", "refuses", "away", "disk"
SLOW: Final = "slow"

SHOWN: Final = 100  # reasons, and changes of each that are looked at for the next try
SILENT_SECONDS: Final = 3.0  # an answer that takes longer is worth a word

_KINDS: Final = (
    (r"code 10048|free usage limit", QUOTA, "the account's allowance is renewed at 00:00 UTC"),
    (r"No space left|cannot be written|the disk", DISK, "make room on the disk of the state directory (--state-dir)"),
    (r"HTTP 40[13]\b|code 10000|code 9109", REFUSES,
     "the token needs the permission Workers KV Storage: Edit for this account"),
    (r"HTTP 429|limit of [\d,]+ requests", LIMITED, "nothing to do: it goes on when the window is over"),
    (r"code 10013|namespace \S+ is gone", REFUSES,
     "the namespace is gone: kvfs recover writes the values into files"),
    (r"HTTP 5\d\d", REFUSES, "nothing to do: it is tried again by itself"),
    (r"HTTP 4\d\d", REFUSES, "kvfs rejected list: retry or discard it"),
    (r"HTTP \d+", REFUSES, ""),
    ("", AWAY, "nothing to do: it is tried again by itself"),
)  # fmt: skip


def kind_of(reason: str) -> tuple[str, str]:
    """Return the kind of a failure by its words, which tells who is at fault and what a user can do."""
    return next((kind, advice) for pattern, kind, advice in _KINDS if re.search(pattern, reason))


def advice_for(reason: str) -> str:
    """Return advice on a reason, "" when there is none."""
    return kind_of(reason)[1] if reason not in (NOT_TRIED, UNANSWERED) else ""


def limit_words(budget: BudgetStatistics) -> str:
    """Return `Cloudflare's limit of 1,200 requests in five minutes`, or the one that was asked for.

    It is the whole limit, of which other machines may have used a part: then `used` and `left` do not add up to it.
    """
    if budget.other_limit is not None:
        return f"Cloudflare's own limit of {budget.other_limit:,} requests"
    if (budget.limit, budget.window) == (RATE_REQUESTS, RATE_SECONDS):
        return f"Cloudflare's limit of {budget.limit:,} requests in five minutes"
    minutes = budget.window / 60
    window = f"{minutes:g} minutes" if minutes > 1 else f"{budget.window:g} seconds"
    return f"the limit of {budget.limit:,} requests in {window} (--rate-requests)"


@dataclass(frozen=True, slots=True)
class Hindrance:
    """The reason why sending waits now: its `kind`, in words, and the seconds until it goes on, if known."""

    kind: str
    text: str
    seconds: float | None = None

    @property
    def reason(self) -> str:
        """Return it as the reason of a change that it holds up."""
        return f"waiting for {self.text}" if self.kind == LIMITED else self.text


class Outlook:
    """Reads the statistics of those who send; changes nothing.

    `budget` is None for stores without a limit. `next_try` returns in how many seconds a change may be sent, `trouble`
    why reads fail at the moment ("" when they do not), `silence` for how many seconds a caller has waited for an
    answer.
    """

    def __init__(
        self,
        sender: Callable[[], SenderStatistics],
        budget: Callable[[], BudgetStatistics] | None,
        next_try: Callable[[Change], float | None] = lambda change: None,
        trouble: Callable[[], str] = lambda: "",
        silence: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._sender = sender
        self._budget = budget
        self._next_try = next_try
        self._trouble = trouble
        self._silence = silence

    def hindrance(self) -> Hindrance | None:
        """Return the reason why sending waits now; None when it does not wait."""
        budget = self._budget() if self._budget is not None else None
        if budget is not None and budget.waiting and budget.next_in > 0.5:
            return Hindrance(LIMITED, limit_words(budget), budget.next_in)
        sender = self._sender()
        if sender.retry_at is None:
            return None
        text = sender.last_error or "the server"
        kind = QUOTA if sender.state is SenderState.QUOTA else kind_of(text)[0]
        return Hindrance(kind, text, max(0.0, sender.retry_at - time.time()))

    def server(self) -> Hindrance:
        """Return the state of the server, as far as the last requests tell it."""
        found = self.hindrance()
        if found is None and (trouble := self._trouble()):
            found = Hindrance(kind_of(trouble)[0], trouble)
        if found is None and (seconds := self._silence()) > SILENT_SECONDS:
            found = Hindrance(SLOW, f"has not answered for {seconds:.0f} s")
        return found or Hindrance(ANSWERS, "")

    def words(self) -> str:
        """Return why requests wait or fail at the moment; "" when they do not, as far as is known."""
        return self.server().reason

    def reasons(self, changes: Iterable[Change]) -> list[ReasonItem]:
        """Return why these changes are not at the server: each reason, how many, what to do, when it is tried again.

        Those that nothing keeps are left out.
        """
        found = self.hindrance()
        general = found.reason if found is not None else ""
        counts: dict[str, int] = {}
        tries: dict[str, float] = {}
        for change in changes:
            reason = change.error or general or _remembered(change)
            if not reason:
                continue
            counts[reason] = counts.get(reason, 0) + 1
            seconds = self._next_try(change)
            if found is not None and found.seconds is not None and reason == general:
                seconds = found.seconds
            if seconds is not None:
                tries[reason] = min(seconds, tries.get(reason, seconds))
        return [
            _reason(text, count, tries.get(text))
            for text, count in sorted(counts.items(), key=lambda item: -item[1])
        ]

    def summary(self, totals: Totals, *, in_flight: int | None = None) -> list[ReasonItem]:
        """Return the `reasons` of all that is not at the server, the `SHOWN` most frequent ones, by kept counts.

        `in_flight`: sending has ended for now, with so many changes on their way. Then those that nothing keeps are
        told as well. Of each reason a few changes stand for all when it comes to the next try, *because* there may be
        a hundred thousand, and the event loop must not look at them all.
        """
        found = self.hindrance()
        general = found.reason if found is not None else ""
        counts: dict[str, int] = {}
        tries: dict[str, float | None] = {}
        without = totals.pending_count + totals.rejected_count
        failures = totals.failures(SHOWN) if not general else ()
        remembered = ((_last_try(text), count, some) for text, count, some in failures)
        for text, count, some in (*totals.errors(SHOWN), *remembered):
            counts[text], without = count, without - count
            seconds = [left for left in map(self._next_try, some) if left is not None]
            tries[text] = min(seconds, default=None)
        if general and (without or general in counts):
            counts[general] = counts.get(general, 0) + without
            tries[general] = found.seconds if found is not None else None
        elif in_flight is not None:
            unanswered = min(in_flight, without)
            counts |= {UNANSWERED: unanswered, NOT_TRIED: without - unanswered}
        most = nlargest(SHOWN, counts.items(), key=lambda item: item[1])
        return [_reason(text, count, tries.get(text)) for text, count in most if count]

    def explain(self, change: Change) -> str:
        """Return why one change is not at the server, in a line; "" when nothing keeps it."""
        for reason in self.reasons([change]):
            words = [reason.reason, *([reason.advice] if reason.advice else [])]
            if reason.next_try_seconds is not None:
                words.append(f"tried again in {reason.next_try_seconds:.0f} s")
            return "; ".join(words)
        return ""

    def event(self, done: int, total: int, pending_bytes: int, doing: str = "") -> Message:
        """Return the progress of sending as an event for callers that wait for it."""
        found = self.hindrance()
        waiting, seconds = (found.text, found.seconds) if found is not None else ("", None)
        event: Message = to_builtins(Sending(done, total, pending_bytes, waiting, seconds, doing))
        return event


def _reason(text: str, count: int, next_try: float | None) -> ReasonItem:
    return ReasonItem(text, count, advice_for(text), next_try)


def _remembered(change: Change) -> str:
    """Say why the last try failed, though nothing hinders the next one as far as is known: of a mount before, say."""
    return _last_try(change.failed.text) if change.failed is not None else ""


def _last_try(text: str) -> str:
    return f"the last try failed: {text}"


async def tell_often(
    latest: Callable[[], Message], send: Callable[[Message], Any], *, period: float = 0.5
) -> None:
    """Report the progress often, for ever, from the first moment on."""
    while True:
        with trio.CancelScope(shield=True):  # half a line would spoil the answer that follows it
            await send(latest())
        await trio.sleep(period)
