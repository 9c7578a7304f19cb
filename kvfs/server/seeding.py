"""`kvfs serve --seed`: fills a namespace from a directory or a file, whatever `kvfs copy` can read."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvfs.core.errors import KvfsError, UserError
from kvfs.core.expiry import is_expired
from kvfs.core.limits import BULK_PAIRS
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.data.directory import DirectoryFiles
from kvfs.data.items import Loaded, Problem
from kvfs.data.place import Reader
from kvfs.data.streams import RecordReader, format_of
from kvfs.data.threaded import ThreadedReader
from kvfs.server.error_answers import Refusal
from kvfs.server.value_routes import stored_metadata
from kvfs.store.base import Store
from kvfs.store.checks import check_entry, key_bytes

_BATCH_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seed:
    """Entries for the namespace `title`, from `place`."""

    title: str
    place: Path

    @classmethod
    def parse(cls, text: str) -> "Seed":
        """Parse `[TITLE=]PLACE`; the title is the name of the place without its suffix. Raises `UserError`."""
        title, found, place = text.partition("=")
        path = Path(place if found else text)
        title = title if found else path.absolute().name.partition(".")[0]
        if not title:
            raise UserError(f"--seed {text}: name the namespace: --seed TITLE={path}")
        if not path.exists():
            raise UserError(f"--seed: {path} does not exist")
        return cls(title, path)


async def sow(store: Store, seed: Seed, now: float) -> int:
    """Write the entries of a seed; the namespace is made if need be. How many. Raises `UserError`."""
    namespace = await _namespace(store, seed.title)
    batch: dict[Key, Entry] = {}
    size = total = 0
    async with aclosing(read_seed(seed.place, now)) as entries:
        async for key, entry in entries:
            batch[key] = entry
            size += len(entry.value)
            if len(batch) >= BULK_PAIRS or size >= _BATCH_BYTES:
                total += await _write(store, namespace, batch)
                size = 0
    return total + await _write(store, namespace, batch)


async def _namespace(store: Store, title: str) -> NamespaceId:
    known = {one.title: one.id for one in await store.list_namespaces()}
    return known[title] if title in known else (await store.create_namespace(title)).id


async def _write(store: Store, namespace: NamespaceId, batch: dict[Key, Entry]) -> int:
    """Write a batch and empty it."""
    written = len(batch)
    if batch:
        await store.bulk_put(namespace, batch)
    batch.clear()
    return written


async def read_seed(place: Path, now: float) -> AsyncGenerator[tuple[Key, Entry]]:
    """Yield the entries of a place without expired ones.

    Anything wrong ends it, because a test should not start with half of its data. Raises `UserError`, which names the
    file, and the line if there are lines.
    """
    reader = _reader(place, now)
    try:
        async with aclosing(reader.scan("")) as parts:
            async for part in parts:
                left = part.items
                _refuse(part.problems, place)
                while left:
                    taken = await reader.take(left)
                    _refuse(taken.problems, place)
                    left = taken.left
                    for key, entry in (_as_stored(loaded, place) for loaded in taken.loaded):
                        if not is_expired(entry.expiration, now):
                            yield key, entry
    except OSError as exc:
        raise UserError(f"--seed: cannot read {exc.filename or place}: {exc.strerror}") from exc
    finally:
        await reader.aclose()


def _reader(place: Path, now: float) -> Reader:
    """Return the reader of a place, as `kvfs copy` has it."""
    if place.is_dir():
        return ThreadedReader(DirectoryFiles(place, now))
    found = format_of(place.name)
    if found is None:
        raise UserError(f"--seed: {place} is no directory and no .json, .ndjson or .tar file")
    return ThreadedReader(RecordReader(place, found, now, f"--seed: {place}"))


def _refuse(problems: Sequence[Problem], place: Path) -> None:
    for problem in problems:
        raise UserError(f"--seed: {place}: {problem}")


def _as_stored(loaded: Loaded, place: Path) -> tuple[Key, Entry]:
    """Return the entry with its metadata as a put would keep it. Raises `UserError` for one that KV would refuse."""
    key, entry = loaded.item.key, loaded.entry
    try:
        key_bytes("seed", key)
        entry = Entry(entry.value, stored_metadata("seed", entry.metadata), entry.expiration)
        check_entry("seed", entry)
    except (KvfsError, Refusal) as exc:
        raise UserError(f"--seed: {place}: {exc}") from exc
    return key, entry
