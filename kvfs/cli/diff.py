"""`kvfs diff A B`: the differences between two stores, directories or files."""

import sys
import time
from contextlib import closing
from typing import Any

import click
import trio

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.options import FORMAT, MATCH, PREFIX, WHERE, flag, json_option
from kvfs.cli.output import complain, first_of, json_line, say
from kvfs.cli.places import SYNTAX, Access, StoreWords, Words, access_options, parse_words
from kvfs.cli.sides import CopySide, open_sides, reader_of
from kvfs.core.errors import KvfsError, first_error
from kvfs.data.compare import Comparison, Difference
from kvfs.data.items import HARMLESS
from kvfs.data.selection import Selection, parse_conditions

TROUBLE = 2
SHOWN = 20


@click.command(
    epilog=f"A and B are {SYNTAX}. The exit status is 0 if they are equal, 1 if they differ, 2 after an error."
)
@click.argument("first", metavar="A", type=PLACE)
@click.argument("second", metavar="B", type=PLACE)
@flag("--values", "Read and compare values too; without it kvfs only lists keys.")
@json_option("Print a line of JSON for each key that differs.")
@FORMAT
@PREFIX
@MATCH
@WHERE
@access_options
def diff(first: str, second: str, values: bool, as_json: bool, access: Access, **options: Any) -> int:
    """Compare two places: keys, metadata, expirations, and with --values the values."""
    try:
        return trio.run(_diff, first, second, values, as_json, access, options)
    except BaseExceptionGroup as group:
        ours = group.subgroup(KvfsError)
        if ours is None:
            raise
        complain(str(first_error(ours)))
    except (KvfsError, OSError) as exc:
        complain(str(exc))
    return TROUBLE


async def _diff(
    first: str, second: str, values: bool, as_json: bool, access: Access, options: dict[str, Any]
) -> int:
    words = [parse_words(text, access, format_=options["format_"]) for text in (first, second)]
    async with open_sides(access) as opening:
        sides = [await opening.open(one) for one in words]
        choices = [_choice(one, options) for one in words]
        with closing(Comparison(choices[0], choices[1], time.time())) as comparison:
            await _compare(comparison, sides, choices, values=values)
            return _report(comparison, as_json=as_json, values=values)


def _choice(words: Words, options: dict[str, Any]) -> Selection:
    return Selection(
        prefix=options["prefix"],
        match=options["match"],
        where=parse_conditions(options["where"]),
        strip=words.rest if isinstance(words, StoreWords) else "",
    )


async def _compare(
    comparison: Comparison, sides: list[CopySide], choices: list[Selection], *, values: bool
) -> None:
    started = time.time()
    readers = [reader_of(side, choice.listed, started) for side, choice in zip(sides, choices, strict=True)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(comparison.scan, "a", readers[0])
        nursery.start_soon(comparison.scan, "b", readers[1])
    if values:  # one after the other: two values of 25 MiB on their way are too much for the memory
        await comparison.read_values("a", readers[0])
        await comparison.read_values("b", readers[1])
    for reader in readers:
        await reader.aclose()


def _report(comparison: Comparison, *, as_json: bool, values: bool) -> int:
    count = 0
    for difference in comparison.differences():
        count += 1
        if as_json:
            click.echo(json_line(_fields(difference)))
        else:
            say(_line(difference))
    failures = [str(problem) for problem in comparison.problems if problem.kind not in HARMLESS]
    for line in first_of(failures, SHOWN):
        complain(line)
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
