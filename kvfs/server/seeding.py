"""`kvfs serve --seed`: fills a namespace from a directory, a JSON file as wrangler's bulk commands take, or NDJSON."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvfs.core.errors import KvfsError, UserError
from kvfs.core.limits import BULK_PAIRS
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.core.names import Naming
from kvfs.server.refusals import Refusal
from kvfs.server.values import stored_metadata
from kvfs.store.base import Store
from kvfs.store.checks import check_entry, key_bytes
from kvfs.store.wire import codec

_BATCH_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seed:
    """Entries for the namespace `title`, from `place`."""

    title: str
    place: Path

    @classmethod
    def parse(cls, text: str) -> "Seed":
        """`[TITLE=]PLACE`; the title is the name of the place without its suffix. Raises `UserError`."""
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
    for key, entry in read_seed(seed.place, now):
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


def read_seed(place: Path, now: float) -> Iterator[tuple[Key, Entry]]:
    """The entries of a place, those left out that have expired. Raises `UserError` that names file and line."""
    try:
        if place.is_dir():
            yield from _read_directory(place)
        elif place.suffix in (".ndjson", ".jsonl"):
            yield from _read_lines(place, now)
        elif place.suffix == ".json":
            yield from _read_pairs(place.read_bytes(), str(place), now)
        else:
            raise UserError(f"--seed: {place} is no directory, .json, .ndjson or .jsonl file")
    except OSError as exc:
        raise UserError(f"--seed: cannot read {exc.filename or place}: {exc.strerror}") from exc


def _read_directory(top: Path) -> Iterator[tuple[Key, Entry]]:
    """Every regular file below `top`; its path is its key, with the escapes of a mount."""
    naming = Naming()
    for directory, inner, files in os.walk(top):
        inner.sort()
        for name in sorted(files):
            file = Path(directory, name)
            if not file.is_file():
                continue
            try:
                key = naming.key_of(file.relative_to(top).parts)
                entry = Entry(file.read_bytes())
                check_entry("seed", entry)
            except KvfsError as exc:
                raise UserError(f"--seed: {file}: {exc}") from exc
            yield key, entry


def _read_lines(file: Path, now: float) -> Iterator[tuple[Key, Entry]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield from _read_pairs(b"[" + line + b"]", f"{file}:{number}", now)


def _read_pairs(body: bytes, where: str, now: float) -> Iterator[tuple[Key, Entry]]:
    """The pairs of a JSON array in the form of a bulk put."""
    try:
        for pair in codec.decode_pairs(body):
            expiration = codec.whole_seconds(pair.expiration)
            if pair.expiration_ttl is not None:
                expiration = codec.whole_seconds(now + pair.expiration_ttl)
            entry = Entry(pair.value_bytes(), stored_metadata("seed", pair.metadata_text), expiration)
            key_bytes("seed", Key(pair.key))
            check_entry("seed", entry)
            if expiration is None or expiration > now:
                yield Key(pair.key), entry
    except (codec.MalformedError, Refusal, KvfsError) as exc:
        raise UserError(f"--seed: {where}: {exc}") from exc
