"""The walls: which room imports which, which words live where, how long things get. Read from the source itself."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kvfs"
FILES = sorted(PACKAGE.rglob("*.py"))

# Room → what it may import of ours, and from outside. `cli`, `daemon` and files beside the rooms: everything.
OURS = {
    "core": {"core"},
    "data": {"core", "store.base", "store.bulkread", "store.passage", "store.wire", "store.wrapper", "data"},
    "store": {"core", "patches", "store", "warmthread"},
    "kept": {"core", "kept"},
    "log": {"core.digest", "core.errors", "log"},
    "changes": {"core", "kept.facts", "kept.local", "changes"},  # of kept only what memory has of it
    "journal": {"core", "kept", "log", "changes", "journal", "warmthread"},
    "history": {"core", "history"},
    "sender": {"core", "store.base", "store.bulkread", "store.passage", "changes", "journal", "sender"},
    "host": {"background", "core", "host"},
    "cache": {"background", "core", "store.base", "store.bulkread", "cache"},
    "vfs": {
        "core",
        "store.base",
        "kept",
        "log.spool",
        "changes",
        "journal",
        "history",
        "sender",
        "cache",
        "vfs",
    },
    "fuse": {"core", "patches", "vfs", "fuse"},
    "verify": {"core", "store.codes", "verify"},
    "server": {
        "core",
        "host.token_file",
        "patches",
        "store.base",
        "store.checks",
        "store.codes",
        "store.wire",
        "store.wrapper",
        "server",
    },
}
# One file of the server puts it together: it chooses the store, as the daemon does for mounts.
ASSEMBLY = {"server/serving.py": {"store.embedded"}, "server/seeding.py": {"data"}}
OUTSIDE = {
    "core": {"blake3", "msgspec"},  # for records: as frozen as dataclasses, and made in a tenth of the time
    "store": {"httpcore", "httpx", "msgspec", "trio"},
    "kept": {"msgspec", "sortedcontainers"},
    "log": {"msgspec", "trio"},
    "changes": {"msgspec", "sortedcontainers"},
    "journal": {"msgspec", "trio"},
    "history": {"msgspec", "trio"},
    "sender": {"trio"},
    "host": {"json5", "msgspec", "platformdirs", "trio"},
    "cache": {"msgspec", "sortedcontainers", "trio"},
    "vfs": {"msgspec", "trio"},
    "data": {"msgspec", "trio"},
    "fuse": {"pyfuse3", "trio"},
    "verify": {"httpx", "msgspec", "trio"},
    "server": {"hypercorn", "msgspec", "prometheus_client", "python_multipart", "starlette", "trio"},
}
# Standard modules that do I/O, tell the time or hold state of the process: not in pure rooms.
PURE = {"core", "changes"}
NOT_PURE = {
    "asyncio",
    "datetime",
    "logging",
    "os",
    "pathlib",
    "random",
    "socket",
    "sqlite3",
    "threading",
    "time",
}
# Standard modules with a home.
HOMES = {
    "sqlite3": {"store", "kept", "data", "vfs/view/lastseen.py"},
    # The kernel's word for a dead mount (ENOTCONN) has no exception class: mounts.py must name it.
    # A full disk has none either: log/disk.py tells it from a disk that fails.
    "errno": {"fuse/convert.py", "host/mounts.py", "log/disk.py"},
}
# Words with a home: identifiers and attributes, not comments.
WORDS = {
    r"status_code": r"store/rest/|store/miniflare/explorer\.py|server/|verify/wire\.py",
    r"_?dirty": r"vfs/|fuse/",
    # the log knows bytes alone
    r"Key(Ref)?|(Namespace|Change|Row|Content|LocalAttrs|Metadata)\w*|(namespace|key|row)s?": r"(?!log/)",
    # of files on this machine's disk, wherever there are any; never of ours
    r"st_\w+": r"fuse/|journal/|log/|history/|store/(embedded/|miniflare/|ledger\.py)|data/|host/"
    r"|cli/|config\.py",
}
MOST_LINES = 400
MOST_FUNCTION_LINES = 60

by_file = pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def room_of(file: Path) -> str:
    """Return `core`, `store`, …; "" for the files beside the rooms and for the command line."""
    first = file.relative_to(PACKAGE).parts[0]
    return first if first in OURS else ""


@cache
def imports_of(file: Path) -> tuple[str, ...]:
    """Return dotted names of the modules a file imports, those for types alone included."""
    return tuple(_imported(file))


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if (ROOT / inner.replace(".", "/")).with_suffix(".py").exists() else node.module


def test_every_folder_is_a_known_room() -> None:
    """A new folder gets its walls before it gets its second file."""
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == {*OURS, "cli", "daemon"}


@by_file
def test_a_room_imports_only_what_its_wall_lets_in(file: Path) -> None:
    """Imports of ours point down: faces → vfs → sender → journal → changes and log → core."""
    allowed = OURS.get(room_of(file))
    extra = ASSEMBLY.get(file.relative_to(PACKAGE).as_posix(), set())
    for name in imports_of(file):
        if allowed is not None and name.partition(".")[0] == "kvfs":
            inner = name.removeprefix("kvfs.")  # `kvfs` itself has the version
            assert any(inner == a or inner.startswith(f"{a}.") for a in allowed | extra) or name == "kvfs", (
                name
            )


@by_file
def test_a_library_stays_in_its_rooms(file: Path) -> None:
    """Each library outside the standard one is known in named rooms only."""
    room = room_of(file)
    outside = {name.partition(".")[0] for name in imports_of(file)} - sys.stdlib_module_names - {"kvfs"}
    if room:
        assert outside <= OUTSIDE[room]


@by_file
def test_a_standard_module_stays_in_its_home(file: Path) -> None:
    """SQL and errno stay in their homes, and core and changes import only what a pure rule needs."""
    place = file.relative_to(PACKAGE).as_posix()
    names = {name.partition(".")[0] for name in imports_of(file)}
    if room_of(file) in PURE:
        assert not names & NOT_PURE
    for module, homes in HOMES.items():
        if module in names:
            assert place in homes or room_of(file) in homes, f"{module} does not belong here"


@by_file
def test_a_word_stays_in_its_home(file: Path) -> None:
    """One word, one meaning, one owner: the sharpest words are checked like imports."""
    place = file.relative_to(PACKAGE).as_posix()
    used = {node.id for node in ast.walk(tree_of(file)) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree_of(file)) if isinstance(node, ast.Attribute)}
    for word, homes in WORDS.items():
        if not re.match(homes, place):
            assert not [name for name in used if re.fullmatch(word, name)], f"{word} belongs to {homes}"


@by_file
def test_imports_are_absolute_and_at_the_top(file: Path) -> None:
    """Only the command line and the daemon import late: they choose the parts, so the libraries, of a process."""
    late = any(file.is_relative_to(PACKAGE / room) for room in ("cli", "daemon"))
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not late:
            inside = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inside, f"import inside {node.name}"


@by_file
def test_nothing_gets_too_long(file: Path) -> None:
    """A file has at most 400 lines and a function at most 60, docstring included."""
    assert len(file.read_text().splitlines()) <= MOST_LINES
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < MOST_FUNCTION_LINES, node.name


@by_file
def test_a_module_says_what_belongs_in_it(file: Path) -> None:
    """Every module opens with a docstring."""
    assert ast.get_docstring(tree_of(file))


def test_every_library_that_is_imported_is_declared() -> None:
    """`pip install kvfs` brings what kvfs imports; what a mount and the server need are extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = project["dependencies"] + extras["mount"] + extras["server"] + extras["pytest"]
    names = {re.split(r"[\[<>=~ ]", line)[0].replace("-", "_") for line in declared}
    imported = {name.partition(".")[0] for file in FILES for name in imports_of(file)}
    assert imported - sys.stdlib_module_names - {"kvfs"} <= names


def test_modules_import_each_other_without_a_cycle() -> None:
    """Any module can be read first: none needs another that needs it, not even for a type."""
    assert cycle_in({module_name(file): set(imports_of(file)) for file in FILES}) is None


def test_rooms_import_each_other_without_a_cycle() -> None:
    """No two rooms need each other, not even for a type."""
    graph: dict[str, set[str]] = {}
    for file in FILES:
        room = file.relative_to(PACKAGE).with_suffix("").parts[0]  # a file beside the rooms is one of its own
        imported = {name.split(".")[1] for name in imports_of(file) if name.startswith("kvfs.")}
        graph.setdefault(room, set()).update(imported - {room})
    assert cycle_in(graph) is None


def test_a_cycle_is_found() -> None:
    """A ring of three is told, and a diamond is none."""
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == "b → c → b"
    assert cycle_in({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) is None


def cycle_in(graph: dict[str, set[str]]) -> str | None:
    """Return a ring of the graph, None when it has none."""
    done: set[str] = set()

    def visit(node: str, path: tuple[str, ...]) -> str | None:
        if node in path:
            return " → ".join((*path[path.index(node) :], node))
        if node in done or node not in graph:
            return None
        found = next((ring for other in sorted(graph[node]) if (ring := visit(other, (*path, node)))), None)
        done.add(node)
        return found

    return next((ring for node in graph if (ring := visit(node, ()))), None)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# Budgets. A list that the kernel or the API wrote is as long as theirs; the others below are to get shorter.
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
MOST_METHODS = 12
MOST_PARAMETERS = 6
METHODS = {
    "Operations": 28,  # one for each call of the kernel
    "Store": 13,  # one for each call of the API, as have the stores that do it all themselves
    "RestStore": 13,
    "SqliteStore": 13,
    "Controls": 13,  # one for each request of the command line
}
PARAMETERS: dict[str, int] = {}


def classes() -> Iterator[ast.ClassDef]:
    for file in FILES:
        yield from (node for node in tree_of(file).body if isinstance(node, ast.ClassDef))


def test_classes_stay_small() -> None:
    """A class has at most so many public methods; those that have more are named, and have no more than named."""
    counts = {
        node.name: len({m.name for m in node.body if isinstance(m, FUNCTIONS) and not m.name.startswith("_")})
        for node in classes()
    }
    assert {name: count for name, count in counts.items() if count > MOST_METHODS} == METHODS


def test_constructors_take_few_parameters() -> None:
    """A class that needs many parts is several classes; those that take more are named."""
    counts = {
        node.name: len(method.args.args) - 1 + len(method.args.kwonlyargs)
        for node in classes()
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
    }
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == PARAMETERS


def test_a_name_has_one_owner() -> None:
    """No public class or alias has the name of another, so that a reader need not ask which is meant."""
    owners: dict[str, list[str]] = {}
    for file in FILES:
        for node in tree_of(file).body:
            named = node.name if isinstance(node, ast.ClassDef) else ""
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                named = node.targets[0].id
            if re.fullmatch("[A-Z][A-Za-z]*[a-z][A-Za-z]*", named):
                owners.setdefault(named, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}


def test_a_file_name_occurs_once() -> None:
    """No two files have one name, but for a command of `cli`, whose file is called after it."""
    names: dict[str, list[str]] = {}
    for file in FILES:
        if file.parent.name != "cli" and not file.name.startswith("__"):
            names.setdefault(file.name, []).append(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in names.items() if len(files) > 1} == {}


RIDDLES = re.compile(
    r"(What|Whatever|Whether|Who|Whose|Whoever|Whom|The same|Those|Of|How|However|Where|Which|When|As"
    r"|And|But|Nor|Or|So|Also|Not) "
)


Defined = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@pytest.mark.parametrize("root", [PACKAGE, ROOT / "tests"], ids=lambda root: root.name)
def test_docstrings_begin_with_a_subject_or_a_verb(root: Path) -> None:
    """A docstring that begins with `What` or `The same` sends its reader to the code, which it should spare."""
    found = [
        f"{file.relative_to(root)}: {text.splitlines()[0]}"
        for file in sorted(root.rglob("*.py"))
        for node in definitions(tree_of(file))
        if RIDDLES.match(text := ast.get_docstring(node) or "")
    ]
    assert found == []


MURKY = re.compile(
    r"(?:^|\s)#:? (what|whatever|whether|who|whose|whoever|which|the same|those)\b", re.IGNORECASE
)


@pytest.mark.parametrize("root", [PACKAGE, ROOT / "tests"], ids=lambda root: root.name)
def test_comments_begin_with_a_subject_or_a_verb(root: Path) -> None:
    """A comment follows the rule of docstrings, because it is read alone, beside one line."""
    found = [
        f"{file.relative_to(root)}:{number}: {line.strip()}"
        for file in sorted(root.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if MURKY.search(line)
    ]
    assert found == []


def definitions(node: ast.AST) -> Iterator[Defined]:
    """Yield the module, its classes and functions, nested ones too, without a look into expressions."""
    if isinstance(node, Defined):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from definitions(child)
