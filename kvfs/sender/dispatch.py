"""Carries out sendings in tasks of its own, and learns from each when to try again.

A caller that gives up (an fsync whose bound has passed, a drain) does not take the request with it: the server
would go on with it anyway, and another would be sent beside it. Only where the store is on this machine, an fsync of
a few changes carries out its sending itself, *because* a task of its own costs more than the request. That one ends
with its caller, and others who wait for its changes look again: a request that has begun there is waited for, and waits
for no lock beyond the caller's deadline.
"""

from collections.abc import Callable, Sequence
from typing import Final

import trio

from kvfs.core.errors import KvfsError, UnavailableError
from kvfs.core.model import Change
from kvfs.sender.backoff import URGENT, Backoff, UrgentBackoff
from kvfs.sender.events import Event, EventKind
from kvfs.sender.outcome import Outcome
from kvfs.sender.round import Round

FEW: Final = 8  # changes that a store on this machine takes in moments

OnOutcome = Callable[[Sequence[Change], Outcome], None]


class Dispatch:
    """The way of every sending: `carry_out` from choosing to learning.

    `backoff` is for the loop, `urgency` for callers that wait. Each of `listeners` is called after every
    sending, and must not await.
    """

    def __init__(self, round_: Round, on_event: Callable[[Event], None]) -> None:
        self.round = round_
        self.backoff = Backoff()
        self.urgency = UrgentBackoff(URGENT)
        self.last_error: str | None = None
        self.urgent_since: list[float] = []  # when (monotonic) each urgent sending under way began
        self.listeners: list[OnOutcome] = []
        self._on_event = on_event
        self._nursery: trio.Nursery | None = None
        self._under_way = 0

    @property
    def is_calm(self) -> bool:
        """True if the last sendings met no failure, so that nothing waits for its time."""
        return self.backoff.kind is None and self.urgency.retry_at == float("-inf")

    def tell(self, changes: Sequence[Change], outcome: Outcome) -> None:
        """Tell the listeners of a sending, which may have gone past `begin`."""
        for listener in self.listeners:
            listener(changes, outcome)

    @property
    def is_busy(self) -> bool:
        """True while something is being sent."""
        return self._under_way > 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run sendings for ever; without this task they end with their callers."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def carry_out(self, changes: Sequence[Change]) -> Outcome:
        """Send these, none of which may be claimed. A cancelled caller leaves the sending under way."""
        ended = trio.Event()
        outcome = Outcome(failure=UnavailableError("sending ended before its time"))

        def note(_: Sequence[Change], result: Outcome) -> None:
            nonlocal outcome
            outcome = result

        await self.begin(changes, note, ended)
        await ended.wait()
        return outcome

    async def begin(
        self,
        changes: Sequence[Change],
        note: OnOutcome = lambda changes, outcome: None,
        ended: trio.Event | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        """Begin to send these; with `urgent` they go before other uploads.

        The keys are claimed before the first checkpoint. `note` is called with the outcome, if there is one.
        """
        self.round.claim(changes)
        since = trio.current_time()
        self._under_way += 1
        if urgent:
            self.urgent_since.append(since)

        async def work() -> None:
            outcome = None
            try:
                outcome = await self.round.send(changes, urgent=urgent)
            finally:
                self._under_way -= 1
                self.round.release(changes)
                if urgent:
                    self.urgent_since.remove(since)
                if ended is not None:
                    ended.set()
                if outcome is None:  # its caller has given up, and others may have left it to him
                    self.tell(changes, Outcome())
            self._learn(outcome, urgent)
            note(changes, outcome)
            self.tell(changes, outcome)

        if self._nursery is None or (urgent and self.round.is_near and len(changes) <= FEW):
            await work()
        else:
            self._nursery.start_soon(work)

    def _learn(self, outcome: Outcome, urgent: bool) -> None:
        """Slow down after a failure, go on after a success; report it when it is news."""
        if outcome.answered or outcome.checked:
            self.urgency.succeed()
        said: KvfsError | None = outcome.failure or outcome.quota or outcome.postponed
        if said is not None:
            self.last_error = str(said)
        if outcome.failure is not None:
            if urgent:
                self.urgency.fail(trio.current_time())
            if outcome.progress:
                self.backoff.attempts = 0
            news = self.backoff.fail(outcome.failure, monotonic=trio.current_time())
            if news is not None:
                self._on_event(Event(news, str(outcome.failure)))
        elif outcome.answered and self.backoff.succeed():
            self._on_event(Event(EventKind.RECOVERED, "the store takes changes again"))
