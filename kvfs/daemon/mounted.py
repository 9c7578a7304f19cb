"""A mount while it is served: its objects put together, its tasks in two nurseries, where workers outlive the intake.

kernel … → unmounted, from either side → drain → workers end
"""

import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import trio

from kvfs.config import Config
from kvfs.core.errors import KvfsError
from kvfs.core.model import Namespace
from kvfs.daemon.adopting import Adopting
from kvfs.daemon.build import (
    ReadParts,
    Stores,
    build_filesystem,
    build_reading,
    first_pairs,
    kinds_file,
    settle_into,
    settle_window,
)
from kvfs.daemon.controls import Controls
from kvfs.daemon.kernelside import KernelSide
from kvfs.daemon.memory import keep_trimmed
from kvfs.daemon.outlook import Outlook
from kvfs.daemon.refresh import poll
from kvfs.daemon.resolving import Resolving
from kvfs.daemon.shutdown import Ending
from kvfs.daemon.start import Start, remember, until_answered
from kvfs.daemon.status import Reporter, Watching
from kvfs.daemon.supervised import Supervised
from kvfs.daemon.sweep import keep_swept
from kvfs.daemon.undo import Undo
from kvfs.host.control_server import serve_control
from kvfs.host.kinds_file import KindsFile, keep_kinds, save_kinds
from kvfs.host.requests import handlers_of
from kvfs.journal.journal import Journal
from kvfs.sender.events import Event, EventKind, OnConflict, SenderOptions
from kvfs.sender.sender import Sender
from kvfs.vfs.filesystem import FileSystem

if TYPE_CHECKING:
    from kvfs.fuse.session import Session

log = logging.getLogger("kvfs.daemon")

LEFT = 3  # exit status: something could not be sent
_OPEN_FILES = 30.0  # seconds that open files of a mount being ended may take to close
_REASONS = 10  # in the last line of the log
_PAUSE = 5.0  # seconds before a worker that failed goes on

Worker = Callable[[], Awaitable[None]]


async def _kept_going(work: Worker) -> None:
    """Keep a worker going for ever: its failure (a full disk, a bug) is logged, and must not take the mount down."""
    while True:
        try:
            await work()
        except (KvfsError, OSError) as exc:
            log.warning("%s: going on in %g s", exc, _PAUSE)
        except Exception:
            log.exception("a worker failed: a bug of kvfs, please report it")
        await trio.sleep(_PAUSE)


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
        self._config, self._kernel = config, kernel
        self._journal = journal
        self._stores = stores
        self.starting = True
        self._start, place = start, start.place
        self._reading: ReadParts = build_reading(config, stores, journal, at_root=place is not None)
        self._invalidator = kernel.invalidator()
        window = settle_window(config) if stores.rest is not None else 0.0
        self._sender = Sender(
            journal,
            stores.writing,
            now=time.time,
            options=SenderOptions(
                delay=config.write_back,
                first_pairs=first_pairs(config),
                settle_window=window,
                on_conflict=OnConflict(config.on_conflict),
                reading=self._reading.loader.reading,
            ),
            on_settled=lambda changes: settle_into(self._reading, changes, time.time()),
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
        self._adopting = Adopting(self._fs, journal, window, time.time)
        self._supervised = Supervised(
            str(config.source), str(config.mountpoint), lambda: journal.pending_count
        )

        self._reading.table.learn(start.namespaces)  # the first lookup need not ask again
        if start.is_offline:
            self._reading.table.forget()  # these are as old as the last mount
        self._reading.table.on_listed = self._listed
        reporter.is_offline = start.is_offline
        self._reporter = reporter

    def _listed(self, namespaces: list[Namespace]) -> None:
        """Note that the namespaces changed, because the next mount may have to begin with them."""
        remember(self._config, Start(self._start.place, namespaces))

    async def _go_online(self) -> None:
        """Wait until the server has answered; until then the mount is marked offline."""
        if self._reporter.is_offline:
            self._reading.table.learn(await until_answered(self._stores.reading))
            self._reporter.is_offline = False
            log.info("the server answers: no longer offline")
        await trio.sleep_forever()

    async def serve(self, ready: Callable[[], None]) -> int:
        """Serve from the mount to the last word. The exit status: 0, or 3 when something is left."""
        with closing(self._reading.overlay.last_seen), closing(self._undo):  # also of a mount that broke off
            await self._serve(ready)
        return self._told_left()

    async def _serve(self, ready: Callable[[], None]) -> None:
        kinds_kept = kinds_file(self._config)
        async with trio.open_nursery() as workers:
            handlers = handlers_of(self._controls, self._resolving, self._adopting, self._undo)
            await workers.start(serve_control, self._config.control_path, handlers)
            for work in self._work(kinds_kept):
                workers.start_soon(_kept_going, work)
            session = self._session()
            draining = trio.CancelScope()
            try:
                await workers.start(self._watch_signals, workers, session, draining)
                self.starting = False
                ready()
                self._supervised.ready()
                log.info("%s is mounted on %s", self._config.source, self._config.mountpoint)
                await session.run()
                if not session.stopped:
                    await self._fs.release_left()
            finally:
                session.close()
            self._ending.let_go.set()
            self._supervised.ending()
            with draining:
                await self._ending.said()  # callers that asked for the end are answered
                await self._ending.drain(self._ending.left)
            if kinds_kept is not None:
                await save_kinds(self._reading.loader.reading.kinds, kinds_kept)
            workers.cancel_scope.cancel()

    def _work(self, kinds_kept: KindsFile | None) -> Iterator[Worker]:
        """Yield what goes on for ever beside the kernel's requests."""
        config, reading = self._config, self._reading
        yield reading.loader.run
        yield reading.overlay.lister.run
        if self._stores.rest is not None:  # a store on this machine is waited for
            yield reading.overlay.haste.patience.background.serve
        if self._stores.renewing is not None:
            yield self._stores.renewing.background.serve
        yield from (self._sender.run, self._journal.maintain, keep_trimmed, self._undo.run)
        if config.poll_interval > 0:
            yield partial(poll, reading, self._fs, config.poll_interval)
        yield self._supervised.run
        yield self._go_online
        yield partial(keep_swept, config.state_dir, self._journal.path)
        if kinds_kept is not None:
            yield partial(keep_kinds, reading.loader.reading.kinds, kinds_kept)

    def _told_left(self) -> int:
        """Log what could not be sent; the exit status that says so."""
        totals = self._journal.totals
        if not totals.pending_count:
            return 0
        reasons = self._ending.outlook.summary(totals, in_flight=0)
        words = [f"{one.count}: {one.reason}" for one in reasons[:_REASONS]]
        words += ["…"] if len(reasons) > _REASONS else []
        text = "%d changes could not be sent: they stay in the journal for the next mount (%s)"
        log.warning(text, totals.pending_count + totals.rejected_count, "; ".join(words))
        return LEFT

    def _session(self) -> "Session":
        """Make the session of the kernel."""
        operations = self._kernel.operations(
            self._fs, uid=self._config.uid, gid=self._config.gid, callers=self._callers
        )
        operations.hindrance = self._ending.outlook.words
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
                elif number == signal.SIGINT and self._ending.let_go.is_set():
                    log.warning("SIGINT: what is not sent yet is left to the next mount")
                    draining.cancel()
                asked = True

    async def _end(self, session: "Session") -> None:
        """End the intake: nothing new can be opened; open files may finish, for a while."""
        if self._ending.let_go.is_set():
            return
        try:
            await self._ending.unmount(lazy=True)
        except KvfsError as exc:
            log.warning("%s", exc)
        with trio.move_on_after(_OPEN_FILES):
            await self._ending.let_go.wait()
            return
        log.warning("files are still open: the mount ends without them")
        session.stop()

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
