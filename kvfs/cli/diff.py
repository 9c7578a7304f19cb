"""`kvfs diff A B`: the differences between two stores, directories or files."""

import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import click
import trio

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.options import FORMAT, MATCH, PREFIX, WHERE, json_option
from kvfs.cli.output import complain, json_line, say
from kvfs.cli.places import SYNTAX, StoreWords, Words, access_of, access_options, parse_words
from kvfs.cli.sides import CopySide, Sides, keep_kinds, known_kinds, reader_of
from kvfs.core.errors import KvfsError, first_error
from kvfs.data.compare import Comparison, Difference
from kvfs.data.items import HARMLESS
from kvfs.data.selection import Selection, parse_conditions
from kvfs.host.state import private_directory

TROUBLE = 2


@click.command(epilog=f"A and B are {SYNTAX}. Status 0: they are the same, 1: they differ, 2: trouble.")
@click.argument("first", metavar="A", type=PLACE)
@click.argument("second", metavar="B", type=PLACE)
@click.option(
    "--values",
    is_flag=True,
    help="Read and compare values too; without it listings are all that is asked for.",
)
@json_option("A line of JSON for each key that differs.")
@FORMAT
@PREFIX
@MATCH
@WHERE
@access_options
def diff(first: str, second: str, values: bool, as_json: bool, **options: Any) -> int:
    """Compare two places: keys, metadata, expirations, and with --values the values."""
    try:
        return trio.run(_diff, first, second, values, as_json, options)
    except BaseExceptionGroup as group:
        ours = group.subgroup(KvfsError)
        if ours is None:
            raise
        complain(str(first_error(ours)))
    except (KvfsError, OSError) as exc:
        complain(str(exc))
    return TROUBLE


async def _diff(first: str, second: str, values: bool, as_json: bool, options: dict[str, Any]) -> int:
    access = access_of(options)
    private_directory(access.state_dir)
    private_directory(access.state_dir / "copies")
    words = [parse_words(text, access, format_=options["format_"]) for text in (first, second)]
    async with AsyncExitStack() as stack:
        opening = Sides(access, stack)
        sides = [await opening.open(one) for one in words]
        comparison = Comparison(_choice(words[0], options), _choice(words[1], options), time.time())
        stack.callback(comparison.close)
        await _compare(comparison, sides, options, values, access)
        return _report(comparison, as_json=as_json, values=values)


def _choice(words: Words, options: dict[str, Any]) -> Selection:
    return Selection(
        prefix=options["prefix"],
        match=options["match"],
        where=parse_conditions(options["where"]),
        strip=words.rest if isinstance(words, StoreWords) else "",
    )


async def _compare(
    comparison: Comparison, sides: list[CopySide], options: dict[str, Any], values: bool, access: Any
) -> None:
    started = time.time()
    kinds = [known_kinds(side, access) for side in sides]
    readers = [
        reader_of(side, _choice(side.words, options), known, started)
        for side, known in zip(sides, kinds, strict=True)
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(comparison.scan, "a", readers[0])
        nursery.start_soon(comparison.scan, "b", readers[1])
    if values:  # one after the other: two values of 25 MiB on their way are too much for the memory
        await comparison.read_values("a", readers[0])
        await comparison.read_values("b", readers[1])
    for side, known, reader in zip(sides, kinds, readers, strict=True):
        await keep_kinds(side, access, known)
        await reader.aclose()


def _report(comparison: Comparison, *, as_json: bool, values: bool) -> int:
    count = 0
    for difference in comparison.differences():
        count += 1
        if as_json:
            click.echo(json_line(_fields(difference)))
        else:
            say(_line(difference))
    failures = [problem for problem in comparison.problems if problem.kind not in HARMLESS]
    for problem in failures[:20]:
        complain(str(problem))
    if failures:
        complain(f"{len(failures)} entries could not be compared")
        return TROUBLE
    if not count and not values and sys.stderr.isatty():
        complain("no difference in keys, metadata and expirations; --values compares values too")
    return Exit.FAILED if count else Exit.OK


def _fields(difference: Difference) -> dict[str, object]:
    if difference.only:
        return {"key": difference.key, "only": difference.only}
    changed = [name for name in ("value", "metadata", "expiration") if getattr(difference, name)]
    return {"key": difference.key, "differs": changed}


def _line(difference: Difference) -> str:
    if difference.only:
        return f"{'-' if difference.only == 'a' else '+'} {difference.key}"
    changed = [name for name in ("value", "metadata", "expiration") if getattr(difference, name)]
    return f"~ {difference.key}  ({', '.join(changed)})"
