"""The daemon's life. Two nurseries: workers outlive the intake.

    store → journal → caches → workers → kernel … → unmounted, from either side → drain → workers end →
    journal closes → store closes

Pending changes of an earlier run need no replay: they are the journal's state, and the sender finds them.
"""

import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING

import trio

from kvfs.config import Config, source_identity
from kvfs.core.callers import Callers, calling
from kvfs.core.errors import JournalLockedError, KvfsError, first_error
from kvfs.core.model import Change, Namespace
from kvfs.daemon.build import (
    ReadParts,
    Stores,
    build_filesystem,
    build_reading,
    first_pairs,
    kinds_file,
    open_stores,
    settle_into,
    settle_window,
)
from kvfs.daemon.controls import Controls
from kvfs.daemon.kernelside import KernelSide
from kvfs.daemon.memory import keep_trimmed, limit_heaps, look_less_for_cycles
from kvfs.daemon.outlook import NOT_TRIED, Outlook
from kvfs.daemon.refresh import poll
from kvfs.daemon.resolving import Resolving
from kvfs.daemon.shutdown import Ending
from kvfs.daemon.start import Start, claim_place, find_start, remember, until_answered
from kvfs.daemon.starting import doing, host_of, telling
from kvfs.daemon.status import RecentErrors, Reporter, Watching
from kvfs.daemon.supervised import Supervised
from kvfs.daemon.sweep import keep_swept
from kvfs.daemon.undo import Undo
from kvfs.host.control import serve_control
from kvfs.host.credentials import Credentials
from kvfs.host.kinds_file import keep_kinds, save_kinds
from kvfs.host.process import command_of, process_of, raise_file_limit
from kvfs.host.sources import was_used
from kvfs.journal.journal import Journal
from kvfs.sender.events import Event, EventKind, OnConflict, SenderOptions
from kvfs.sender.sender import Sender
from kvfs.store.rest.request import read_in_large_pieces
from kvfs.vfs.filesystem import FileSystem

if TYPE_CHECKING:
    from kvfs.fuse.session import Session

log = logging.getLogger("kvfs.daemon")

LEFT = 3  # exit status: something could not be sent
_OPEN_FILES = 30.0  # seconds that open files of a mount being ended may take to close
_SWITCH = 0.001  # seconds a thread that makes a body may go on while the loop waits for the interpreter
_READERS = 5.0  # seconds that a command may take to read the journal of a source that is not mounted
_PAUSE = 5.0  # seconds before a worker that failed goes on


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
    read_in_large_pieces()
    look_less_for_cycles()
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
        doing(f"asking {host_of(config)}")
        start = await find_start(config, stores, journal.path)
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



async def _kept_going(work: Callable[[], Awaitable[None]]) -> None:
    """Keep a worker going for ever: its failure (a full disk, a bug) is logged, and must not take the mount down."""
    while True:
        try:
            await work()
        except (KvfsError, OSError) as exc:
            log.warning("%s: going on in %g s", exc, _PAUSE)
        except Exception:
            log.exception("a worker failed: a bug of kvfs, please report it")
        await trio.sleep(_PAUSE)


async def _open_journal(config: Config) -> Journal:
    """Open the journal of the source. A command that only reads it (`kvfs status`) is waited for.

    A read-only mount of a source that is mounted elsewhere has an empty one of its own.
    """
    deadline, path = trio.current_time() + _READERS, config.journal_path
    while True:
        try:
            return Journal.open(
                path,
                source=source_identity(config),
                now=time.time,
                mountpoint=str(config.mountpoint),
                durable=config.durable_close,
            )
        except JournalLockedError as exc:
            if exc.mountpoint and config.read_only and path == config.journal_path:
                path = config.second_journal_path
                continue
            if exc.mountpoint or trio.current_time() >= deadline:
                raise
        await trio.sleep(0.05)


class Mounted:
    """One mount's objects and tasks."""

    def __init__(
        self,
        config: Config,
        stores: Stores,
        journal: Journal,
        start: Start,
        watching: Watching,
        kernel: KernelSide,
    ) -> None:
        self._config = config
        self._kernel = kernel
        self._journal = journal
        self._stores = stores
        self.starting = True
        self._start, place = start, start.place
        self._reading: ReadParts = build_reading(config, stores, journal, at_root=place is not None)
        self._invalidator = kernel.invalidator()
        self._sender = Sender(
            journal,
            stores.writing,
            now=time.time,
            options=SenderOptions(
                delay=config.write_back,
                first_pairs=first_pairs(config),
                settle_window=settle_window(config) if stores.rest is not None else 0.0,
                on_conflict=OnConflict(config.on_conflict),
                reading=self._reading.loader.reading,
            ),
            on_settled=self._settled,
            on_event=self._event,
        )
        self._fs: FileSystem = build_filesystem(config, self._reading, self._sender, self._invalidator, place)
        self._callers = watching.callers
        self._undo = Undo(config, self._fs, self._reading, time.time)
        outlook = Outlook(
            self._sender.statistics,
            stores.budget.statistics if stores.budget is not None else None,
            self._sender.next_try,
            stores.trouble,
            stores.breaker.silence,
        )
        reporter = Reporter(self._fs, journal, self._sender, self._reading, stores, outlook)
        reporter.history = self._undo.status
        self._fs.xattrs.error_of = outlook.explain
        self._conflicts = reporter.conflicts
        self._fs.tree.hidden.add(reporter.files(watching))
        self._ending = Ending(config.mountpoint, self._sender, config.drain_timeout, outlook)
        self._controls = Controls(self._fs, journal, self._sender, reporter, self._ending, stores.ask_again)
        self._resolving = Resolving(self._fs, reporter)

        self._reading.table.learn(start.namespaces)  # the first lookup need not ask again
        if start.is_offline:
            self._reading.table.forget()  # these are as old as the last mount
        self._reading.table.on_listed = self._listed
        reporter.is_offline = start.is_offline
        self._reporter = reporter

    def _listed(self, namespaces: list[Namespace]) -> None:
        """Note that the namespaces changed, because the next mount may have to begin with them."""
        remember(self._config, Start(self._start.place, namespaces), self._journal.path)

    async def _go_online(self) -> None:
        """Wait until the server has answered; until then the mount is marked offline."""
        if self._reporter.is_offline:
            self._reading.table.learn(await until_answered(self._stores.reading))
            self._reporter.is_offline = False
            log.info("the server answers: no longer offline")
        await trio.sleep_forever()

    async def serve(self, ready: Callable[[], None]) -> int:
        """Serve from the mount to the last word."""
        async with trio.open_nursery() as workers:
            handlers = {
                **self._controls.handlers(),
                **self._resolving.handlers(),
                **self._undo.handlers(),
            }
            await workers.start(serve_control, self._config.control_path, handlers)
            overlay = self._reading.overlay
            readers = [self._reading.loader.run, overlay.lister.run]
            if self._stores.rest is not None:  # a store on this machine is waited for
                readers.append(overlay.haste.patience.background.serve)
            if self._stores.credentials is not None:
                readers.append(self._stores.credentials.background.serve)
            journal = (self._journal.maintain,)
            for work in (*readers, self._sender.run, *journal, keep_trimmed, self._undo.run):
                workers.start_soon(_kept_going, work)
            if self._config.poll_interval > 0:
                polling = partial(poll, self._reading, self._fs, self._config.poll_interval)
                workers.start_soon(_kept_going, polling)
            supervised = Supervised(
                str(self._config.source), str(self._config.mountpoint), lambda: self._journal.pending_count
            )
            workers.start_soon(_kept_going, supervised.run)
            workers.start_soon(_kept_going, self._go_online)
            workers.start_soon(_kept_going, partial(keep_swept, self._config.state_dir, self._journal.path))
            kinds, kinds_kept = self._reading.loader.reading.kinds, kinds_file(self._config)
            if kinds_kept is not None:
                workers.start_soon(_kept_going, partial(keep_kinds, kinds, kinds_kept))
            session = self._session()
            draining = trio.CancelScope()
            try:
                await workers.start(self._watch_signals, workers, session, draining)
                self.starting = False
                ready()
                supervised.ready()
                log.info("%s is mounted on %s", self._config.source, self._config.mountpoint)
                await session.run()
                if not session.stopped:
                    await self._fs.release_left()
            finally:
                session.close()
            self._ending.served()
            supervised.ending()
            with draining:
                await self._finish()
            if kinds_kept is not None:
                await save_kinds(kinds, kinds_kept)
            workers.cancel_scope.cancel()
        self._reading.overlay.last_seen.close()
        self._undo.close()
        left = self._journal.pending_count
        if left:
            reasons = self._ending.outlook.reasons(self._journal.pending(), untried=lambda change: NOT_TRIED)
            words = "; ".join(f"{one['count']}: {one['reason']}" for one in reasons)
            text = "%d changes could not be sent: they stay in the journal for the next mount (%s)"
            log.warning(text, left, words)
        return LEFT if left else 0

    def _session(self) -> "Session":
        """Run the mount itself."""
        operations = self._kernel.operations(
            self._fs, uid=self._config.uid, gid=self._config.gid, callers=self._callers
        )
        return self._kernel.session(
            self._config.mountpoint,
            operations,
            source=str(self._config.source),
            allow_other=self._config.allow_other,
            flags=self._config.mount_flags,
        )

    async def _watch_signals(
        self,
        workers: trio.Nursery,
        session: "Session",
        draining: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """End the mount on SIGTERM, SIGINT or SIGHUP, once; a drain under way goes on, until SIGINT comes again."""
        asked = False
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if not asked:
                    log.info("%s: ending the mount", signal.Signals(number).name)
                    workers.start_soon(self._end, session)
                elif number == signal.SIGINT and self._ending.has_let_go:
                    log.warning("SIGINT: what is not sent yet is left to the next mount")
                    draining.cancel()
                asked = True

    async def _end(self, session: "Session") -> None:
        """End the intake: nothing new can be opened; open files may finish, for a while."""
        if self._ending.has_let_go:
            return
        try:
            await self._ending.unmount(lazy=True)
        except KvfsError as exc:
            log.warning("%s", exc)
        with trio.move_on_after(_OPEN_FILES):
            await self._ending.let_go()
            return
        log.warning("files are still open: the mount ends without them")
        session.stop()

    async def _finish(self) -> None:
        """Drain before the end. Wait until all who asked for the end were answered."""
        await self._ending.said()
        await self._ending.drain(self._ending.left)

    def _settled(self, changes: Sequence[Change]) -> None:
        settle_into(self._reading, changes, time.time())

    def _event(self, event: Event) -> None:
        """Log a line for each event that a user may want to know, with the path."""
        log.warning("%s", self._with_paths(event))
        if event.kind is EventKind.CONFLICT:
            self._conflicts.note(event)
        if event.namespace is None:
            return
        for key in (event.key, event.copy):
            if key is not None and event.kind is EventKind.CONFLICT:  # it shows the store's value again
                self._fs.forgetting.given_up(event.namespace, key)
            elif key is not None:
                self._fs.forgetting.forget_kernel_name(event.namespace, key)

    def _with_paths(self, event: Event) -> str:
        """Return the event's words with paths, because the sender knows keys and the user paths."""
        text = event.text
        for key in (event.copy, event.key):  # the longer one first: it begins with the other
            if key is not None and event.namespace is not None:
                text = text.replace(repr(key), repr(self._fs.paths.of_key(event.namespace, key)))
        return text
