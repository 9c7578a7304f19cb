"""Every place in the source of the journal that alters a file or forces it out, and those no daemon comes to."""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kvfs import changes, journal, kept, log

CALLS = re.compile(
    r".*\.(execute|executemany|executescript)"  # a statement
    r"|os\.(write|writev|truncate|ftruncate|fsync|fdatasync|posix_fallocate)"
    r"|(?!.*files\.unlink|self\._partial\.unlink).*\.(rename|unlink)|fresh\.replace|shutil\.copyfile"
)
"""What alters a file or its name, or forces it out."""
UNREACHABLE: dict[str, str] = {
    "spool_directory.py SpoolDirectory._force": "a content is written anew only after a sync of it failed",
    "sidefile.py inherit": "it fills the journal of a mount to read only, and a play has one journal",
    "sidefile.py has_rows": "it reads a journal that no mount has open, and a play has one journal",
    "side.py SideTable._roll_back": "SQLite itself rolls back what fails for want of room",
    "spool_directory.py SpoolDirectory._sync": "fsync of a local file alone forces a single content out",
}
"""By file and function: why. Where it is come to all the same, that is an error too."""
INNER = {"JournalWriter.move", "LocalAttributes.move_dirs", "LocalAttributes.remove_dir"}
"""Parts of another's transaction, with whose end they are written. Only a conflict that is settled moves alone."""


@dataclass(frozen=True)
class Site:
    """Such a call, from its first line to its last."""

    file: str
    function: str
    first: int
    last: int

    @property
    def where(self) -> str:
        """Return the name that `UNREACHABLE` uses for it."""
        return f"{self.file} {self.function}"

    def __str__(self) -> str:
        return f"{self.file}:{self.first} ({self.function})"


def all_sites() -> list[Site]:
    """Return all sites, in the order of the source."""
    found = []
    for path in (
        file
        for room in (journal, log, changes, kept)
        for file in sorted(Path(room.__file__).parent.glob("*.py"))
    ):
        for function, node in _calls(ast.parse(path.read_text()), ""):
            found.append(Site(path.name, function, node.lineno, node.end_lineno))
    return found


def _calls(node: ast.AST, within: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        name = within
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{within}.{child.name}".lstrip(".")
        if isinstance(child, ast.Call) and CALLS.fullmatch(ast.unparse(child.func)):
            yield name, child
        yield from _calls(child, name)


def operations() -> set[str]:
    """Return the functions of the journal that open a transaction of their own."""
    found: set[str] = set()
    for path in Path(journal.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                functions = [one for one in node.body if isinstance(one, ast.FunctionDef)]
                found |= {f"{node.name}.{one.name}" for one in functions if _opens_transaction(one)}
    return found - INNER


def _opens_transaction(function: ast.FunctionDef) -> bool:
    contexts = [
        item.context_expr for one in ast.walk(function) if isinstance(one, ast.With) for item in one.items
    ]
    return any(
        ast.unparse(context).endswith(("transaction()", "transactions", "of_sending()"))
        for context in contexts
    )


def judge(reached: set[str], points: Iterable[str]) -> list[str]:
    """Return the faults: places and operations that no daemon came to and no excuse covers, and needless excuses."""
    come_to = {name for point in points for name in point.partition(": ")[0].partition(" ")[2].split(" > ")}
    sites, wrong = all_sites(), []
    lines = {(file, int(line)) for file, _, line in (one.partition(":") for one in reached)}
    for site in sites:
        come = any(file == site.file and site.first <= line <= site.last for file, line in lines)
        if come == (site.where in UNREACHABLE):
            wrong.append(f"{site} {'is on the list of the unreachable' if come else 'was never come to'}")
    wrong += [f"{where} alters no file" for where in UNREACHABLE.keys() - {site.where for site in sites}]
    wrong += [f"{name} was never come to" for name in sorted(operations() - come_to)]
    return wrong
