"""The end of a mount: what is written however it came, and the last line of the log."""

import logging
import time
from contextlib import asynccontextmanager

import pytest
from support.journals import open_journal, put

from kvfs.config import Config, LocalSource
from kvfs.core.callers import Callers
from kvfs.core.errors import UserError
from kvfs.daemon.build import open_stores
from kvfs.daemon.kernelside import KernelSide
from kvfs.daemon.mounted import LEFT, Mounted
from kvfs.daemon.start import Start
from kvfs.daemon.status import RecentErrors, Watching
from kvfs.fuse.operations import Operations
from kvfs.fuse.session import KernelInvalidator, Session
from kvfs.history.version_segment import segments

KERNEL = KernelSide(Operations, Session, KernelInvalidator)


@asynccontextmanager
async def built(base):
    """A mount as the daemon makes it, on a directory that is not there, and its journal."""
    config = Config(LocalSource(base / "store.db"), base / "mnt", state_dir=base / "state")
    config.control_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    watching = Watching("test", RecentErrors(), Callers(lambda thread: None, lambda pid: None))
    with open_journal(base / "journal.db", now=time.time) as journal:
        async with open_stores(config, None) as stores:
            yield Mounted(config, stores, journal, Start(None, []), watching, KERNEL), journal


async def test_what_was_replaced_is_kept_by_a_mount_that_breaks_off(tmp_path) -> None:
    """The kernel refuses the mount: what was written over until then is in the history all the same."""
    async with built(tmp_path) as (mounted, journal):
        for value in (b"old", b"new"):
            put(journal, "f", value, base=None)
        with pytest.RaisesGroup(UserError, flatten_subgroups=True):
            await mounted.serve(lambda: None)
        kept = segments(mounted._config.history_path)
    found = [(one, version) for one in kept for batch in one.batches() for version in batch.versions]
    contents = [segment.content(version) for segment, version in found if not version.why]
    assert contents == [b"old"]


async def test_the_last_line_of_the_log_is_short_and_counts_all(tmp_path, caplog, expect_log) -> None:
    """The line tells the ten most frequent of twelve reasons, and that 60 changes are left."""
    async with built(tmp_path) as (mounted, journal):
        for number in range(60):
            put(journal, f"{number:02}")
        changes = journal.pending()
        for number in range(11):
            journal.set_error([one.seq for one in changes[number * 2 : number * 2 + 2]], f"reason {number}")
        journal.reject(changes[0].seq, "too odd")
        expect_log("60 changes could not be sent")
        with caplog.at_level(logging.WARNING):
            assert mounted._told_left() == LEFT
    (line,) = caplog.messages
    assert line.startswith("60 changes could not be sent")
    assert "(38: the time was over before it was their turn; 2: reason 1; " in line
    assert line.endswith("; 2: reason 9; …)")
