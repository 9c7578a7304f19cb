"""The daemon's life. Two nurseries: workers outlive the intake.

    store → journal → caches → workers → kernel … → unmounted, from either side → drain → workers end →
    journal closes → store closes

Pending changes of an earlier run need no replay: they are the journal's state, and the sender finds them.
"""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial

import trio

from kvfs.config import Config, source_identity
from kvfs.core.callers import Callers, calling
from kvfs.core.errors import JournalLockedError, KvfsError, UserError, first_error
from kvfs.daemon.build import open_stores
from kvfs.daemon.kernelside import KernelSide
from kvfs.daemon.memory import limit_heaps, look_less_for_cycles
from kvfs.daemon.mounted import Mounted
from kvfs.daemon.start import claim_place, find_start
from kvfs.daemon.starting import doing, host_of, telling
from kvfs.daemon.status import RecentErrors, Watching
from kvfs.host.credentials import Credentials
from kvfs.host.process import command_of, process_of, raise_file_limit
from kvfs.host.sources import was_used
from kvfs.journal.journal import Journal

log = logging.getLogger("kvfs.daemon")

_SWITCH = 0.001  # seconds a thread that makes a body may go on while the loop waits for the interpreter
_READERS = 5.0  # seconds that a command may take to read the journal of a source that is not mounted


def run_daemon(
    config: Config,
    credentials: Credentials | None,
    ready: Callable[[], None],
    kernel: KernelSide,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Mount, call `ready`, serve until unmounted, drain. Return the exit status: 0, or 3 when changes are left.

    `tell` is called with the present step until then.

    Raises `KvfsError`, before `ready`, if the mount is impossible.
    """
    raise_file_limit()
    limit_heaps()
    sys.setswitchinterval(_SWITCH)
    return trio.run(_daemon, config, credentials, ready, kernel, tell)


async def _daemon(
    config: Config,
    credentials: Credentials | None,
    ready: Callable[[], None],
    kernel: KernelSide,
    tell: Callable[[str], None],
) -> int:
    errors, callers = RecentErrors(), Callers(process_of, command_of)
    logging.getLogger("kvfs").addHandler(errors)
    async with AsyncExitStack() as stack:
        stack.callback(logging.getLogger("kvfs").removeHandler, errors)
        telling_now = stack.enter_context(ExitStack())  # until it is ready
        telling_now.enter_context(telling(tell))
        doing("reading the journal")
        journal = stack.enter_context(await _open_journal(config))
        stack.callback(was_used, journal.path)
        calling.set(callers.own)  # the default caller; not before the journal is read
        stores = await stack.enter_async_context(open_stores(config, credentials))
        look_less_for_cycles()  # all is imported by now
        doing(f"asking {host_of(config)}")
        start = await find_start(config, stores)
        claim_place(config, start)
        doing(f"mounting on {config.mountpoint}")
        mounted = Mounted(
            config, stores, journal, start, Watching(str(config.source), errors, callers), kernel
        )
        try:
            return await mounted.serve(partial(_told_ready, telling_now, ready))
        except BaseExceptionGroup as group:
            ours = group.subgroup(KvfsError)
            if ours is None or not mounted.starting:
                raise
            raise first_error(ours) from group


def _told_ready(telling_now: ExitStack, ready: Callable[[], None]) -> None:
    telling_now.close()
    ready()


async def _open_journal(config: Config) -> Journal:
    """The journal of the mount. A command that only reads it (`kvfs status`) is waited for."""
    deadline = trio.current_time() + _READERS
    while True:
        try:
            return Journal.open(
                config.journal_path,
                source=source_identity(config),
                now=time.time,
                mountpoint=str(config.mountpoint),
                durable=config.durable_close,
                heir_of=config.source_journal_path if config.read_only else None,
            )
        except JournalLockedError as exc:
            if exc.mountpoint:
                at = exc.mountpoint
                raise UserError(
                    f"{config.source} is served by process {exc.pid} already, mounted at {at}:"
                    f" use that mount, or end it with kvfs umount {at}"
                ) from exc
            if trio.current_time() >= deadline:
                raise
        await trio.sleep(0.05)
