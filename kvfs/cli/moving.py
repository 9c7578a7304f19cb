"""The body of `kvfs copy` after its words are parsed: open both sides, plan, ask, move, report."""

import json
import sys
import time
from pathlib import Path
from typing import Final

import click
import trio

from kvfs.cli.asking import confirm
from kvfs.cli.exits import Exit
from kvfs.cli.output import complain, duration_text, say, size_text
from kvfs.cli.places import DirectoryWords, FileWords, StoreWords
from kvfs.cli.progress import MoveProgress
from kvfs.cli.sides import (
    CopyRequest,
    CopySide,
    Sides,
    check_target,
    identity_of,
    open_sides,
    reader_of,
)
from kvfs.config import CloudflareSource
from kvfs.core.bulksize import first_pairs
from kvfs.core.errors import KvfsError, UserError, first_error
from kvfs.core.limits import BULK_PAIRS
from kvfs.daemon.memory import limit_heaps
from kvfs.data.copier import Copier
from kvfs.data.directory import DirectoryOutput
from kvfs.data.items import ProblemKind
from kvfs.data.job import Job, remove_job
from kvfs.data.place import Reader, Writer
from kvfs.data.plan import Plan
from kvfs.data.storeplace import StoreWriter
from kvfs.data.streams import RecordWriter, StreamWriter, encoder_of
from kvfs.data.threaded import ThreadedWriter
from kvfs.host.endpoints import load_learned
from kvfs.host.state import state_name, write_whole

SHOWN: Final = 20


async def run_copy(request: CopyRequest, sides: Sides | None = None) -> int:
    """Do a whole copy; return the exit status. `sides` are the stores, where several copies share them."""
    if sides is None:
        async with open_sides(request.access) as sides:
            return await run_copy(request, sides)
    limit_heaps(large=256 * 1024, spare=1024 * 1024)
    check_target(request)
    if request.restart:
        remove_job(request.job_path)
    source = await sides.open(request.source)
    target = await sides.open(request.target, is_target=True)
    with Job.open(request.job_path) as job:
        run = CopyRun(request, source, target, job)
        try:
            return await run.run()
        finally:
            run.close()


class CopyRun:
    """One run of a copy, new or gone on with."""

    def __init__(self, request: CopyRequest, source: CopySide, target: CopySide, job: Job) -> None:
        self._request = request
        self._source = source
        self._target = target
        self._started = time.time()
        self._job = job
        self._progress = MoveProgress(source.store, target.store)
        self._copier = Copier(self._job, request.options, now=time.time, show=self._progress.show)
        self._open: Reader | Writer | None = None

    def close(self) -> None:
        """Remove the progress."""
        self._progress.close()

    async def run(self) -> int:
        """Do everything; return the exit status."""
        job, request = self._job, self._request
        reader = reader_of(self._source, self._request.options.choice.listed, self._started)
        try:
            self._begin(reader)
            await self._copier.scan(reader)
            self._copier.check_problems()
            await self._look_there()
            plan = self._plan()
            if request.dry_run:
                self._progress.close()
                self._say_plan(plan)
                job.remove()
                return Exit.OK
            self._agree(plan)
        except UserError:
            if not job.done:
                job.remove()  # the next try must not go on with what was wrong
            raise
        except KvfsError as exc:
            return self._stopped(exc)
        return await self._move(reader)

    def _begin(self, reader: Reader) -> None:
        job = self._job
        if not job.fact("started"):
            job.note(started=self._started)
            return
        if job.fact("scanned") and job.fact("fingerprint") != reader.fingerprint():
            raise UserError(
                f"{self._request.source.text} changed since the copy began: say --restart to begin anew"
            )
        if job.fact("written"):
            left, _, _ = job.items.counts(job.done)
            done = int(job.fact("written"))
            complain(f"going on where it stopped: {done:,} of {done + left:,} keys are copied")

    async def _look_there(self) -> None:
        target, how = self._target, self._request.options.if_exists
        if how == "newer":
            self._check_times()
        reader = self._target_reader()
        if reader is not None:
            last = self._last_copy() if target.store is not None else None
            await self._copier.look_there(reader, last)

    def _check_times(self) -> None:
        source = self._request.source
        has_times = isinstance(source, DirectoryWords) or (
            isinstance(source, FileWords) and source.format.name == "tar"
        )
        if not has_times:
            raise UserError(
                f"--if-exists newer needs times, and {source.text} has none: KV keeps none; say overwrite or skip"
            )

    def _plan(self) -> Plan:
        job = self._job
        keys, known, unsized = job.items.counts(job.done)
        return Plan(
            keys=keys,
            known_bytes=known,
            unsized=unsized,
            deletes=job.there.count_surplus() if self._request.options.delete else 0,
            lists=int(job.fact("lists", "0")) if self._is_billed(self._source) else 0,
            singles=self._source.kinds.count(self._source.namespace) if self._source.namespace else 0,
            reads_billed=self._is_billed(self._source),
            writes_billed=self._is_billed(self._target),
        )

    @staticmethod
    def _is_billed(side: CopySide) -> bool:
        return side.store is not None and side.store.rest is not None

    def _say_plan(self, plan: Plan) -> None:
        for line in (*_plan_lines(plan), *self._problem_lines(), *filter(None, [self._job.fact("far")])):
            say(line)

    def _agree(self, plan: Plan) -> None:
        """Ask where it is much. Raises as `confirm`."""
        is_much = plan.must_ask if self._target.store is not None else plan.must_ask_to_read
        if self._request.yes or self._job.fact("agreed") or not is_much:
            return
        self._progress.close()
        for line in _plan_lines(plan):
            click.echo(line, err=True)
        confirm("Go on?")
        self._job.note(agreed="yes")

    async def _move(self, reader: Reader) -> int:
        writer = await self._writer()
        try:
            await self._copier.move(reader, writer)
            await self._copier.remove_surplus(writer)
            await writer.finish()
        except UserError:
            raise
        except (KvfsError, OSError) as exc:
            return self._stopped(exc)
        except BaseExceptionGroup as group:
            ours = group.subgroup((KvfsError, OSError))
            if ours is None or group.split((KvfsError, OSError, trio.Cancelled))[1] is not None:
                raise
            return self._stopped(first_error(ours))
        finally:
            self._progress.close()
            await reader.aclose()
            await writer.aclose()
        return self._report()

    def _stopped(self, exc: BaseException) -> int:
        self._progress.close()
        done = self._copier.progress.written
        complain(f"stopped after {done:,} keys: {exc}")
        complain("the same command goes on from there")
        return Exit.LEFT

    def _report(self) -> int:
        job, progress = self._job, self._copier.progress
        taken = duration_text(max(0.0, time.time() - self._started))
        cost = self._progress.cost_text()
        skipped = int(job.fact("skipped", "0"))
        words = [f"copied {progress.written:,} keys, {size_text(progress.size)}, in {taken}{cost}"]
        words += [f"left out {skipped:,} that are there already"] if skipped else []
        words += [f"deleted {progress.deleted:,}"] if progress.deleted else []
        click.echo("; ".join(words), err=self._is_stdout())
        for line in (*self._problem_lines(), *filter(None, [job.fact("far")])):
            complain(line)
        failures = job.problems.failures()
        if failures:
            complain(f"all {failures:,} are listed in {self._write_list()}")
        self._note_copy()
        job.remove()
        return Exit.LEFT if failures else Exit.OK

    def _is_stdout(self) -> bool:
        return isinstance(self._target.words, FileWords) and self._target.words.path is None

    def _problem_lines(self) -> list[str]:
        counts = self._job.problems.counts()
        if not counts:
            return []
        named = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        lines = [f"not copied: {named}"]
        worst = (problem for problem in self._job.problems.all() if problem.kind is not ProblemKind.EXPIRED)
        lines += [f"  {problem}" for problem, _ in zip(worst, range(SHOWN), strict=False)]
        return lines

    def _write_list(self) -> Path:
        path = self._request.job_path.with_suffix(".skipped.ndjson")
        lines = (
            json.dumps({"kind": p.kind, "key": p.key, "where": p.where, "message": p.message})
            for p in self._job.problems.all()
        )
        write_whole(path, "".join(f"{line}\n" for line in lines).encode())
        return path

    # readers and writers

    def _target_reader(self) -> Reader | None:
        side, choice = self._target, self._request.options.choice
        is_there = side.namespace is not None
        if isinstance(side.words, DirectoryWords):
            is_there = side.words.path.is_dir()
        prefix = choice.moved_prefix
        return reader_of(side, choice.add if prefix is None else prefix, self._started) if is_there else None

    async def _writer(self) -> Writer:
        side, words = self._target, self._target.words
        if isinstance(words, StoreWords):
            assert side.store is not None
            assert words.namespace is not None
            if side.namespace is None:
                side.namespace = await side.store.make(words.namespace)
            return StoreWriter(side.store.store, side.namespace, first_pairs=self._first_pairs(words))
        has_children = self._job.items.has_children
        if isinstance(words, FileWords):
            encoder = encoder_of(words.format.name, has_children, self._started)
            if words.path is None:
                return ThreadedWriter(StreamWriter(sys.stdout.buffer, encoder, words.format.compression))
            return ThreadedWriter(RecordWriter(words.path, encoder, words.format.compression))
        as_attributes = self._request.as_attributes
        return ThreadedWriter(
            DirectoryOutput(words.path, self._started, has_children, as_attributes=as_attributes)
        )

    def _first_pairs(self, words: StoreWords) -> int:
        """Return the number of pairs of the first body, by what `kvfs verify` measured of this server."""
        if not isinstance(words.source, CloudflareSource):
            return BULK_PAIRS
        learned = load_learned(words.source.base_url, self._request.access.state)
        return first_pairs(learned.pair_seconds if learned is not None else None)

    # knowledge of earlier copies

    def _last_copy(self) -> float | None:
        try:
            return float(self._history_path().read_text())
        except (OSError, ValueError):
            return None

    def _note_copy(self) -> None:
        if self._target.store is not None and not self._is_stdout():
            write_whole(self._history_path(), str(float(self._job.fact("started"))).encode())

    def _history_path(self) -> Path:
        name = state_name(f"{identity_of(self._request.source)}\n{identity_of(self._request.target)}")
        return self._request.access.copies / f"{name}.last"


def agree_to_read(plan: Plan, *, shows: bool, yes: bool) -> None:
    """Ask before values are read that cost much, after the plan, which `shows` says even if it is not much.

    Raises as `confirm`.
    """
    asks = plan.must_ask_to_read and not yes
    for line in _plan_lines(plan) if shows or asks else ():
        complain(line)
    if asks:
        confirm("Read all these values?")


def _plan_lines(plan: Plan) -> list[str]:
    known = (
        size_text(plan.known_bytes)
        if plan.known_bytes or not plan.unsized
        else "sizes are known when they are read"
    )
    lines = [f"{plan.keys:,} keys to copy; {known}"]
    if plan.deletes:
        lines.append(f"{plan.deletes:,} keys to delete")
    least, most = plan.requests
    if most:
        requests = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        minutes = max(1, round(plan.minutes)) if plan.minutes >= 1 else "less than 1"
        lines.append(
            f"{requests} requests, {minutes} min within the API's limit, ${plan.dollars:.4f} at list price"
        )
    return lines
