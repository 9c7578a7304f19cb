"""Callers: the processes that use a mount, what each of them did and what it cost, and for which one work is done.

The kernel names the caller with most requests; who opened a handle stands for those that name a handle only. Work
of other tasks, as sending and reading ahead, is done for the caller that caused it, or for the daemon itself.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from kvfs.core.durations import SUM, Durations, no_durations, settle, total

PROCESSES: Final = 256  # told apart; beyond it those that do nothing any more count with their command
COMMANDS: Final = 128  # of which ended processes are counted together; beyond it they are "others"
THREADS: Final = 4096  # threads whose process is remembered
LOOKS: Final = 64  # timed calls within which the name of a process is looked at again
SLACK: Final = (
    1.0  # seconds that a call may last beyond its bound: the deeper, better explained error comes first
)
_FIRST: Final = 8  # at each of these, then more and more rarely

ProcessOf = Callable[[int], tuple[int, str] | None]
"""The process of a thread and its command; None when it is gone. It must not wait for the mount."""

CommandOf = Callable[[int], str | None]
"""The command of a process; None when it is gone. It must not wait for the mount."""


@dataclass(slots=True, eq=False, repr=False)
class Caller:
    """The counts of one process. `processes` is how many it stands for, `pid` 0 where that is not one.

    `times` has durations by operation, `waits` counts the operations that waited for the store, `spent` is by
    `requests`, `read`, `written`, `deleted` and `lists`; a request that several share is divided.
    """

    pid: int
    uid: int
    command: str
    processes: int = field(default=1, kw_only=True)
    times: dict[str, Durations] = field(init=False, default_factory=dict)
    waits: int = field(init=False, default=0)
    spent: defaultdict[str, float] = field(init=False, default_factory=lambda: defaultdict(float))
    heir: "Caller | None" = field(init=False, default=None)  # counts in its place by now
    calls: int = field(init=False)  # up to `LOOKS`
    # nanoseconds when it was last asked whether it still does anything
    mark: int = field(init=False, default=-1)

    def __post_init__(self) -> None:
        self.calls = 1 if self.pid else LOOKS

    def __repr__(self) -> str:
        return f"<Caller {self.command} ({self.pid})>"

    def begin(self, operation: str) -> Durations:
        """Return the durations of an operation that it does for the first time."""
        return self.times.setdefault(operation, no_durations())

    def counted(self) -> "Caller":
        """Return itself, or the caller that counts in its place."""
        found = self
        while found.heir is not None:
            found = found.heir
        return found

    def nanoseconds(self) -> int:
        """Return the time that its operations took, without those that were not timed yet."""
        return sum(times[SUM] for times in self.times.values())

    def take(self, other: "Caller") -> None:
        """Take over the counts of another caller, now and later."""
        for operation, times in other.times.items():
            mine = self.times.get(operation) or no_durations()
            self.times[operation] = total([settle(mine), settle(times)])
        for what, number in other.spent.items():
            self.spent[what] += number
        self.waits += other.waits
        self.processes += other.processes
        other.heir = self


class Callers:
    """All callers of a mount, at most `PROCESSES` + `COMMANDS` + 2. No await may come between its lines."""

    def __init__(
        self,
        process_of: ProcessOf = lambda thread: None,
        command_of: CommandOf = lambda pid: None,
    ) -> None:
        self._process_of = process_of
        self._command_of = command_of
        self.own = Caller(0, 0, "kvfs")
        self.by_thread: dict[int, Caller] = {}  # as the kernel numbers who calls
        self.held: dict[int, Caller] = {}  # by the number of a handle: who opened it
        self._processes: dict[int, Caller] = {}
        self._ended: dict[tuple[str, int], Caller] = {}
        self._others = Caller(0, 0, "others", processes=0)

    def meet(self, thread: int, uid: int) -> Caller:
        """Return the caller of a thread that is not known: it waits in a call, so it can be looked at."""
        if len(self.by_thread) >= THREADS:
            self.by_thread.clear()  # numbers are used again by others
        pid, command = self._process_of(thread) or (thread, "?")
        found = self._processes.get(pid)
        if found is not None and found.command != command:  # another program, or another process by now
            self._fold(found)
            self._let_go()
            found = None
        if found is None:
            found = self._processes[pid] = Caller(pid, uid, command)
            if len(self._processes) > PROCESSES:
                self._make_room(found)
        self.by_thread[thread] = found
        return found

    def call_again(self, caller: Caller) -> None:
        """Look at a process in its first calls, because it may have become another program since (exec)."""
        caller.calls += 1
        if caller.calls <= _FIRST or not caller.calls & (caller.calls - 1):
            self._name(caller)

    def _name(self, caller: Caller) -> None:
        caller.command = self._command_of(caller.pid) or caller.command

    def look_again(self) -> None:
        """Learn the commands that living processes have by now; may be called in a thread, as it takes long."""
        for caller in list(self._processes.values()):
            self._name(caller)

    def everybody(self) -> list[Caller]:
        """Return all callers who did anything."""
        found = [*self._processes.values(), *self._ended.values(), self._others, self.own]
        return [caller for caller in found if caller.times or caller.spent]

    def _make_room(self, newest: Caller) -> None:
        """Fold a quarter of the processes: those that did nothing since the last time, then those that did least."""
        idle: list[Caller] = []
        busy: list[Caller] = []
        for caller in list(self._processes.values()):
            spent = caller.nanoseconds()
            (idle if caller.mark == spent else busy).append(caller)
            caller.mark = spent
        busy.sort(key=Caller.nanoseconds)
        for caller in [one for one in (*idle, *busy) if one is not newest][: PROCESSES // 4]:
            self._fold(caller)
        self._let_go()

    def _let_go(self) -> None:
        """Name the caller that counts now: a folded caller is not asked for its later work."""
        self.by_thread = {t: c for t, c in self.by_thread.items() if c.heir is None}
        self.held = {handle: caller.counted() for handle, caller in self.held.items()}

    def _fold(self, caller: Caller) -> None:
        del self._processes[caller.pid]
        place = (caller.command, caller.uid)
        if place not in self._ended and len(self._ended) >= COMMANDS:
            self._others.take(self._ended.pop(next(iter(self._ended))))
        heir = self._ended.setdefault(place, Caller(0, caller.uid, caller.command, processes=0))
        heir.take(caller)


# for whom the task that runs does its work


@dataclass(slots=True, eq=False)
class Call:
    """An operation that may wait. `has_waited` is true once it waited for the store.

    `until` is the moment (trio's time) by which it is to be answered.
    """

    caller: Caller
    until: float = float("inf")
    has_waited: bool = field(init=False, default=False)


Shares = Mapping[Caller, int]
"""How many keys of a request are for whom."""


@dataclass(slots=True, eq=False)
class Door:
    """The caller of the handler that answers right now, without waiting, because a `ContextVar` would cost too much.

    Code that sets it must take it back before anything else of the process can run.
    """

    caller: Caller | None = None


door: Final = Door()
calling: Final[ContextVar[Caller | Call | None]] = ContextVar("calling", default=None)
_shares: Final[ContextVar[Shares | None]] = ContextVar("shares", default=None)


def current() -> Caller | None:
    """Return the caller for whom the present work is done, if it is known."""
    if door.caller is not None:
        return door.caller
    found = calling.get()
    return found.caller if isinstance(found, Call) else found


def waits() -> None:
    """Note that the operation that runs now waits for the store."""
    found = calling.get()
    if isinstance(found, Call):
        found.has_waited = True


def call_ends() -> float:
    """Return the moment (trio's time) by which the operation that runs now is to be answered.

    Infinity for work that no operation waits for.
    """
    found = calling.get()
    return found.until if isinstance(found, Call) else float("inf")


def left_of_call(most: float, now: float) -> float:
    """Return the seconds that the operation that runs now has left at `now` (trio's time), but not more than `most`."""
    return max(0.0, min(most, call_ends() - now))


def prolong_call(until: float) -> None:
    """Let the operation that runs now be answered as late as `until`, because it makes progress."""
    found = calling.get()
    if isinstance(found, Call):
        found.until = max(found.until, until)


@contextmanager
def done_for(caller: Caller | None) -> Iterator[None]:
    """Attribute the work inside, also by tasks that begin inside, to this caller."""
    token = calling.set(caller)
    try:
        yield
    finally:
        calling.reset(token)


@contextmanager
def shared_by(shares: Shares) -> Iterator[None]:
    """Divide the requests inside among these callers, by their numbers of keys."""
    token = _shares.set(shares)
    try:
        yield
    finally:
        _shares.reset(token)


def charge(what: str, number: float = 1) -> None:
    """Charge `number` of `requests`, `read` … to the caller of the present request."""
    shares, caller = _shares.get(), current()
    if shares:
        whole = sum(shares.values())
        for each, keys in shares.items():
            each.counted().spent[what] += number * keys / whole
    elif caller is not None:
        caller.counted().spent[what] += number
