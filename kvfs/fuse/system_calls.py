"""System calls: one of a program may be several requests of the kernel, which have one time together.

The kernel looks names up, and asks for attributes, before it does what a program called: so one `unlink` is a LOOKUP
and an UNLINK, and `--timeout` is a promise to the program. The kernel does not say which requests belong together.
They come from one thread, at once after each other, and name what the one before found. Where it may be so, a request
has what is left of the time of the call. It has `SHARE` of the bound at least, because it may be a call of its own, but
all of them together never have more than the bound and `SHARE` of it.

Programs make calls of their own as quickly. So what was answered at once never prolongs the moment in which a call may
go on, the same request again begins another call, and so does a fourth name that nothing led to (`_STRAYS`).

A call may also have waited before the daemon hears of it. With most versions of libfuse the kernel makes the requests
for the names in one directory one after the other, and one at a time of all the renames in a mount that lead from one
directory to another: while one waits for the server, those of other threads wait in the kernel. The one that comes at
the very moment when such a request is answered was waiting behind it: each thread once, and only for a moment,
*because* threads that fail together would let each other fail for ever.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

SHARE: Final = 0.15  # of the bound: the least time of a request; one call may last so much longer
GAP: Final = 0.5  # seconds within which the kernel sends the next request of a call, on a busy machine
QUEUED: Final = 0.02  # seconds within which the kernel sends a request that waited for another one
NOTABLE: Final = 0.1  # seconds; a call that waited less may begin anew
_MOST: Final = 512  # threads that are remembered
_STRAYS: Final = 3  # names that nothing leads to in one call: a rename's second path, and its two names

FAILED: Final = object()
"""The answer of a request that failed."""

_LOOKUP: Final = "lookup"
_LEADING: Final = frozenset({_LOOKUP, "getattr"})  # the kernel makes these by itself, too
_NAMING: Final = frozenset({_LOOKUP, "mkdir", "rmdir", "unlink", "create", "mknod", "symlink", "rename"})
_MOVES: Final = (
    object()
)  # stands for the place in which all renames from one directory to another are made in turn


@dataclass(slots=True, eq=False)
class Queue:
    """Threads of which each waited in the kernel for the one before; `since` is when the first was answered."""

    since: float
    threads: set[int]


@dataclass(slots=True, eq=False)
class SystemCall:
    """One call, as far as it is known. Moments are trio's times.

    `until` is when its present request is to be answered, `last` the latest that any of it may be. `names` are what
    the last request found: inodes, and names as pairs of a directory's inode and the name. `parent` is where, and
    `asked` what it was: its operation, and what it named. `queue` are the threads that waited for each other, and
    `behind` the place in which it waited for one of them.
    """

    begun: float
    until: float
    last: float
    thread: int = 0
    ended: float = float("-inf")
    asked: object = None
    names: frozenset[object] = frozenset()
    parent: object = None
    has_failed: bool = False
    is_repeated: bool = False
    strays: int = 0
    queue: Queue | None = None
    behind: object = None

    def goes_on(self, operation: str, args: tuple[Any, ...]) -> bool:
        """Return whether a request is, by what it names, the next one of this call.

        A name in the kernel's cache whose LOOKUP failed is looked up once more by the same call.
        """
        wanted = _named(operation, args)
        if self.has_failed:
            return operation == _LOOKUP and not self.is_repeated and not self.names.isdisjoint(wanted)
        if self.asked == (operation, wanted):
            return False
        if not self.names.isdisjoint(wanted):
            return True
        return operation != _LOOKUP and self.parent == args[0]


class SystemCalls:
    """The calls whose last request waited, by thread. No await may come between its lines."""

    def __init__(self, bound: float) -> None:
        """`bound` is the number of seconds for which a call waits."""
        self.bound = bound
        self.latest: dict[int, SystemCall] = {}
        self._last_in: dict[object, SystemCall] = {}  # place → whose request there waited last

    def begin(self, thread: int, operation: str, args: tuple[Any, ...], now: float) -> SystemCall:
        """Return the call that a request begins or goes on with; thread 0 is nobody's."""
        call = self.latest.pop(thread, None) if self.latest else None
        if call is not None and now - call.ended <= GAP:
            least = now + SHARE * self.bound
            if call.goes_on(operation, args):
                call.until = max(call.until, min(least, call.last))
                call.is_repeated = call.has_failed
                return call
            if self._may_be_stray(call, operation, args):
                call.strays += 1
                call.until = max(call.until, least)
                call.last = max(call.last, call.until)
                return call
        for place in _places(operation, args) if thread and self._last_in else ():
            if (ahead := self._ahead(thread, place, now)) is not None:
                until = ahead.until if ahead.has_failed else max(ahead.until, now + SHARE * self.bound)
                last = max(ahead.last, until)
                return SystemCall(ahead.begun, until, last, thread, queue=ahead.queue, behind=place)
        return SystemCall(now, now + self.bound, now + (1 + SHARE) * self.bound, thread)

    @staticmethod
    def _may_be_stray(call: SystemCall, operation: str, args: tuple[Any, ...]) -> bool:
        """Return whether this may be a name of a rename that nothing led to, as it may be one of another call."""
        if operation != _LOOKUP or call.has_failed or call.strays >= _STRAYS:
            return False
        return call.asked != (operation, _named(operation, args))

    def _ahead(self, thread: int, place: object, now: float) -> SystemCall | None:
        """Return the call of another thread for which a request in that place has waited in the kernel."""
        ahead = self._last_in.get(place)
        if ahead is None or now - ahead.ended > QUEUED:
            return None
        queue = ahead.queue
        return (
            ahead if queue is not None and thread not in queue.threads and now - queue.since <= GAP else None
        )

    def end(
        self, call: SystemCall, operation: str, args: tuple[Any, ...], answer: object, now: float
    ) -> None:
        """Note that a request of the call was answered, with `FAILED` if it failed."""
        thread = call.thread
        if not thread or now - call.begun < NOTABLE:
            return
        call.ended, call.has_failed = now, answer is FAILED
        if operation in _NAMING:
            if call.queue is None or now - call.queue.since > GAP + NOTABLE:  # it has waited itself
                call.queue = Queue(now, set())
            call.queue.threads.add(thread)
            places = {*_turns(operation, args), *((call.behind,) if call.behind is not None else ())}
            self._last_in = _some(self._last_in, now)
            self._last_in |= dict.fromkeys(places, replace(call))
            call.queue = call.behind = None
        self._lead_on(call, operation, args, answer, now)

    def _lead_on(
        self, call: SystemCall, operation: str, args: tuple[Any, ...], answer: object, now: float
    ) -> None:
        """Note what the next request of the call would name, if there may be one."""
        if operation not in _LEADING or (call.has_failed and (operation != _LOOKUP or call.is_repeated)):
            return
        call.is_repeated = False
        call.asked = operation, _named(operation, args)
        call.names, call.parent = _found(operation, args, answer), args[0]
        self.latest = _some(self.latest, now)
        self.latest[call.thread] = call

    def passed(self, thread: int, operation: str, args: tuple[Any, ...], answer: object, now: float) -> None:
        """Note a request of a thread that is remembered, which was answered at once."""
        known = self.latest.get(thread)
        call = self.begin(thread, operation, args, now)
        if call is known:
            call.has_failed = False
            self._lead_on(call, operation, args, answer, now)


def _some(calls: dict[Any, SystemCall], now: float) -> dict[Any, SystemCall]:
    """Return these calls, or where there are very many, those that may go on."""
    if len(calls) < _MOST:
        return calls
    found = {place: call for place, call in calls.items() if now - call.ended <= GAP}
    return found if len(found) < _MOST else {}


def _turns(operation: str, args: tuple[Any, ...]) -> tuple[object, ...]:
    """Return the places in which the kernel makes no other request meanwhile: directories, and all moves."""
    if operation != "rename" or args[0] == args[2]:
        return (args[0],)
    return args[0], args[2], _MOVES


def _places(operation: str, args: tuple[Any, ...]) -> tuple[object, ...]:
    """Return the places in which a request may have waited for its turn. A LOOKUP may be the first of a move."""
    if operation not in _NAMING:
        return ()
    return (*_turns(operation, args), _MOVES) if operation == _LOOKUP else _turns(operation, args)


def _named(operation: str, args: tuple[Any, ...]) -> frozenset[object]:
    """Return what a request names."""
    if operation not in _NAMING:
        return frozenset(args[:1])
    named: set[object] = {args[0], (args[0], args[1])}
    if operation == "rename":
        named |= {args[2], (args[2], args[3])}
    return frozenset(named)


def _found(operation: str, args: tuple[Any, ...], answer: object) -> frozenset[object]:
    """Return what the next request of the call would name."""
    if operation != _LOOKUP:
        return frozenset(args[:1])
    found: set[object] = {(args[0], args[1])}
    if inode := getattr(answer, "st_ino", 0):
        found.add(inode)
    return frozenset(found)
