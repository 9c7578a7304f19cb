"""The documentation knows every word a user can type or see, and its links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kvfs.cli import cli
from kvfs.cli.exits import Exit
from kvfs.core.xattrs import COMPUTED, WHOLE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
USAGE = (DOCS / "usage.md").read_text()
OTHERS = {"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"}  # read by way of a library, or as a path


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:  # called by mount(8), not by people
            continue
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict(commands(cli, "kvfs"))
OPTIONS = [
    (path, option)
    for path, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.hidden
]


def section_of(path: str) -> str:
    """Return the section of usage.md under the heading of a command."""
    found = re.search(rf"^## `{re.escape(path)}\b.*?(?=^## |\Z)", USAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/usage.md has no heading for {path}"
    return found[0]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_a_section(path: str) -> None:
    """Every `kvfs COMMAND` is a heading of docs/usage.md."""
    assert section_of(path)


@pytest.mark.parametrize(("path", "option"), OPTIONS, ids=[f"{path} {o.opts[-1]}" for path, o in OPTIONS])
def test_every_flag_is_documented_where_its_command_is(path: str, option: click.Option) -> None:
    """All spellings of a flag, and the environment variable that stands for it, are in the section."""
    section = section_of(path)
    for spelling in option.opts:
        assert f"`{spelling}" in section or f", {spelling}" in section
    if isinstance(option.envvar, str):
        assert option.envvar in USAGE


def table_of(path: str) -> list[tuple[dict[str, str], list[str]]]:
    """The rows of a command's table of options: each spelling with its metavar, and the cells behind it."""
    head = "| option | variable | default | |"
    rows = []
    for line in section_of(path).partition(head)[2].strip().splitlines()[1:]:
        if not line.startswith("|"):
            break
        first, *others = _cells(line)
        rows.append(
            (
                dict(re.findall(r"`(--?[a-zA-Z0-9][a-z-]*)`(?: (?!`)([^,`]\S*?))?(?=,? `|,? *$)", first)),
                others,
            )
        )
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def metavar_of(option: click.Option) -> str:
    """The name of an option's value in the documentation; "" for a switch."""
    if option.is_flag:
        return ""
    known = {"choice": "WORD", "integer range": "NUMBER", "PATH": "PATH"}
    return option.metavar or known.get(option.type.name, "TEXT")


WITH_TABLES = [path for path in dict.fromkeys(path for path, _ in OPTIONS) if table_of(path)]


@pytest.mark.parametrize("path", WITH_TABLES)
def test_the_table_of_a_command_has_exactly_its_options(path: str) -> None:
    """Each option is there, with the name of its value, its variable and its default, and no other is."""
    known = {
        spelling: option
        for place, option in OPTIONS
        if place == path
        for spelling in (*option.opts, *option.secondary_opts)
    }
    rows = table_of(path)
    assert {spelling for named, _ in rows for spelling in named} == known.keys()
    for named, cells in rows:
        options = {known[spelling] for spelling in named}
        for spelling, metavar in named.items():
            if spelling.startswith("--"):
                assert metavar == metavar_of(known[spelling]), spelling
        if len(options) == 1:
            (option,) = options
            assert cells[0].strip("`") == (option.envvar or "")
            if option.default and option.show_default:
                assert cells[1] == f"`{option.default}`"


def test_every_command_with_options_has_a_table() -> None:
    """Each command has a table, but for two that take the options of another and say so."""
    assert {path for path, _ in OPTIONS} - {*WITH_TABLES} == {"kvfs export", "kvfs import"}


def test_every_documented_flag_exists() -> None:
    """The pages name no flag that is gone."""
    known = {word for _, option in OPTIONS for word in (*option.opts, *option.secondary_opts)}
    known |= {"--help", "--version"}
    foreign = {"--device", "--cap-add", "--listen", "--faults"} | {
        "--xattrs",
        "--only-values",
        "--persist-to",
        "--now",
        "--user",
    }
    for page in PAGES:
        for line in page.read_text().splitlines():
            if "kvfs" in line or line.startswith("| `--"):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", line))
                assert named <= known | foreign, f"{page.name}: {line}"


def test_every_environment_variable_is_documented() -> None:
    """Every variable that the code reads from the environment is in docs/usage.md."""
    sources = "".join(file.read_text() for file in (ROOT / "kvfs").rglob("*.py"))
    read = set(re.findall(r"""["'](?:environ\.)?((?:KVFS|CLOUDFLARE|XDG)_[A-Z_]*[A-Z])["']""", sources))
    for name in sorted(read | OTHERS):
        assert f"`{name}`" in USAGE, name


@pytest.mark.parametrize("name", [WHOLE, *COMPUTED])
def test_every_extended_attribute_is_documented(name: str) -> None:
    """The attributes that kvfs itself answers are in docs/usage.md."""
    assert f"`{name}`" in USAGE


@pytest.mark.parametrize("status", Exit)
def test_every_exit_status_is_documented(status: Exit) -> None:
    """Every exit status is documented, because scripts rely on them."""
    assert re.search(rf"^\| {int(status)} +\|", USAGE, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file that exists, and a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors_of(file.read_text()), target


def anchors_of(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_opens_with_a_sentence_and_the_two_commands() -> None:
    """The README says within ten lines what the project is and how to start it."""
    opening = "\n".join((ROOT / "README.md").read_text().splitlines()[:14])
    assert "./scripts/run" in opening
    assert "./scripts/test" in opening


def test_the_index_has_every_page() -> None:
    """The index links to each page of docs, and to those of the benchmarks."""
    index = (DOCS / "README.md").read_text()
    names = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()


def test_no_page_names_a_package_registry_or_a_token() -> None:
    """No page names a package registry or a token, because mirrors differ and examples are copied."""
    for page in PAGES:
        assert not re.search(r"pypi\.org|deb\.debian|registry\.npmjs", page.read_text())
