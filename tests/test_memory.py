"""What the daemon asks of the C library's memory."""

import subprocess
import sys

SCRIPT = """
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


def test_threads_do_not_have_a_heap_each() -> None:
    """Each would keep what large values left in it."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert 1 <= done.stdout.count("<heap nr=") <= 2
