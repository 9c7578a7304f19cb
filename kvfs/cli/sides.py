"""FROM and TO of a copy, checked and opened, and what earlier copies know of them."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from kvfs.cli.places import Access, DirectoryWords, FileWords, OpenStore, StoreWords, Words, open_store
from kvfs.core.errors import UserError
from kvfs.core.model import NamespaceId
from kvfs.data.copier import CopyOptions, IfExists
from kvfs.data.reading import Binaries
from kvfs.host.state import private_directory, state_name, write_private


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A copy as it was asked for."""

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
        """Where it is noted how far this copy is: the same for the same request."""
        options = repr((self.options, self.if_exists, self.as_attributes))
        name = state_name("\n".join([identity_of(self.source), identity_of(self.target), options]))
        return self.access.state_dir / "copies" / f"{name}.sqlite"


def identity_of(words: Words) -> str:
    if isinstance(words, StoreWords):
        base = getattr(words.source, "base_url", "")
        return f"{base} {words.source} {words.namespace} {words.rest}"
    return f"{words.path} {getattr(words, 'format', '')}"


@dataclass(slots=True)
class Side:
    """FROM or TO, open. A target's namespace is None while there is none of its title."""

    words: Words
    store: OpenStore | None = None
    namespace: NamespaceId | None = None
    spooled: Path | None = None


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


@asynccontextmanager
async def open_side(request: CopyRequest, words: Words, *, is_target: bool = False) -> AsyncIterator[Side]:
    if isinstance(words, StoreWords):
        async with open_store(words.source, request.access) as opened:
            if not is_target or words.namespace is None:
                yield Side(words, opened, await opened.get(words.namespace))
            else:
                yield Side(words, opened, await opened.find(words.namespace))
        return
    if isinstance(words, FileWords) and words.path is None and not is_target:
        spooled = await _spool(request.access)
        try:
            yield Side(FileWords(spooled, words.format, words.text), spooled=spooled)
        finally:
            spooled.unlink(missing_ok=True)
        return
    yield Side(words)


async def _spool(access: Access) -> Path:
    """Standard input as a file: it is read twice."""
    path = access.state_dir / "copies" / f"stdin-{os.getpid()}"

    def spool() -> None:
        with open(path, "xb", opener=_private) as file:
            while chunk := sys.stdin.buffer.read(1024 * 1024):
                file.write(chunk)

    await trio.to_thread.run_sync(spool)
    return path


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _binaries_path(side: Side, access: Access) -> Path:
    assert side.store is not None
    name = state_name(f"{side.store.identity}\n{side.namespace}")
    return access.state_dir / "binaries" / f"{name}.json"


def known_binaries(side: Side, access: Access) -> Binaries:
    if side.store is None or side.store.rest is None:
        return Binaries()
    try:
        return Binaries(set(json.loads(_binaries_path(side, access).read_bytes())))
    except (OSError, ValueError, TypeError):
        return Binaries()


def keep_binaries(side: Side, access: Access, binaries: Binaries) -> None:
    if side.store is None or side.store.rest is None or not binaries.known:
        return
    path = _binaries_path(side, access)
    private_directory(path.parent)
    write_private(path, json.dumps(sorted(binaries.known)).encode())
