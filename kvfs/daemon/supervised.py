"""A mount as a service of systemd: it reports readiness, pending changes, signs of life, and asks for time to drain."""

import os
from collections.abc import Callable
from typing import Final

import trio

from kvfs.host.notify import Notifier

STATUS_SECONDS: Final = 5.0
MORE_SECONDS: Final = 30.0
"""Time that is asked for while the daemon drains; it is asked for again every `STATUS_SECONDS`."""


class Supervised:
    """Reports one mount to the service manager. `pending` answers the number of changes that are not sent."""

    def __init__(self, source: str, mountpoint: str, pending: Callable[[], int]) -> None:
        self._words = f"{source} on {mountpoint}"
        self._pending = pending
        self._notifier = Notifier(os.environ)
        self._is_ending = False

    def ready(self) -> None:
        """Report that the mount can be used."""
        self._notifier.ready(self._status())

    def ending(self) -> None:
        """Report that the mount is ending: from now on more time is asked for."""
        self._is_ending = True
        self._tell()

    async def run(self) -> None:
        """Tell the state now and then, for ever. It runs on the mount's own loop, so a loop that hangs says nothing."""
        every = STATUS_SECONDS
        if self._notifier.watchdog is not None:
            every = min(every, self._notifier.watchdog / 2)
        while True:
            await trio.sleep(every)
            self._tell()

    def _tell(self) -> None:
        if self._notifier.watchdog is not None:
            self._notifier.alive()
        if self._is_ending:
            self._notifier.stopping(self._status(), MORE_SECONDS)
        else:
            self._notifier.status(self._status())

    def _status(self) -> str:
        count = self._pending()
        state = "ending" if self._is_ending else "mounted"
        changes = "nothing pending" if not count else f"{count} change{'' if count == 1 else 's'} pending"
        return f"{state}: {self._words}, {changes}"
