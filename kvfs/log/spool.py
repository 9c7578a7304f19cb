"""The spool: turns a content into a body before it is recorded, a large one piece by piece.

Writing and digesting 25 MiB takes a thread some fifty milliseconds. It is done while the file is being written, so
that close has next to nothing left to wait for.
"""

import os
import threading
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from io import BufferedWriter
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct

from kvfs.core.digest import Buffer, Digester, digest
from kvfs.log.disk import refusal, sync_directory

PARTIAL: Final = ".tmp"  # ends the name of a file that is not complete: no record names it
_BATCH: Final = 1024 * 1024  # bytes that are worth waking a thread for


class Body(Struct, frozen=True, eq=False, weakref=True):
    """A content ready to be recorded: in memory (`value`), or already in a file of the spool (its name)."""

    size: int
    digest: bytes
    value: bytes | None
    spool: str | None


_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="kvfs-spool")


def soon(make: Callable[[], bytes], then: Callable[[bytes | None], object]) -> None:
    """Have a thread make something; the loop calls `then` with it, with None if that failed, unless it has ended."""
    loop = trio.lowlevel.current_trio_token()

    def work() -> None:
        found = None
        try:
            found = make()
        finally:
            with suppress(trio.RunFinishedError):
                loop.run_sync_soon(then, found)

    _threads.submit(work)


def digest_soon(value: Buffer, then: Callable[[bytes], object]) -> None:
    """Make a digest in a thread; the loop calls `then` with it."""
    soon(partial(digest, value), lambda found: None if found is None else then(found))


class Stream:
    """A file of the spool that grows with the content it is to hold. The methods are the loop's.

    Invariant: pieces reach file and digest in the order they were fed, one thread at a time (`_turn`).
    """

    def __init__(self, directory: Path, *, durable: bool, made: Callable[[int, bytes, str], Body]) -> None:
        self._directory = directory
        self._durable = durable
        self._made = made
        self._name = uuid.uuid4().hex
        self._partial = directory / f"{self._name}{PARTIAL}"
        self._pieces: deque[Buffer] = deque()
        self._size = 0
        self._waiting = 0  # bytes fed since a thread was woken
        self._turn = threading.Lock()
        self._file: BufferedWriter | None = None
        self._digest = Digester()
        self._error: Exception | None = None
        self._abandoned = False

    def feed(self, piece: Buffer) -> None:
        """Take the next piece of the content, which nobody may change."""
        self._pieces.append(piece)
        self._size += len(piece)
        self._waiting += len(piece)
        if self._waiting >= _BATCH:
            self._waiting = 0
            _threads.submit(self._advance)

    def abandon(self) -> None:
        """Give the file up, because the content became another one."""
        self._abandoned = True
        self._pieces.clear()
        _threads.submit(self._discard)

    async def finish(self) -> Body:
        """Return the body of everything fed. Raises JournalError when the disk did not take it."""
        size = self._size
        try:
            found = await trio.to_thread.run_sync(self._complete)
        except OSError as exc:
            raise refusal(exc, f"cannot write {size:,} bytes to {self._directory}") from exc
        return self._made(size, found, self._name)

    # in threads

    def _opened(self) -> BufferedWriter:
        descriptor = os.open(self._partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        return open(descriptor, "wb")

    def _advance(self) -> None:
        with self._turn:
            if self._error is not None or self._abandoned:
                return
            try:
                if self._file is None:
                    self._file = self._opened()
                while self._pieces:
                    self._take(self._file, self._pieces.popleft())
            except IndexError:  # abandoned between two lines of ours
                return
            except Exception as exc:  # no room, or no memory: told when the content is to be recorded
                self._error = exc

    def _take(self, file: BufferedWriter, piece: Buffer) -> None:
        file.write(piece)
        self._digest.update(piece)

    def _complete(self) -> bytes:
        self._advance()
        with self._turn:
            try:
                if self._error is not None:
                    raise self._error
                assert self._file is not None
                self._file.flush()
                if self._durable:
                    os.fsync(self._file.fileno())
                self._file.close()
                self._partial.rename(self._directory / self._name)
                if self._durable:
                    sync_directory(self._directory)
            except BaseException:
                self._remove()
                raise
            return self._digest.digest()

    def _discard(self) -> None:
        with self._turn:
            self._remove()

    def _remove(self) -> None:
        try:
            if self._file is not None:
                self._file.close()
        except OSError:  # the buffered bytes do not fit, and are not wanted
            pass
        finally:
            self._partial.unlink(missing_ok=True)
