"""Limiting: a Store around a Store that keeps within the API's requests per window, reads of users first.

`Budget` is the one count that all views of one account share; a `Ledger` joins it with those of other processes. It is
a sliding window, not a drip: a burst may use all of it at once. A request counts from its start until a window after
its end, so that no window of the server's, which sees it somewhere in between, holds more.
"""

import math
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import merge
from typing import Final, TypeVar

import trio

from kvfs.core.errors import RateLimitedError
from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.store.base import Store
from kvfs.store.budget import BudgetStatistics
from kvfs.store.ledger import Ledger
from kvfs.store.passage import began, is_urgent, queued
from kvfs.store.wrapper import Around, StoreCall

T = TypeVar("T")

CONCURRENCY: Final = 16  # requests in flight
UPLOAD_TURN: Final = 4  # uploads that wait get a turn after so many of the foreground's
FIRST_BLOCK: Final = 5.0  # seconds, when a refusal does not say how long
TELLING: Final = 0.05  # seconds before its deadline at which a caller is told why it waited
LONGEST_BLOCK: Final = 3600.0  # seconds; no server blocks us for ever by one header
LOOK: Final = 1.0  # seconds between two looks at what other processes use, while somebody waits
NEWS: Final = 4  # requests by which the API's count must differ for other processes to be told
SCARCE: Final = 50  # requests left, below which they are told of each


class Priority(IntEnum):
    """The order of callers when requests are scarce."""

    FOREGROUND = 0  # a program waits in a system call
    UPLOAD = 1  # the journal is to be sent
    BACKGROUND = 2  # nobody waits for it


# The part of the budget, and of the slots in flight, that each may use up; the rest is for those before it.
_SHARE: Final = {Priority.FOREGROUND: 1.0, Priority.UPLOAD: 0.95, Priority.BACKGROUND: 0.5}
_SLOTS: Final = {Priority.FOREGROUND: 1.0, Priority.UPLOAD: 0.75, Priority.BACKGROUND: 0.25}


@dataclass(eq=False, slots=True)
class _Waiter:
    priority: Priority
    granted: bool = False
    woken: trio.Event = field(default_factory=trio.Event)


class Budget:
    """The requests that may still be made, and the queue of callers that wait for one.

    Foreground goes first, upload next, background last. The last twentieth of the budget and the last quarter
    of the slots are for the foreground, but uploads that wait get every fifth turn whatever is left.
    A caller whose deadline comes before the budget can allow it waits until then, and is told why.

    The API's own count (`told`) is believed where it is lower: it knows what other machines and the dashboard
    spend, too.
    """

    def __init__(
        self,
        requests: int = RATE_REQUESTS,
        window: float = RATE_SECONDS,
        *,
        concurrency: int = CONCURRENCY,
        ledger: Ledger | None = None,
    ) -> None:
        # constants
        self._requests = requests
        self._window = window
        self._concurrency = concurrency
        self._ledger = ledger if ledger is not None else Ledger(None, requests, window)
        # state
        self._in_flight = 0
        self._ended: deque[float] = deque()  # when requests ended, of those that still count; ascending
        self._blocked_until = -math.inf
        self._refusals = 0  # 429 in a row that did not say how long
        self._told = math.inf  # requests that the API allows until `_told_until`, less those made since
        self._told_until = -math.inf
        self._quota = requests  # the requests of the window in which the API counts
        self._waiting: dict[Priority, deque[_Waiter]] = {priority: deque() for priority in Priority}
        self._passed_over = 0  # turns of the foreground since an upload that waits had one
        self._timekeeper: _Waiter | None = None  # the first in line, who wakes everybody
        self._alarm = math.inf  # when it wakes
        self._next = math.inf  # when the next request is possible, as far as it is known
        self._others = 0  # requests of other processes that count now

    def __repr__(self) -> str:
        return f"<Budget {self._used} of {self._requests} requests in {self._window:g} s used>"

    @asynccontextmanager
    async def request(self, priority: Priority) -> AsyncIterator[None]:
        """Make one request inside, as soon as it may be made."""
        await self._wait_for_turn(priority)
        try:
            yield
        finally:
            self._in_flight -= 1
            self._ended.append(trio.current_time())
            if self._ledger.end():
                self._share(wants=False)
            self._give_turns()

    def block(self, seconds: float | None) -> float:
        """Let nobody make a request for so long; return for how long that is.

        With None the API did not say. Then it is 5 s, and twice as long with each refusal in a row, because a refusal
        may be about a burst of a second or about the whole window.
        """
        now = trio.current_time()
        if seconds is None:
            if now >= self._blocked_until:  # requests that were under way together count as one
                self._refusals += 1
            seconds = min(FIRST_BLOCK * 2.0 ** (self._refusals - 1), self._window) if self._refusals else 0.0
        self._blocked_until = max(self._blocked_until, now + min(max(seconds, 0.0), LONGEST_BLOCK))
        self._ledger.block(self._blocked_until - now)
        return self._blocked_until - now

    def made(self, count: int) -> None:
        """Count requests that were made without asking, as if they ended now."""
        self._ended.extend([trio.current_time()] * count)
        for _ in range(count):
            self._ledger.end()

    def accepted(self) -> None:
        """Note that a request was not refused for its rate."""
        self._refusals = 0

    def told(self, headers: Mapping[str, str]) -> None:
        """Take in `Ratelimit` and `Ratelimit-Policy` of an answer: requests left, for how long, of how many."""
        if (limit := ratelimit_of(headers.get("ratelimit", ""))) is None:
            return
        left, seconds = limit
        quota = re.search(r";\s*q\s*=\s*(\d{1,9})(?![\d.])", headers.get("ratelimit-policy", ""))
        self._quota = int(quota[1]) if quota else self._requests
        now, seconds = trio.current_time(), min(seconds, LONGEST_BLOCK)
        # requests under way may be not counted there yet
        told = max(0, left - max(0, self._in_flight - 1))
        if told < SCARCE or abs(told - self._told_left(now)) > NEWS:
            self._ledger.tell(left, seconds, self._quota, self._in_flight)
            self._adopt(now)
        if self._ledger.is_alone:
            self._told, self._told_until = told, now + seconds

    def statistics(self) -> BudgetStatistics:
        """Return the present state."""
        now = trio.current_time()
        if self._ledger.is_old():
            self._share(wants=False)
        self._forget_old(now)
        waiting = sum(map(len, self._waiting.values()))
        own, told = self._requests - self._used, self._told_left(now)
        return BudgetStatistics(
            used=self._used,
            left=int(max(0, min(own, told))),
            window=self._window,
            blocked_until=self._blocked_until if self._blocked_until > now else None,
            in_flight=self._in_flight,
            waiting=waiting,
            next_in=max(0.0, self._next - now) if waiting and math.isfinite(self._next) else 0.0,
            limit=self._requests,
            other_limit=self._quota if told < own and self._quota != self._requests else None,
        )

    def close(self) -> None:
        """Close it: other processes may have the tokens set aside for this one."""
        self._ledger.close(self._in_flight)

    async def _wait_for_turn(self, priority: Priority) -> None:
        waiter = _Waiter(priority)
        self._waiting[priority].append(waiter)
        try:
            self._give_turns()
            last_call = trio.current_effective_deadline() - TELLING
            while not waiter.granted:
                if trio.current_time() >= last_call and (hindrance := self._hindrance(priority)):
                    reason, seconds = hindrance
                    text = f"{reason}: the next request is possible in {seconds:.0f} s"
                    raise RateLimitedError(text, retry_after=seconds)
                alarm = self._alarm if waiter is self._timekeeper else math.inf
                with trio.move_on_at(min(alarm, last_call) if trio.current_time() < last_call else alarm):
                    await waiter.woken.wait()
                if not waiter.granted:
                    waiter.woken = trio.Event()
                    self._give_turns()
        except BaseException:
            if waiter.granted:
                self._in_flight -= 1  # it was never made
                self._ledger.give_back()
            else:
                self._waiting[priority].remove(waiter)
            self._give_turns()
            raise

    # No checkpoint in anything below: what it sees and changes is consistent.

    @property
    def _used(self) -> int:
        return self._in_flight + len(self._ended) + self._others

    def _give_turns(self) -> None:
        """Grant all that may go now, in order, and see to it that somebody wakes when the next may."""
        now = trio.current_time()
        self._forget_old(now)
        while now >= self._blocked_until and (waiter := self._next_in_turn() or self._next_after_a_look()):
            if not self._ledger.has_token():
                self._share(wants=True)
                if not self._ledger.has_token():
                    break
                continue  # now that the others' requests are known
            self._ledger.take()
            self._waiting[waiter.priority].popleft()
            self._count_turn(waiter.priority)
            self._in_flight += 1
            self._told -= 1
            waiter.granted = True
            waiter.woken.set()
        self._set_alarm(now)

    def _set_alarm(self, now: float) -> None:
        """Let only the first in line keep the time; it is woken when it has to take over or to rise earlier."""
        first = next((queue[0] for queue in self._waiting.values() if queue), None)
        if now < self._blocked_until:
            alarm = self._blocked_until
        else:
            told = self._told_until if now < self._told_until else math.inf
            alarm = min(self._allows(1), told)
        self._next = alarm
        if first is not None and not self._ledger.is_alone:
            alarm = min(alarm, now + LOOK)  # the others may give back what they do not use
        if first is not None and (first is not self._timekeeper or alarm < self._alarm):
            first.woken.set()
        self._timekeeper, self._alarm = first, alarm

    def _allows(self, freed: int) -> float:
        """Return the time when `freed` more requests leave the window; infinity while they are in flight."""
        if not self._others:
            return self._ended[freed - 1] + self._window if freed <= len(self._ended) else math.inf
        ahead = trio.current_time() - self._ledger.now()
        ours = [(ended + self._window, 1) for ended in self._ended]
        others = [(until + ahead, count) for until, count in self._ledger.others()]
        for until, count in merge(ours, others):
            freed -= count
            if freed <= 0:
                return until
        return math.inf

    def _hindrance(self, priority: Priority) -> tuple[str, float] | None:
        """Return why nothing may go now, and for how long.

        None when only a slot is missing, because any moment there is one.
        """
        now = trio.current_time()
        if now < self._blocked_until:
            return "the API asked to wait", self._blocked_until - now
        if self._told_left(now) < 1 + self._reserve(priority):
            text = "the API says that its limit is used up (other machines and the dashboard count, too)"
            return text, self._told_until - now
        if (too_many := self._used + 1 - self._allowance(priority)) > 0:
            text = f"the budget of {self._requests} requests in {self._window:g} s is used up"
            return text, min(self._allows(too_many), now + self._window) - now
        return None

    def _told_left(self, now: float) -> float:
        return self._told if now < self._told_until else math.inf

    def _reserve(self, priority: Priority) -> int:
        """Return the part of the API's count that is kept for callers of higher priority."""
        return self._quota - max(1, int(self._quota * _SHARE[priority]))

    def _next_in_turn(self) -> _Waiter | None:
        uploads = self._waiting[Priority.UPLOAD]
        if uploads and self._passed_over >= UPLOAD_TURN:
            return uploads[0] if self._has_room(Priority.FOREGROUND) else None
        for priority, queue in self._waiting.items():
            if queue:  # later callers have less room
                return queue[0] if self._has_room(priority) else None
        return None

    def _next_after_a_look(self) -> _Waiter | None:
        """Return the waiter that may go now that others have given back tokens that they did not use."""
        if not self._ledger.is_old() or not any(self._waiting.values()):
            return None
        self._share(wants=False)
        return self._next_in_turn() if trio.current_time() >= self._blocked_until else None

    def _count_turn(self, priority: Priority) -> None:
        if priority is Priority.UPLOAD:
            self._passed_over = 0
        elif priority is Priority.FOREGROUND and self._waiting[Priority.UPLOAD]:
            self._passed_over += 1

    def _has_room(self, priority: Priority) -> bool:
        slots = max(1, int(self._concurrency * _SLOTS[priority]))
        if self._told_left(trio.current_time()) < 1 + self._reserve(priority):
            return False
        return self._in_flight < slots and self._used < self._allowance(priority)

    def _allowance(self, priority: Priority) -> int:
        return max(1, int(self._requests * _SHARE[priority]))

    def _forget_old(self, now: float) -> None:
        while self._ended and self._ended[0] + self._window <= now:
            self._ended.popleft()
        self._others = sum(count for _, count in self._ledger.others())

    # with other processes

    def _share(self, *, wants: bool) -> None:
        """Tell the others, and learn of them; with `wants` also take tokens."""
        self._ledger.renew(self._in_flight, wants=wants)
        now = trio.current_time()
        self._adopt(now)
        self._forget_old(now)

    def _adopt(self, now: float) -> None:
        """Adopt the count that the API told to other processes."""
        ledger = self._ledger
        ahead = now - ledger.now()
        if ledger.blocked_until > ledger.now():
            self._blocked_until = max(self._blocked_until, ledger.blocked_until + ahead)
        told = ledger.told
        if told.until > ledger.now():
            self._told, self._told_until = told.left + ledger.reserved, told.until + ahead
            self._quota = told.quota


def ratelimit_of(text: str) -> tuple[int, float] | None:
    """Return requests left and seconds of a `Ratelimit` header (`"default";r=50;t=30`), the least of several."""
    limits = []
    for item in text.split(","):
        found = dict(re.findall(r";\s*([rt])\s*=\s*(\d{1,9})(?=\s*(?:;|$))", item))
        if len(found) == 2:
            limits.append((int(found["r"]), float(found["t"])))
    return min(limits, default=None)


class Limiting(Around):
    """Makes each request when the budget allows it; on a 429 everybody who shares the budget waits.

    That `RateLimitedError` is raised with `retry_after` filled in. `list_namespaces` counts as one request.
    """

    def __init__(self, store: Store, budget: Budget, priority: Priority = Priority.FOREGROUND) -> None:
        super().__init__(store)
        self._budget = budget
        self._priority = priority

    def __repr__(self) -> str:
        return f"<Limiting {self._priority.name} by {self._budget!r} around {self._store!r}>"

    async def _call(self, call: StoreCall[T]) -> T:
        priority = Priority.FOREGROUND if is_urgent() else self._priority
        queued()
        async with self._budget.request(priority):
            began()
            try:
                answer = await call()
                self._budget.accepted()
                return answer
            except RateLimitedError as exc:
                blocked = self._budget.block(exc.retry_after)
                if exc.retry_after is None:
                    exc.retry_after = blocked
                raise
