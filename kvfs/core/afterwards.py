"""Work that may follow an answer: done before anything else of the process runs, while the caller wakes up.

A caller that waits longer than a few microseconds lets its processor fall asleep, and waking it costs as much again.
So work whose effect is invisible before the next call is left until the answer is out.
"""

from collections.abc import Callable
from typing import Any

from kvfs.core.callers import Caller, current, door


class Afterwards:
    """Calls to be made later, in order, while it `is_open`; at once, while it is not.

    `is_served` is true if a loop calls `run` after every answer, and only then may it be opened. Between a call that
    is left for later and `run` nothing else of the process may run: no await. It counts as the work of the caller for
    whom it was left.
    """

    __slots__ = ("caller", "is_open", "is_served", "late")

    def __init__(self) -> None:
        self.is_served = False
        self.is_open = False
        self.late: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.caller: Caller | None = None

    def __call__(self, work: Callable[..., object], *args: Any) -> None:
        """Have `work(*args)` done; it must not fail."""
        self.late.append((work, args))
        if self.is_open:
            self.caller = door.caller
        else:
            self.run()

    def last(self, work: Callable[..., object], *args: Any) -> None:
        """Have work done like `__call__`, for handlers that have awaited: they must return right after this call."""
        self.late.append((work, args))
        if self.is_served:
            self.caller = current()
        else:
            self.run()

    def run(self) -> None:
        """Do the work that was left. A failing piece stops no other: its exception is raised when all is done."""
        failed: Exception | None = None
        before = door.caller
        door.caller, self.caller = self.caller or before, None
        while self.late:
            work, args = self.late.pop(0)
            try:
                work(*args)
            except Exception as exc:  # a bug: whoever called tells it
                failed = exc
        door.caller = before
        if failed is not None:
            raise failed
