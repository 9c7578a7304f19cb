"""One mount from start to end: the objects, the tasks, the order of starting and stopping."""

from kvfs.daemon.run import run_daemon

__all__ = ["run_daemon"]
