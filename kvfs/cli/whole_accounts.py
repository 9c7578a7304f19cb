"""A whole account in one copy: each namespace by itself, to its twin in another account or to a directory or file.

The progress of each is noted, so that a repeated command goes on with the next namespace.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from kvfs.cli.exits import Exit
from kvfs.cli.moving import run_copy
from kvfs.cli.output import complain, printable
from kvfs.cli.places import DirectoryWords, FileWords, StoreWords, Words
from kvfs.cli.sides import CopyRequest, Sides, open_sides
from kvfs.core.errors import UserError
from kvfs.core.names import title_names, title_of
from kvfs.data.streams import format_of
from kvfs.host.state import write_whole

DONE: Final = ".namespaces"  # instead of the suffix of a copy: which namespaces are done

_Part = tuple[str, str, Words]
"""The file name of a namespace, its title, and where it is copied from."""


def is_whole(words: Words) -> bool:
    """Return True for a store without a namespace, which means all of them."""
    return isinstance(words, StoreWords) and words.namespace is None


def check_whole(source: Words, target: Words) -> None:
    """Refuse a target that cannot hold all namespaces of an account. Raises `UserError`."""
    for words, other, verb in ((source, target, "to"), (target, source, "from")):
        if is_whole(words) and isinstance(other, FileWords):
            raise UserError(
                f"{words.text} is all namespaces, and {other.text} holds one: name one, {_example(words)},"
                f" or a directory to copy {verb} (DIR/), with --format for a file of each"
            )
        if is_whole(words) and isinstance(other, StoreWords) and not is_whole(other):
            raise UserError(
                f"{words.text} is all namespaces, and {other.text} is one: name one on both sides, or on neither"
            )


def _example(words: Words) -> str:
    return f"{words.text.rstrip('/')}/NAMESPACE"


async def run_account(request: CopyRequest, format_: str | None) -> int:
    """Copy one namespace after the other; return the worst exit status."""
    notes = request.job_path.with_suffix(DONE)
    done = [] if request.restart else _read(notes)
    status = int(Exit.OK)
    async with open_sides(request.access) as sides:
        parts = await _parts(request, sides, format_)
        if not parts:
            click.echo(f"{request.source.text} has no namespace")
        _make_directory(request)
        for title, part in parts:
            if title in done:
                complain(f"{printable(title)} is done already; --restart begins anew")
                continue
            click.echo(f"{printable(title)}:", err=True)
            found = await run_copy(part, sides)
            status = max(status, found)
            if part.job_path.exists():
                complain("the namespaces after it were not begun")
                return status
            if not request.dry_run:
                done.append(title)
                write_whole(notes, json.dumps(done).encode())
    notes.unlink(missing_ok=True)
    return status


def _read(notes: Path) -> list[str]:
    try:
        return list(map(str, json.loads(notes.read_bytes())))
    except (OSError, ValueError, TypeError):
        return []


def _make_directory(request: CopyRequest) -> None:
    words = request.target
    if isinstance(words, DirectoryWords) and not request.dry_run:
        words.path.mkdir(mode=0o700, parents=True, exist_ok=True)


async def _parts(request: CopyRequest, sides: Sides, format_: str | None) -> list[tuple[str, CopyRequest]]:
    """Yield each namespace of FROM by its title, with the copy of it alone."""
    source, target = request.source, request.target
    if isinstance(source, StoreWords):
        named = title_names(await (await sides.store(source.source)).namespaces())
        found: list[_Part] = [
            (name, one.title, replace(_of_store(source, one.title), namespace=one.id))
            for name, one in named.items()
        ]
    else:
        assert isinstance(source, DirectoryWords)
        found = _of_directory(source, format_)
    return [
        (title, replace(request, source=part, target=_target(target, name, title, format_)))
        for name, title, part in sorted(found, key=lambda one: one[0])
    ]


def _of_store(words: StoreWords, title: str) -> StoreWords:
    return replace(words, namespace=title, text=f"{words.text.rstrip('/')}/{title}")


def _of_directory(words: DirectoryWords, format_: str | None) -> list[_Part]:
    """Yield a directory of each namespace, or with a format a file. Raises `UserError` for anything else."""
    if not words.path.is_dir():
        raise UserError(f"{words.text} does not exist: name a directory that has one of each namespace")
    found: list[_Part] = []
    for path in sorted(words.path.iterdir()):
        text = f"{words.text.rstrip('/')}/{path.name}"
        chosen = format_of(path.name) if format_ is not None and path.is_file() else None
        if chosen is not None and path.name.endswith(f".{format_}"):
            name = path.name.removesuffix(f".{format_}")
            found.append((name, title_of(name), FileWords(path, chosen, text)))
        elif format_ is None and path.is_dir() and not path.is_symlink():
            found.append((path.name, title_of(path.name), DirectoryWords(path, text)))
        else:
            wanted = "a directory" if format_ is None else f"a file that ends in .{format_}"
            raise UserError(
                f"{text} is not {wanted}: each namespace is one; take it away, or name a namespace"
            )
    return found


def _target(words: Words, name: str, title: str, format_: str | None) -> Words:
    if isinstance(words, StoreWords):
        return _of_store(words, title)
    assert isinstance(words, DirectoryWords)
    place = words.path / (name if format_ is None else f"{name}.{format_}")
    text = f"{words.text.rstrip('/')}/{place.name}"
    if format_ is None:
        return DirectoryWords(place, text)
    chosen = format_of(format_)
    assert chosen is not None
    return FileWords(place, chosen, text)
