"""`--help` of every command on a screen of 80 columns: groups, whole summaries, examples that parse, variables."""

import shlex
from collections.abc import Iterator

import click
import pytest

from kvfs.cli import cli
from kvfs.cli.helping import EXAMPLES, SUMMARIES
from kvfs.cli.mount import MountCommand, mount

WIDTH = 80


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Return the contexts of every command that people call."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield from contexts(
                    click.Context(command, info_name=name, parent=context, terminal_width=WIDTH)
                )


ALL = {one.command_path: one for one in contexts(click.Context(cli, info_name="kvfs", terminal_width=WIDTH))}


@pytest.mark.parametrize("path", ALL)
def test_nothing_is_cut_off_and_nothing_runs_over(path: str) -> None:
    """No summary ends in dots, no line is wider than the screen, and each command begins with what it does."""
    text = ALL[path].get_help()
    assert "..." not in text.replace("]...", "").replace("[ARGS]...", "")
    assert [line for line in text.splitlines() if len(line) > WIDTH and "http" not in line] == []
    assert ALL[path].command.help


def test_commands_and_options_come_in_groups() -> None:
    """`kvfs` groups its commands by purpose, `kvfs mount` its options by subject, and none is left without a group."""
    text = ALL["kvfs"].get_help()
    for title in SUMMARIES:
        assert f"\n{title}:\n" in text or title == "Undo"
    text = ALL["kvfs mount"].get_help()
    for title in MountCommand.sections:
        assert f"\n{title}:\n" in text
    others = text.partition("Other options:\n")[2].split("\n\n")[0]
    assert others.split()[-6:] == ["--help", "Show", "this", "message", "and", "exit."]
    assert others.count("\n") == 0


def test_the_summaries_are_those_of_the_commands() -> None:
    """The summaries of `kvfs --help` are the commands' own, though the help loads no command."""
    own = {
        path.removeprefix("kvfs "): context.command.get_short_help_str(1000)
        for path, context in ALL.items()
        if path.count(" ") == 1
    }
    assert {name: text for names in SUMMARIES.values() for name, text in names.items()} == own


def test_options_name_their_variables() -> None:
    """The help names the variable of each option, so that nobody needs another page to find it."""
    text = ALL["kvfs mount"].get_help()
    wanted = [option.envvar for option in mount.params if isinstance(option, click.Option) and option.envvar]
    assert len(wanted) > 20
    assert [variable for variable in wanted if str(variable) not in " ".join(text.split())] == []


EXAMPLE_LINES = [line for lines in EXAMPLES.values() for line in lines]


@pytest.mark.parametrize("line", EXAMPLE_LINES)
def test_an_example_parses(line: str) -> None:
    """Commands, options and the number of arguments are right."""
    words = shlex.split(line, comments=True)
    assert words[0] == "kvfs"
    command: click.Command = cli
    context, rest = click.Context(cli, info_name="kvfs"), words[1:]
    while isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
    with command.make_context(command.name, rest, parent=context):
        pass


def test_every_command_has_examples() -> None:
    """Every command has examples, and no example is of a command that is gone."""
    paths = {path.removeprefix("kvfs").strip() for path in ALL}
    assert EXAMPLES.keys() - paths == set()
    own = {path for path in paths if f"kvfs {path}" in (ALL[f"kvfs {path}".strip()].command.help or "")}
    assert paths - EXAMPLES.keys() - own == set()
