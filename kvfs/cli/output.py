"""Words for people: lines, sizes, durations.

Every text from a server or a file name passes `printable` before it reaches a terminal.
"""

import json
from collections.abc import Mapping, Sequence

import click


def printable(text: str) -> str:
    """Return `text` without anything a terminal would obey: control characters and lone surrogates are escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def say(line: str) -> None:
    """Print a line of result on stdout."""
    click.echo(printable(line))


def complain(line: str) -> None:
    """Print a line of diagnosis on stderr: `kvfs: …`."""
    click.echo(f"kvfs: {printable(line)}", err=True)


def json_line(fields: Mapping[str, object]) -> str:
    """Return one line of NDJSON; half of a surrogate pair, which JSON may hold, stays an escape."""
    try:
        text = json.dumps(fields, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(fields)
    return text


def first_of(lines: Sequence[str], most: int, count: int = 0, rest: str = "more") -> list[str]:
    """Return the first lines, and a line that counts the others if there are any.

    `count` is how many there are if `lines` are only the first of them.
    """
    left = max(count, len(lines)) - min(most, len(lines))
    return [*lines[:most], *([f"… and {left:,} {rest}"] if left else [])]


def say_json(value: object) -> None:
    """Write a result for programs on stdout."""
    click.echo(json.dumps(value, indent=2))


def counted(count: int, one: str, many: str = "") -> str:
    """Return `1 change`, `2,000 changes`; `many` where the plural is no s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def size_text(size: float | None) -> str:
    """Return a size like `300 B`, `1.2 KiB`, `25.0 MiB`; `?` for one that is not known (None, or below 0)."""
    if size is None or size < 0:
        return "?"
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size:.0f} B"


def duration_text(seconds: float) -> str:
    """Return a duration like `4 s`, `3 min`, `2 h`, `5 d`: in the biggest unit that fits."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
