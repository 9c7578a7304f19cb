"""Stores that misbehave on purpose: FaultStore by name of operation, the server's StaleStore by answering old news."""

import copy
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field

import trio

from kvfs.core.errors import StoreError, UnavailableError
from kvfs.core.model import Key
from kvfs.server.staleness import KeyHistory, StaleStore
from kvfs.store.base import Store
from kvfs.store.wrapper import Around, StoreCall

EVERY = "*"


@dataclass(frozen=True)
class Call:
    """One call of the store: `number` counts the calls of its operation from 1."""

    operation: str
    number: int
    args: tuple
    kwargs: dict

    @property
    def keys(self) -> tuple[Key, ...]:
        """Return the keys that the call names, none for a listing."""
        if len(self.args) < 2:
            return ()
        named = self.args[1]
        return (named,) if isinstance(named, str) else tuple(named)


Proceed = Callable[..., Awaitable]
Callback = Callable[[Call], object]


@dataclass
class Rule:
    """A rule for the calls it matches; `times` is how many more of them, None for all."""

    operation: str
    on: Collection[int] | None
    when: Callable[[Call], bool] | None
    times: int | None
    action: Callable[[Call, Proceed], Awaitable]

    def takes(self, call: Call) -> bool:
        """Return True if the rule matches the call, and count it."""
        fits = (
            self.operation in (EVERY, call.operation)
            and (self.on is None or call.number in self.on)
            and (self.when is None or self.when(call))
            and self.times != 0
        )
        if fits and self.times is not None:
            self.times -= 1
        return fits


@dataclass
class Gate:
    """A gate at which calls wait: `entered` when the first arrived, and all go on after `open()`."""

    entered: trio.Event = field(default_factory=trio.Event)
    opened: trio.Event = field(default_factory=trio.Event)

    def open(self) -> None:
        """Let everybody through, from now on."""
        self.opened.set()


class FaultStore(Around):
    """Hands calls on, counts them, and does to them what it was told.

    Every fault takes the name of an operation (a method of `Store`, or "*"), and which of its calls: `on` the
    n-th ones (a number or several), `when` a predicate holds, at most so many `times`. Faults nest in the
    order of their making: the first made is outermost. `clear()` ends them all.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls: list[Call] = []
        self._rules: list[Rule] = []

    def count(self, operation: str = EVERY) -> int:
        """Return how many calls there were."""
        return sum(operation in (EVERY, call.operation) for call in self.calls)

    def clear(self) -> None:
        """End all faults; the calls stay counted."""
        self._rules.clear()

    def fail(self, operation: str, error: StoreError | None = None, **which) -> None:
        """Raise `error` instead of asking the store."""

        async def action(call, proceed):
            raise _fresh(error)

        self._add(operation, action, **which)

    def lost_ack(self, operation: str, error: StoreError | None = None, **which) -> None:
        """Do the call, then raise, as if the answer never came."""

        async def action(call, proceed):
            await proceed()
            raise _fresh(error)

        self._add(operation, action, **which)

    def torn(
        self, operation: str = "bulk_put", *, leave: Callable[[Key], bool] | None = None, **which
    ) -> None:
        """Do a bulk in part: keys for which `leave` holds (every other one) stay undone and are answered."""

        async def action(call, proceed):
            keys = call.keys
            left = set(filter(leave, keys)) if leave else set(keys[1::2])
            return frozenset(left) | await proceed(_without(call.args[1], left))

        self._add(operation, action, **which)

    def lie(self, operation: str, answer: object, **which) -> None:
        """Return this answer without asking the store."""

        async def action(call, proceed):
            return answer

        self._add(operation, action, **which)

    def delay(self, operation: str, seconds: float, **which) -> None:
        """Wait before asking the store."""

        async def action(call, proceed):
            await trio.sleep(seconds)
            return await proceed()

        self._add(operation, action, **which)

    def block(self, operation: str, **which) -> Gate:
        """Hold calls at a gate before they reach the store."""
        gate = Gate()

        async def action(call, proceed):
            gate.entered.set()
            await gate.opened.wait()
            return await proceed()

        self._add(operation, action, **which)
        return gate

    def before(self, operation: str, callback: Callback, **which) -> None:
        """Call (and await, if it asks for it) `callback(call)` before the store."""

        async def action(call, proceed):
            await _run(callback, call)
            return await proceed()

        self._add(operation, action, **which)

    def after(self, operation: str, callback: Callback, **which) -> None:
        """Call (and await, if it asks for it) `callback(call)` when the store has done it."""

        async def action(call, proceed):
            result = await proceed()
            await _run(callback, call)
            return result

        self._add(operation, action, **which)

    def _add(self, operation, action, *, on=None, when=None, times=None) -> None:
        assert operation == EVERY or hasattr(Store, operation), f"no operation {operation!r}"
        on = (on,) if isinstance(on, int) else on
        self._rules.append(Rule(operation, on, when, times, action))

    async def _call(self, called: StoreCall):
        operation, args, kwargs = called.operation, called.args, called.kwargs
        call = Call(operation, self.count(operation) + 1, args, kwargs)
        self.calls.append(call)
        actions = [rule.action for rule in self._rules if rule.takes(call)]

        async def proceed(subject=None):
            """Do the rest of the chain; `subject` replaces the keys or entries asked for."""
            nonlocal args
            if subject is not None:
                args = (args[0], subject, *args[2:])
            if actions:
                return await actions.pop(0)(Call(operation, call.number, args, kwargs), proceed)
            return await called.method(*args, **kwargs)

        return await proceed()


def _fresh(error: StoreError | None) -> StoreError:
    return UnavailableError("planted: unavailable") if error is None else copy.copy(error)


def _without(subject, left: set[Key]):
    if isinstance(subject, Mapping):
        return {key: entry for key, entry in subject.items() if key not in left}
    return [key for key in subject if key not in left]


async def _run(callback: Callback, call: Call) -> None:
    result = callback(call)
    if inspect.isawaitable(result):
        await result


def stale_store(store: Store, seconds: float, now: Callable[[], float]) -> StaleStore:
    """Answers lists, values and negatives as they were `seconds` ago by the clock `now`; writes act at once.

    Only what was written through this store has a past.
    """
    return StaleStore(store, KeyHistory(lambda: seconds, lambda: seconds, now))
