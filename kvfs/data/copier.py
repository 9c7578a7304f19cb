"""Copying: scan, look at the target, plan, move, remove the surplus. Each step is noted and can go on later.

Reading runs ahead of writing by one piece: while a batch is written the next values come in. Where that would be too
much for the memory, what is there is written first: one value of 25 MiB at a time, whatever the others are.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from kvfs.core.errors import KvfsError, UserError
from kvfs.core.expiry import is_expired, milliseconds_hint
from kvfs.core.limits import BULK_PAIRS, FORBIDDEN_KEYS, KEY_BYTES, METADATA_BYTES, VALUE_BYTES
from kvfs.core.model import Entry, Key
from kvfs.data.items import HARMLESS, Item, Loaded, Problem, ProblemKind
from kvfs.data.job import Job
from kvfs.data.place import TAKE_ITEMS, Reader, Writer
from kvfs.data.selection import Selection

BATCH_BYTES: Final = 8 * 1024 * 1024  # bytes of the values in a batch, unless it is one value
AHEAD_BYTES: Final = 16 * 1024 * 1024  # bytes of values read and not written yet, unless it is one value
DELETE_KEYS: Final = BULK_PAIRS

_Piece = tuple[Sequence[Loaded], int, Sequence[Problem]]
"""What was read, the number up to which that is everything, and what could not be read."""
_WRITE_FIRST: Final = None
"""Stands for a piece: there is no room for the next one until everything before it is written."""

IfExists = Literal["overwrite", "skip", "newer", "fail"]


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The options of a copy: how to treat keys that are there, have expired or are wrong."""

    choice: Selection = field(default_factory=Selection)
    if_exists: IfExists = "overwrite"
    delete: bool = False
    keep_expired: bool = False
    strict: bool = False
    skip_bad: bool = False
    sample: int | None = None


@dataclass(slots=True)
class CopyProgress:
    """The progress of a copy, given to `show`. `total` is known once the scan is complete."""

    phase: str = "listing"
    keys: int = 0
    size: int = 0
    total: int = 0
    written: int = 0
    read: int = 0
    deleted: int = 0


class Copier:
    """One copy. `show` is called often, must not wait, and may draw."""

    def __init__(
        self,
        job: Job,
        options: CopyOptions,
        *,
        now: Callable[[], float],
        show: Callable[[CopyProgress], None] = lambda progress: None,
    ) -> None:
        self._job = job
        self._options = options
        self._now = now
        self._show = show
        self.progress = CopyProgress()
        self._held = 0  # bytes of values that were read and not written yet
        self._largest = 0  # bytes of the largest piece so far
        self._written = trio.Event()

    # before anything is written

    async def scan(self, reader: Reader) -> None:
        """Note everything that is to move. Goes on where an earlier scan stopped; does nothing when it is done."""
        job, progress = self._job, self.progress
        if job.fact("scanned"):
            return
        mark = job.fact("mark")
        job.note(fingerprint=reader.fingerprint())
        async with aclosing(reader.scan(mark)) as parts:
            async for part in parts:
                items, problems = self._chosen(part.items)
                lists = int(job.fact("lists", "0")) + 1
                job.add(items, [*part.problems, *problems], mark=part.mark, lists=lists)
                progress.keys += len(items)
                self._show(progress)
        if self._options.sample is not None:
            job.items.keep_sample(self._options.sample)
        job.note(scanned="yes")

    def _chosen(self, found: Sequence[Item]) -> tuple[list[Item], list[Problem]]:
        items: list[Item] = []
        problems: list[Problem] = []
        choice, now = self._options.choice, self._now()
        for item in found:
            if not choice.chosen(item.key, item.metadata):
                continue
            key = choice.moved(item.key)
            expiration = item.expiration
            if is_expired(expiration, now):
                if not self._options.keep_expired:
                    problems.append(Problem(ProblemKind.EXPIRED, item.key, _where(item), "it has expired"))
                    continue
                expiration = None
            fault = fault_of(key, item)
            if fault is not None:
                problems.append(Problem(fault[0], item.key, _where(item), fault[1]))
                continue
            self._note_far(item.key, expiration)
            items.append(Item(key, item.origin, item.metadata, expiration, item.size, item.modified))
        return items, problems

    def _note_far(self, key: str, expiration: int | None) -> None:
        """Note the first entry that expires when no calendar goes, for the report."""
        if (hint := milliseconds_hint(expiration)) and not self._job.fact("far"):
            self._job.note(far=f"{key!r} expires far from now: {hint}")

    def check_problems(self) -> None:
        """Refuse to go on with what must not be passed over. Raises `UserError`, with nothing written."""
        counts = self._job.problems.counts()
        malformed = counts.get(ProblemKind.MALFORMED, 0)
        first = next((p for p in self._job.problems.all() if p.kind is ProblemKind.MALFORMED), None)
        if first is not None and not self._options.skip_bad:
            more = f" ({malformed - 1} more are malformed)" if malformed > 1 else ""
            raise UserError(f"{first}{more}; nothing was written. --skip-bad goes on without them")
        if self._options.strict and (failures := self._job.problems.failures()):
            worst = next(p for p in self._job.problems.all() if p.kind not in HARMLESS)
            raise UserError(f"{worst}; {failures} in all, and --strict: nothing was written")

    async def look_there(self, reader: Reader, newer_than: float | None) -> None:
        """Note the items that are at the target already and need not move. Raises `UserError` for `fail`.

        `newer_than` is when the target was written last, where it keeps no times.
        """
        job, how = self._job, self._options.if_exists
        if job.fact("looked") or (how == "overwrite" and not self._options.delete):
            return
        mark = job.fact("there_mark")
        async with aclosing(reader.scan(mark)) as parts:
            async for part in parts:
                lists = int(job.fact("lists", "0")) + 1
                job.add_there(part.items, there_mark=part.mark, lists=lists)
                self.progress.phase = "listing the target"
                self._show(self.progress)
        if how == "fail" and (twins := job.there.twins())[0]:
            raise UserError(
                f"{twins[0]} keys are there already, {twins[1]!r} for one; nothing was written:"
                " say --if-exists overwrite, skip or newer"
            )
        skipped = 0
        if how == "skip":
            skipped = job.there.skip()
        elif how == "newer":
            skipped = job.there.skip(newer_than if newer_than is not None else 0.0)
        job.note(looked="yes", skipped=skipped)

    # the move

    async def move(self, reader: Reader, writer: Writer) -> None:
        """Copy the items that are left. Raises what the places raise; then the job knows how far it came."""
        job, progress = self._job, self.progress
        left, _, _ = job.items.counts(job.done)
        progress.phase, progress.total = "copying", left + int(job.fact("written", "0"))
        progress.written = int(job.fact("written", "0"))
        progress.size = int(job.fact("bytes", "0"))
        await writer.open(job.fact("position"))
        if not job.fact("position"):
            job.note(position=writer.position)
        send, receive = trio.open_memory_channel[_Piece | None](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, reader, send)
            await self._write_all(writer, receive)

    async def _read(self, reader: Reader, send: trio.MemorySendChannel[_Piece | None]) -> None:
        async with send:
            for items in self._job.items.todo(self._job.done, TAKE_ITEMS):
                left: Sequence[Item] = items
                while left:
                    await self._make_room(left[0], send)
                    taken = await reader.take(left)
                    size = _size(taken.loaded)
                    self._held, self._largest = self._held + size, max(self._largest, size)
                    self._check_strictly(taken.problems)
                    self.progress.read += len(left) - len(taken.left)
                    reached = taken.left[0].seq - 1 if taken.left else items[-1].seq
                    left = taken.left
                    await send.send((taken.loaded, reached, taken.problems))
                    del taken  # or its values would stay until the next ones are there

    def _check_strictly(self, problems: Sequence[Problem]) -> None:
        """End at the first entry that cannot be copied, with --strict. Raises `KvfsError`."""
        worst = next((problem for problem in problems if problem.kind not in HARMLESS), None)
        if worst is not None and self._options.strict:
            raise KvfsError(f"{worst}; --strict goes no further")

    async def _make_room(self, item: Item, send: trio.MemorySendChannel[_Piece | None]) -> None:
        """Wait until a piece that begins with `item` fits into memory beside what is not written yet."""
        expected = self._largest if item.size is None else item.size
        while self._held and self._held + expected > AHEAD_BYTES:
            self._written = trio.Event()
            await send.send(_WRITE_FIRST)
            await self._written.wait()

    async def _write_all(self, writer: Writer, receive: trio.MemoryReceiveChannel[_Piece | None]) -> None:
        """Write everything; all received values are in the batch, so `_WRITE_FIRST` leaves nothing in memory."""
        batch: list[Loaded] = []
        problems: list[Problem] = []
        reached, size = self._job.done, 0
        async for piece in receive:
            waiting: deque[Loaded] = deque()
            must_write = piece is None
            if piece is not None:
                loaded, reached, found = piece
                problems += found
                waiting.extend(map(self._checked, loaded))
                del loaded
            del piece  # or its values would stay until the next ones are there
            while waiting:
                more = len(waiting[0].entry.value)
                if batch and (len(batch) >= writer.pairs or size + more > BATCH_BYTES):
                    await self._write(writer, batch, batch[-1].item.seq, problems)
                    batch, problems, size = [], [], 0
                batch.append(waiting.popleft())
                size += more
            if must_write or len(batch) >= writer.pairs or size >= BATCH_BYTES:
                await self._write(writer, batch, reached, problems)
                batch, problems, size = [], [], 0
        await self._write(writer, batch, reached, problems)

    def _checked(self, loaded: Loaded) -> Loaded:
        """Remove the expiration of an entry that is kept although it has expired."""
        entry = loaded.entry
        if self._options.keep_expired and is_expired(entry.expiration, self._now()):
            return Loaded(loaded.item, Entry(entry.value, entry.metadata))
        return loaded

    async def _write(
        self, writer: Writer, batch: list[Loaded], reached: int, problems: list[Problem]
    ) -> None:
        found = await writer.write(batch) if batch else ()
        progress, size, refused = self.progress, _size(batch), {problem.key for problem in found}
        written = [loaded for loaded in batch if loaded.item.key not in refused]
        progress.written += len(written)
        progress.size += _size(written)
        self._job.finish(
            reached, writer.position, [*problems, *found], written=progress.written, bytes=progress.size
        )
        self._show(progress)
        self._check_strictly(found)
        batch.clear()
        self._held -= size
        self._written.set()

    # the rest

    async def remove_surplus(self, writer: Writer) -> None:
        """Remove at the target the keys that the source lacks, but none if a part of the source could not be read."""
        if not self._options.delete:
            return
        if self._job.problems.failures():
            raise KvfsError("not everything could be copied, so nothing was deleted")
        self.progress.phase = "deleting"
        after = self._job.fact("deleted_up_to")
        while rows := self._job.there.surplus(after, DELETE_KEYS):
            problems = await writer.delete(rows)
            after = rows[-1][0]
            self.progress.deleted += len(rows) - len(problems)
            self._job.finish(self._job.done, self._job.fact("position"), problems, deleted_up_to=after)
            self._show(self.progress)


def _size(loaded: Sequence[Loaded]) -> int:
    return sum(len(one.entry.value) for one in loaded)


def fault_of(key: Key, item: Item) -> tuple[ProblemKind, str] | None:
    """Return why KV cannot keep an item under a key; None when it can."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return ProblemKind.KEY, "its key is no Unicode text"
    if key in FORBIDDEN_KEYS:
        return ProblemKind.KEY, f"{key!r} cannot be a key: empty, '.' and '..' are forbidden"
    if size > KEY_BYTES:
        return ProblemKind.KEY, f"its key has {size} bytes, at most {KEY_BYTES} are allowed"
    if item.size is not None and item.size > VALUE_BYTES:
        return (
            ProblemKind.VALUE,
            f"its value has {item.size} bytes, at most {VALUE_BYTES} (25 MiB) are allowed",
        )
    if item.metadata is not None and len(item.metadata) > METADATA_BYTES:
        return (
            ProblemKind.METADATA,
            f"its metadata has {len(item.metadata)} bytes, at most {METADATA_BYTES} are allowed",
        )
    return None


def _where(item: Item) -> str:
    return f"record {item.origin}" if item.origin.isdigit() and item.origin != item.key else ""
