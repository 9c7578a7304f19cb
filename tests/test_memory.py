"""Memory settings that the daemon asks of the C library."""

import subprocess
import sys

import pytest

HEAPS = """
import ctypes, threading
from kvfs.daemon.memory import limit_heaps

limit_heaps()
all_there = threading.Barrier(8)


def work():
    held = [bytearray(5000) for _ in range(100)]
    all_there.wait()
    return held


threads = [threading.Thread(target=work) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
HELD = """
import os
import sys
import trio
import trio.testing
from kvfs.daemon import memory
from kvfs.daemon.memory import keep_trimmed


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def main():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_trimmed)
        await trio.testing.wait_all_tasks_blocked()
        values = [bytearray(b"x" * 100_000) for _ in range(int(sys.argv[2]))]
        last = bytearray(b"x" * 100_000)
        values.clear()
        kept = resident()
        await trio.sleep(getattr(memory, sys.argv[1]) * 1.5)
        print(kept, resident())
        nursery.cancel_scope.cancel()


trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.2))
"""

LARGE = """
import resource
from concurrent.futures import ThreadPoolExecutor
from kvfs.daemon.memory import limit_heaps

limit_heaps()
thread = ThreadPoolExecutor(1)


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def write(kept):
    before = faults()
    pieces = [b"x" * (128 * 1024) for _ in range(200)]
    taken = faults() - before
    pieces.clear()
    kept.append(thread.submit(lambda: b"x" * (25 * 1024 * 1024)).result())
    return taken


kept = []
for _ in range(4):
    print(write(kept))
"""


def run(script: str, *words: str) -> str:
    """Return the output of a process of its own."""
    command = [sys.executable, "-c", script, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_threads_do_not_have_a_heap_each() -> None:
    """Threads share a heap, because one of their own would keep what large values left in it."""
    assert 1 <= run(HEAPS).count("<heap nr=") <= 2


@pytest.mark.parametrize(("after", "megabytes"), [("PERIOD", 50), ("LOOK", 100)])
def test_memory_below_an_object_that_stays_is_given_back(after: str, megabytes: int) -> None:
    """Free memory below an object that stays is given back, although glibc gives back the end of a heap only.

    Much of it is given back soon.
    """
    kept, left = map(float, run(HELD, after, str(megabytes * 10)).split())
    assert kept > megabytes * 0.9
    assert left < kept - megabytes * 0.8


def test_a_value_kept_does_not_take_the_place_of_the_next_ones_pieces() -> None:
    """The next value's pieces come from free pages beside a kept value, because new pages take as long as a copy."""
    first, *others = map(int, run(LARGE).split())
    assert max(others) < max(first / 20, 20)
