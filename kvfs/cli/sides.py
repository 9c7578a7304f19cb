"""FROM and TO of a copy, checked and opened, and the knowledge of earlier copies."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from kvfs.cli.places import Access, DirectoryWords, FileWords, OpenStore, StoreWords, Words, open_store
from kvfs.config import Source
from kvfs.core.errors import UserError
from kvfs.core.kinds import Kinds
from kvfs.core.model import Namespace, NamespaceId
from kvfs.data.copier import CopyOptions, IfExists
from kvfs.data.directory import DirectoryFiles
from kvfs.data.place import Reader
from kvfs.data.storeplace import StoreReader
from kvfs.data.streams import RecordReader
from kvfs.data.threaded import ThreadedReader
from kvfs.host.held import STDIN, held_file
from kvfs.host.kinds_file import KindsFile, save_kinds
from kvfs.host.state import private_directory, state_name
from kvfs.store.noting import Noting


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A copy as the user asked for it."""

    source: Words
    target: Words
    options: CopyOptions
    access: Access
    if_exists: IfExists | None = None
    as_attributes: bool = False
    dry_run: bool = False
    yes: bool = False
    restart: bool = False

    @property
    def job_path(self) -> Path:
        """Return the file that records the progress of this copy; an equal request has an equal path."""
        options = repr((self.options, self.if_exists, self.as_attributes))
        name = state_name("\n".join([identity_of(self.source), identity_of(self.target), options]))
        return self.access.copies / f"{name}.sqlite"


def identity_of(words: Words) -> str:
    if isinstance(words, StoreWords):
        base = getattr(words.source, "base_url", "")
        return f"{base} {words.source} {words.namespace} {words.rest}"
    return f"{words.path} {getattr(words, 'format', '')}"


@dataclass(slots=True)
class CopySide:
    """FROM or TO, open. A target's namespace is None while there is none of its title."""

    words: Words
    store: OpenStore | None = None
    namespace: NamespaceId | None = None
    kinds: Kinds = field(default_factory=Kinds)
    """It says which values mounts and copies of the account found to be binary. Closing the stores saves it."""


def check_target(request: CopyRequest) -> None:
    """Refuse to write over files that nobody asked to write over. Raises `UserError`."""
    words, asked = request.target, request.if_exists
    going_on = request.job_path.exists() and not request.restart
    if isinstance(words, FileWords) and words.path is not None:
        if asked in ("skip", "newer"):
            raise UserError(
                f"{words.text} is written as a whole: --if-exists {asked} is for stores and directories"
            )
        if words.path.is_symlink() or (words.path.exists() and asked != "overwrite"):
            raise UserError(f"{words.text} exists: name another, or say --if-exists overwrite")
        if not words.path.parent.is_dir():
            raise UserError(f"{words.path.parent} does not exist: make it first")
    is_ours = asked is not None or going_on
    if not is_ours and isinstance(words, DirectoryWords) and words.path.is_dir() and os.listdir(words.path):
        raise UserError(
            f"{words.text} is not empty: say --if-exists overwrite, skip, newer or fail, or name another"
        )


class Sides:
    """FROM and TO, open; where both are of one store it is opened once, so its requests are counted together."""

    def __init__(self, access: Access, stack: AsyncExitStack) -> None:
        self._access = access
        self._stack = stack
        self._stores: dict[Source, OpenStore] = {}
        self._kinds: dict[str, Kinds] = {}

    async def open(self, words: Words, *, is_target: bool = False) -> CopySide:
        """Open one side. Raises `UserError` for a namespace that is not there, unless it is the target."""
        if isinstance(words, StoreWords):
            opened = await self.store(words.source)
            through = words.through
            if is_target and through is not None:
                through.send_pending()
                noting = Noting(opened.store)
                self._stack.callback(through.show, noting.writes)
                opened = replace(opened, store=noting)
            if is_target and words.namespace is not None:
                return CopySide(words, opened, await opened.find(words.namespace), self._kinds_of(opened))
            namespace = await opened.get(words.namespace)
            if through is not None and not is_target:
                opened = replace(opened, store=through.over(opened.store, namespace))
            return CopySide(words, opened, namespace, self._kinds_of(opened))
        if isinstance(words, FileWords) and words.path is None and not is_target:
            spooled = await _spool(self._access, self._stack)
            return CopySide(FileWords(spooled, words.format, words.text))
        return CopySide(words)

    async def store(self, source: Source) -> OpenStore:
        """Return the store of a source."""
        if source not in self._stores:
            self._stores[source] = await self._stack.enter_async_context(open_store(source, self._access))
        return self._stores[source]

    def _kinds_of(self, opened: OpenStore) -> Kinds:
        if opened.rest is None:
            return Kinds()
        if opened.identity not in self._kinds:
            kinds, file = Kinds(), KindsFile(self._access.state, opened.identity)
            kinds.recall(file.read())
            self._kinds[opened.identity] = kinds
            self._stack.push_async_callback(_keep_kinds, kinds, file)
        return self._kinds[opened.identity]


@asynccontextmanager
async def open_sides(access: Access) -> AsyncIterator[Sides]:
    """Yield what opens stores; they are closed at the end."""
    private_directory(access.state)
    private_directory(access.copies)
    async with AsyncExitStack() as stack:
        yield Sides(access, stack)


async def namespaces_of(words: StoreWords, access: Access) -> list[Namespace]:
    """Return the namespaces of a source by title."""
    async with open_sides(access) as sides:
        store = await sides.store(words.source)
        return sorted(await store.namespaces(), key=lambda one: one.title)


async def _spool(access: Access, stack: AsyncExitStack) -> Path:
    """Write standard input to a file, because it is read twice."""
    file, path = stack.enter_context(held_file(access.copies, STDIN))

    def spool() -> None:
        while chunk := sys.stdin.buffer.read(1024 * 1024):
            file.write(chunk)
        file.flush()

    await trio.to_thread.run_sync(spool)
    return path


async def _keep_kinds(kinds: Kinds, file: KindsFile) -> None:
    with trio.CancelScope(shield=True):  # a copy that is interrupted has learned something, too
        await save_kinds(kinds, file)


def reader_of(side: CopySide, prefix: str, started: float) -> Reader:
    """Return the reader of a side, if it is a store of the keys that begin with `prefix`.

    Raises `UserError` for a file that is not there.
    """
    words = side.words
    if isinstance(words, StoreWords):
        assert side.store is not None
        assert side.namespace is not None
        return StoreReader(side.store.store, side.namespace, prefix, side.kinds)
    if isinstance(words, FileWords):
        if words.path is None or not words.path.is_file():
            raise UserError(f"{words.text} does not exist")
        return ThreadedReader(RecordReader(words.path, words.format, started, words.text))
    return ThreadedReader(DirectoryFiles(words.path, started))
