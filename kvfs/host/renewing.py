"""Credentials while requests go on: their origin is asked again after the API refused them.

A command that prints a token has no terminal then. It can be ended while it is waited for: it is killed, and what it
started too.
"""

import logging
import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import trio

from kvfs.background import Background, Question
from kvfs.core.errors import UserError
from kvfs.host.credentials import Credentials
from kvfs.host.tokencommand import SECONDS, cannot_run, printed, too_late

log = logging.getLogger("kvfs.host")


class Renewing:
    """Renews credentials. While `background` is served, a caller that gives up leaves the question to the others."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.background = Background()
        self._asking: Question[bool] | None = None

    def headers(self) -> Mapping[str, str]:
        """Return the headers of a request."""
        return self._credentials.headers()

    def secrets(self) -> Collection[str]:
        """Return every secret word so far, none of which may appear in a text."""
        return self._credentials.secrets()

    def has_changed(self) -> bool:
        """Look, without waiting, if the origin has another secret by now, which is used from then on."""
        return self._credentials.has_changed()

    async def renew(self) -> bool:
        """Ask the origin again; return True when it has another secret, which is used from then on.

        All who ask meanwhile wait for the same answer, each for as long as it likes.
        """
        if self._credentials.origin.is_fixed:
            return False
        if not self.background.is_served:
            return await self._ask()
        if self._asking is None or self._asking.ended.is_set():
            self._asking = self.background.ask(self._ask)
        return await self._asking.answer()

    async def _ask(self) -> bool:
        origin = self._credentials.origin
        try:
            if origin.parse is not None:
                return self._credentials.take(origin.parse(await _answer_of(origin.command)))
            return self._credentials.take(await trio.to_thread.run_sync(origin.read))
        except UserError as exc:
            log.warning("%s", exc)
            return False


async def _answer_of(words: Sequence[str]) -> str:
    """Like `output_of` without a terminal; cancelling the caller ends the command. Raises `UserError`."""
    with trio.move_on_after(SECONDS):
        try:
            done = await trio.run_process(
                list(words), capture_stdout=True, stderr=subprocess.DEVNULL, check=False,
                deliver_cancel=_end, process_group=0,
            )  # fmt: skip
        except OSError as exc:
            raise cannot_run(words, exc) from None
        return printed(words, done.returncode, done.stdout or b"")
    raise too_late(words)


async def _end(process: trio.Process) -> None:
    """End the command and the processes it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        process.kill()
