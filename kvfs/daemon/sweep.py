"""Removal of leftovers of earlier mounts that nobody needs, when a mount starts.

A journal goes only with its lock held, and never while it holds a change, or anything that is not known here.
"""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from kvfs.core.errors import JournalLockedError
from kvfs.history.version_segment import segments
from kvfs.host.held import STDIN, remove_left
from kvfs.host.leftovers import remove_old_files, remove_records
from kvfs.host.sources import HISTORY, NAME, journals, last_used, read_source, was_used
from kvfs.host.state import is_half
from kvfs.host.told import DIRECTORY as TOLD
from kvfs.journal.opener import lock
from kvfs.journal.worth import Worth, worth

log = logging.getLogger("kvfs.daemon")

DAY: Final = 86_400.0
_SOON: Final = 5.0  # seconds after the start, when nobody waits for the mount any more
EMPTY_SECONDS: Final = 7 * DAY
"""An empty journal is removed after so long without a mount; until then an offline mount can start from it."""
KEPT_SECONDS: Final = 90 * DAY
"""A journal with modes, times, made directories or a history is removed after so long; so are old logs."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """The journal of a source that is not mounted, and how long it has not been."""

    journal: Path
    source: str
    mountpoint: str
    worth: Worth
    idle: float

    @property
    def goes_in(self) -> float | None:
        """Return the seconds until it goes; None: never."""
        if self.worth is Worth.CHANGES:
            return None
        return (EMPTY_SECONDS if self.worth is Worth.NOTHING else KEPT_SECONDS) - self.idle


def leftovers(state_dir: Path, now: float, *, idle: float = 0.0) -> Iterator[Leftover]:
    """Return journals that nobody has open and nobody used for so long."""
    for journal in journals(state_dir):
        with suppress(JournalLockedError, OSError):  # or it went this very moment
            if max(0.0, now - last_used(journal)) >= idle:
                with _locked(journal):
                    yield _look(journal, now)


def _look(journal: Path, now: float) -> Leftover:
    record, found = read_source(journal), worth(journal)
    if found is not Worth.CHANGES and any(not _is_known(file, journal) for file in journal.parent.iterdir()):
        found = Worth.CHANGES
    if found is Worth.NOTHING and segments(journal.parent / HISTORY):
        found = Worth.KEPT
    source = record.source if record is not None else f"(journal {journal.parent.name})"
    mountpoint = record.mountpoint if record is not None else ""
    return Leftover(journal, source, mountpoint, found, max(0.0, now - last_used(journal)))


def _is_known(file: Path, journal: Path) -> bool:
    """Return whether a file goes with the journal: not the conflicts that nobody has settled, say."""
    is_ours = file.name in (NAME, HISTORY) or file.name.startswith(journal.name)
    return is_ours or is_half(file) or (file.is_file() and not os.path.getsize(file))


@contextmanager
def _locked(journal: Path) -> Iterator[None]:
    descriptor = lock(journal, "")
    try:
        yield
    finally:
        os.close(descriptor)


def sweep(state_dir: Path, now: float) -> None:
    """Remove what has had its time; for a thread. A leftover that cannot be removed stays, and stops nothing."""
    for gone in (state_dir / "sources").glob(".*.gone"):  # a sweep before was killed
        shutil.rmtree(gone, ignore_errors=True)
    for one in leftovers(state_dir, now, idle=EMPTY_SECONDS):
        if one.goes_in is not None and one.goes_in <= 0:
            with suppress(OSError):
                _remove(one)
    remove_records(state_dir)
    remove_old_files(state_dir, now - KEPT_SECONDS)
    remove_left(state_dir / TOLD)
    remove_left(state_dir / "copies", STDIN)


def _remove(one: Leftover) -> None:
    """Remove it under its lock: a mount that comes now makes a new one. Raises OSError."""
    gone = one.journal.parent.with_name(f".{one.journal.parent.name}.gone")
    one.journal.parent.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
    log.info("what was kept of %s is removed: not mounted for %.0f days", one.source, one.idle / DAY)


async def keep_swept(state_dir: Path, journal: Path) -> None:
    """Sweep once, soon after a mount has started; then note for ever that its own source is used."""
    await trio.sleep(_SOON)
    await trio.to_thread.run_sync(sweep, state_dir, time.time())
    await keep_used(journal)


async def keep_used(journal: Path) -> None:
    """Note each day that a mount is there, because one that is killed after months was not left months ago."""
    while True:
        was_used(journal)
        await trio.sleep(DAY)
