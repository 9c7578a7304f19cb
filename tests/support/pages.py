"""The examples of a page: read from its Markdown, so that none can be written that is not run.

Two forms are known. A fenced block in the language `console` is a session: lines that start with `$ ` are
commands (`> ` goes on with one), what follows is what they print. A table with a column `example` has one in
each row: `` `Python` `` that must succeed, or `` `Python` → `result` ``, a literal or the name of an errno.
A table with a column `source` says what others say, and is not run.
Whatever looks like an example and is neither is a complaint.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CELL = re.compile(r"`([^`]+)`(?: → `([^`]+)`)?")
_BORDER = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Place:
    """The place of an example."""

    page: str
    line: int
    heading: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass
class Step:
    """A command and the lines it must print; `…` stands for anything."""

    command: str
    expected: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Session:
    """A console block."""

    place: Place
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Row:
    """The example of a row; without a result it must succeed."""

    place: Place
    code: str
    result: str | None


@dataclass
class Page:
    """The examples of a page, and the complaints about it."""

    sessions: list[Session] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)

    def is_shown(self, heading: str) -> bool:
        """Return True if a section has an example."""
        return any(found.place.heading == heading for found in (*self.sessions, *self.rows))


def read_page(path: Path) -> Page:
    """Read a page of the project."""
    return parse(path.name, path.read_text())


def parse(name: str, text: str) -> Page:
    """Return everything on a page that is an example, or should be one."""
    page, heading, lines = Page(), "", iter(enumerate(text.splitlines(), start=1))
    columns: list[str] | None = None  # of the table we are in
    for number, line in lines:
        place = Place(name, number, heading)
        if line.startswith("#"):
            heading = line.lstrip("# ")
            page.headings.append(heading)
        elif line.startswith("```"):
            _fence(page, place, line[3:].strip(), list(_until_fence(lines)))
        elif line.startswith(("    ", "\t")):
            page.complaints.append(f"{place}: code by indentation is not run: use a console block")
        if not line.startswith("|"):
            columns = None
        elif columns is None:
            columns = _cells(line)
            if not {"example", "source"} & set(columns):
                page.complaints.append(f"{place}: the table has no column `example`")
        elif not re.fullmatch(r"[|\s:-]+", line) and "example" in columns:
            _row(page, place, columns, _cells(line))
    return page


def _until_fence(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if line.startswith("```"):
            return
        yield line


def _fence(page: Page, place: Place, language: str, body: list[str]) -> None:
    if language != "console":
        page.complaints.append(f"{place}: nobody runs a block of {language or 'no language'}")
        return
    steps: list[Step] = []
    for line in body:
        if line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif not steps:
            page.complaints.append(f"{place}: the block does not start with a command")
            return
        elif line.startswith("> ") and not steps[-1].expected:
            steps[-1].command += "\n" + line[2:]
        else:
            steps[-1].expected.append(line)
    if not steps:
        page.complaints.append(f"{place}: the block is empty")
    for step in steps:
        while step.expected and not step.expected[-1]:
            step.expected.pop()  # blank lines part the commands
    page.sessions.append(Session(place, tuple(steps)))


def _row(page: Page, place: Place, columns: list[str], cells: list[str]) -> None:
    found = _CELL.fullmatch(cells[columns.index("example")]) if len(cells) == len(columns) else None
    if found is None:
        page.complaints.append(f"{place}: the row has no example")
        return
    page.rows.append(Row(place, found[1].replace(r"\|", "|"), found[2]))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BORDER.split(line.strip())[1:-1]]
