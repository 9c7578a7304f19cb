"""A daemon that reports the kernel's requests: `python counted.py WORDS` is `kvfs WORDS` with a report.

The file that `COUNTED_REQUESTS` names has a line for each request, its handler's name.
"""

import functools
import inspect
import os
import runpy
from collections import Counter
from pathlib import Path

import pyfuse3

VARIABLE = "COUNTED_REQUESTS"


def requests(log: Path) -> Counter[str]:
    """Return how often each handler was called since the last call of this."""
    found = Counter(log.read_text().split())
    log.write_text("")
    return found


def _told(handler, name, descriptor):
    @functools.wraps(handler)
    async def tell(*args):
        os.write(descriptor, f"{name}\n".encode())
        return await handler(*args)

    return tell


def main() -> None:
    """Have every handler report before it does its work."""
    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    init = pyfuse3.init

    def counted(operations, *words):
        for name, handler in inspect.getmembers(operations, inspect.iscoroutinefunction):
            if not name.startswith("_"):
                setattr(operations, name, _told(handler, name, descriptor))
        init(operations, *words)

    pyfuse3.init = counted
    runpy.run_module("kvfs", run_name="__main__")


if __name__ == "__main__":
    main()
