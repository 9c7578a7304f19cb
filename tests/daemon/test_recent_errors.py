"""The last warnings and errors, for `.kvfs/errors`."""

import logging
import sys
import threading

from kvfs.daemon.status import RecentErrors


def test_threads_may_log_while_the_lines_are_read():
    """Nobody is told that the list changed; and the last lines are there."""
    errors, logger = RecentErrors(50), logging.getLogger("kvfs.test_recent_errors")
    logger.addHandler(errors)
    logger.propagate = False
    ended = threading.Event()

    def log():
        while not ended.is_set():
            logger.warning("line")

    threads = [threading.Thread(target=log) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            errors.text()
        while errors.text().count(b"\n") < 50:
            pass
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
        logger.removeHandler(errors)
    assert errors.text().count(b"\n") == 50
