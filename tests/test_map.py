"""The map of the package, in the docstring of `kvfs`, is true; run this with --write to draw it again."""

import ast
import re
import sys
from pathlib import Path
from textwrap import shorten

PACKAGE = Path(__file__).parent.parent / "kvfs"
DESIGN = PACKAGE.parent / "docs" / "design.md"
TITLE = "kvfs: Cloudflare Workers KV as a file system."
INTRODUCTION = "The map: every room in one line (`python tests/test_map.py --write` draws it)."
NAME_WIDTH = 18
PHRASE_WIDTH = 78


def phrase_of(file: Path) -> str:
    """The first line of a module's docstring, or as much of it as fits and makes sense alone."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    first = docstring.partition("\n")[0].rstrip(".:").replace("\\", "/")
    if len(first) <= PHRASE_WIDTH:
        return first
    ends = [found.start() for found in re.finditer(r"[.;] ", first[:PHRASE_WIDTH]) if found.start() > 15]
    return first[: ends[-1]] if ends else shorten(first, PHRASE_WIDTH, placeholder=" …")


def drawn_map() -> str:
    """Return the docstring as it should be: one line a room, then one line a file beside the rooms."""
    lines = [TITLE, "", INTRODUCTION, ""]
    for folder in sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE):
        place = folder.relative_to(PACKAGE).as_posix() + "/"
        lines.append(f"{place:<{NAME_WIDTH}}{phrase_of(folder / '__init__.py')}")
    top = [file for file in PACKAGE.glob("*.py") if file.name != "__init__.py"]
    lines += ["", *(f"{file.name:<{NAME_WIDTH}}{phrase_of(file)}" for file in sorted(top))]
    return "\n".join(lines)


def written_map() -> str:
    return ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text())) or ""


def test_the_map_of_the_package_is_true() -> None:
    """The package shows every room with its own first line, and none that is gone."""
    assert written_map() == drawn_map(), "run: python tests/test_map.py --write"


def test_the_design_page_names_every_room_and_no_file_that_is_gone() -> None:
    """Every file that docs/design.md names exists, and every room is named."""
    design = DESIGN.read_text()
    rooms = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(room for room in rooms if not re.search(rf"\b{room}\b", design)) == []
    named = re.findall(rf"`((?:{'|'.join(rooms)})/[\w/]+)`", design)
    assert named
    missing = [
        name for name in named if not (PACKAGE / f"{name}.py").exists() and not (PACKAGE / name).is_dir()
    ]
    assert missing == []


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        init = PACKAGE / "__init__.py"
        source = init.read_text()
        end = source.index('"""', 3) + 3
        init.write_text(f'"""{drawn_map()}\n"""' + source[end:])
    else:
        print(drawn_map())
