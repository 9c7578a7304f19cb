"""Callers: processes are told apart as long as there is room, and no operation of theirs is lost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvfs.core import callers as module
from kvfs.core.callers import (
    COMMANDS,
    PROCESSES,
    Call,
    Caller,
    Callers,
    calling,
    charge,
    current,
    done_for,
    shared_by,
    waits,
)
from kvfs.core.durations import add, count, settle


class Machine:
    """Processes as /proc shows them: thread → process and command."""

    def __init__(self) -> None:
        self.threads: dict[int, tuple[int, str]] = {}

    def callers(self) -> Callers:
        return Callers(self.threads.get, lambda pid: self.threads.get(pid, (0, None))[1])


def operations(callers: Callers) -> dict[str, int]:
    """Return how many operations each command did."""
    found: Counter[str] = Counter()
    for caller in callers.everybody():
        found[caller.command] += sum(count(settle(times)) for times in caller.times.values())
    return dict(found)


def lookup(callers: Callers, thread: int, uid: int = 0) -> Caller:
    """Count one operation of a thread."""
    caller = callers.by_thread.get(thread) or callers.meet(thread, uid)
    add(caller.times.get("lookup") or caller.begin("lookup"), 1000)
    return caller


def test_the_threads_of_a_process_are_one_caller() -> None:
    """The threads of a process are one caller, although the kernel numbers threads."""
    machine = Machine()
    machine.threads = {10: (10, "make"), 11: (10, "make"), 20: (20, "find")}
    callers = machine.callers()
    assert lookup(callers, 10) is lookup(callers, 11)
    assert lookup(callers, 20).pid == 20
    assert operations(callers) == {"make": 2, "find": 1}


def test_a_process_goes_by_the_program_that_it_became() -> None:
    """A shell that has opened a file for `find > file` counts as find from the next calls on."""
    machine = Machine()
    machine.threads = {10: (10, "bash")}
    callers = machine.callers()
    caller = lookup(callers, 10)
    machine.threads[10] = (10, "find")
    callers.call_again(caller)
    assert caller.command == "find"


def test_a_number_that_another_process_got_is_another_caller() -> None:
    """The work of a process stays under its own name if another process gets its number."""
    machine = Machine()
    machine.threads = {10: (10, "cat")}
    callers = machine.callers()
    lookup(callers, 10)
    callers.by_thread.clear()
    machine.threads[10] = (10, "sshd")
    lookup(callers, 10)
    assert operations(callers) == {"cat": 1, "sshd": 1}


def test_every_thread_of_a_process_goes_by_the_program_that_it_became() -> None:
    """A thread met under the earlier name counts for the program that its process became, and nothing is lost."""
    machine = Machine()
    machine.threads = {10: (10, "launcher")}
    callers = machine.callers()
    callers.held[1] = lookup(callers, 10)
    machine.threads.update({10: (10, "server"), 11: (10, "server")})
    lookup(callers, 11)
    lookup(callers, 10)
    assert operations(callers) == {"launcher": 1, "server": 2}
    assert callers.held[1].heir is None


def test_a_process_that_is_gone_before_it_is_looked_at_is_counted_all_the_same() -> None:
    """A process that is gone before it is looked at is counted without a name."""
    callers = Machine().callers()
    lookup(callers, 10)
    assert operations(callers) == {"?": 1}


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from("abcdefgh")), max_size=120))
@settings(max_examples=60)
def test_nothing_is_lost_however_many_come(steps: list[tuple[int, str]]) -> None:
    """Operations, requests and handles of processes without a row of their own count with their command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PROCESSES", 8)
        patch.setattr(module, "COMMANDS", 3)
        patch.setattr(module, "THREADS", 16)
        machine = Machine()
        callers = machine.callers()
        done: Counter[str] = Counter()
        earlier: list[Caller] = []
        for number, (pid, command) in enumerate(steps):
            machine.threads[pid] = (pid, command)
            caller = lookup(callers, pid)
            done["lookup"] += 1
            callers.held[number] = caller
            earlier.append(caller)
            with done_for(earlier[number // 2]):  # a change that it made is sent by now
                charge("requests")
            handle = callers.held[number // 2]
            add(handle.times.get("read") or handle.begin("read"), 1000)
        found = callers.everybody()
        assert len(found) <= 8 + 3 + 2
        assert all(caller.heir is None for caller in found)
        for operation, wanted in (("lookup", len(steps)), ("read", len(steps))):
            times = [settle(caller.times[operation]) for caller in found if operation in caller.times]
            assert sum(map(count, times)) == wanted
        assert sum(caller.spent["requests"] for caller in found) == len(steps)


def test_the_table_is_bounded() -> None:
    """Ten thousand short processes of as many commands leave a few hundred rows."""
    machine = Machine()
    callers = machine.callers()
    for pid in range(1, 10_001):
        machine.threads[pid] = (pid, f"command {pid}")
        lookup(callers, pid)
    assert len(callers.everybody()) <= PROCESSES + COMMANDS + 2
    assert sum(operations(callers).values()) == 10_000
    assert operations(callers)["others"] > 9_000


def test_a_busy_process_keeps_its_row() -> None:
    """A busy process keeps its row, however many short ones come and go."""
    machine = Machine()
    machine.threads = {1: (1, "server")}
    callers = machine.callers()
    server = lookup(callers, 1)
    for pid in range(2, 3 * PROCESSES):
        machine.threads[pid] = (pid, "cat")
        lookup(callers, pid)
        lookup(callers, 1)
    assert server.heir is None
    assert server in callers.everybody()


def test_a_request_that_several_share_is_divided_by_keys() -> None:
    """A shared request is divided by keys, and an unshared one counts for the caller of the task."""
    one, two = Caller(1, 0, "one"), Caller(2, 0, "two")
    with done_for(one):
        charge("requests")
        with shared_by({one: 1, two: 3}):
            charge("requests")
            charge("read", 4)
    assert (one.spent["requests"], one.spent["read"]) == (1.25, 1)
    assert (two.spent["requests"], two.spent["read"]) == (0.75, 3)


def test_an_operation_that_waits_says_so() -> None:
    """An operation that waits is shown as waiting, only while it runs."""
    call = Call(Caller(1, 0, "one"))
    waits()
    token = calling.set(call)
    waits()
    calling.reset(token)
    assert call.has_waited
    assert current() is None
