"""The use of the mount by each process, and its cost: the data of `kvfs top`."""

import time

import trio

from kvfs.core.callers import Caller, Callers
from kvfs.core.durations import BUCKETS, Durations, count, no_durations, seconds, settle, total
from kvfs.core.prices import BILLED, dollars
from kvfs.host.replies import BilledKeys, CallerItem, StatusReport, TopReport


class MountUsage:
    """The callers of a mount since `since`, in epoch seconds."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers
        self._since = time.time()

    async def top(self, status: StatusReport) -> TopReport:
        """Return the data of `kvfs top`: every caller, and the part of the status that says what is left."""
        await trio.to_thread.run_sync(self._callers.look_again)
        callers = [described(caller) for caller in self._callers.everybody()]
        return TopReport(
            time.time(), self._since, callers, status.requests, status.keys, status.budget, status.pending
        )

    def by_operation(self) -> dict[str, Durations]:
        """Return the durations of operations of all callers."""
        found: dict[str, list[Durations]] = {}
        for caller in self._callers.everybody():
            for operation, times in caller.times.items():
                found.setdefault(operation, []).append(settle(times))
        return {operation: total(each) for operation, each in sorted(found.items())}

    def waited(self) -> int:
        """Count the operations that waited for the store."""
        return sum(caller.waits for caller in self._callers.everybody())


def described(caller: Caller) -> CallerItem:
    """Return a caller as an object of docs/status.md."""
    operations = {operation: count(settle(times)) for operation, times in sorted(caller.times.items())}
    durations = total(caller.times.values()) if caller.times else no_durations()
    spent = {name: round(caller.spent.get(name, 0.0), 6) for name in BILLED}
    return CallerItem(
        pid=caller.pid,
        uid=caller.uid,
        command=caller.command,
        processes=caller.processes,
        operations=operations,
        waited=caller.waits,
        seconds=seconds(durations),
        durations=durations[:BUCKETS],
        requests=round(caller.spent.get("requests", 0.0), 6),
        keys=BilledKeys(**spent),
        dollars=round(dollars(spent), 9),
    )
