"""Every command line of every page is one that kvfs understands."""

from contextlib import redirect_stdout
from io import StringIO

import click
import pytest
from support.command_lines import CommandLine, command_lines
from support.mounted import REPOSITORY

from kvfs.cli import cli

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def _complaint(words: tuple[str, ...], is_mention: bool = False) -> str | None:
    """Return the complaint of the command line about the words, or None. Nothing is run: they are only parsed."""
    command, context, rest = cli, click.Context(cli), list(words)
    try:
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            _, command, rest = command.resolve_command(context, rest)
            context = click.Context(command, parent=context, info_name=command.name)
        with redirect_stdout(StringIO()), command.make_context(command.name, rest, parent=context.parent):
            return None
    except click.exceptions.Exit:  # --help and --version
        return None
    except click.UsageError as exc:
        if is_mention and (
            isinstance(exc, click.MissingParameter) or "requires an argument" in exc.format_message()
        ):
            return None
        return None if "does not exist" in exc.format_message() else exc.format_message()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_shows_commands_that_parse(page) -> None:
    """Every command of a page parses, with options, values and number of arguments, in blocks and within sentences."""
    complaints = [
        f"{line.place}: kvfs {' '.join(line.words)}: {said}"
        for line in command_lines(page)
        if (said := _complaint(line.words, line.is_mention)) is not None
    ]
    assert complaints == []


def test_the_lines_are_found(tmp_path) -> None:
    """Command lines are found in blocks of shell, after other words and within sentences, and nowhere else."""
    page = tmp_path / "page.md"
    block = "sudo .venv/bin/kvfs install && kvfs sync kv  # now\nx=$(kvfs cat a/b | wc -c)\necho kvfs"
    page.write_text(
        f"Type `kvfs umount DIR`, or `kvfs status [DIR]`.\n\n```sh\n{block}\n```\n\n"
        "```console\n$ kvfs status\nkvfs says this\n```\n\n```toml\nkvfs = 1\n```\n"
    )
    found = {line.words for line in command_lines(page)}
    assert found == {
        ("umount", "DIR"),
        ("status", "DIR"),
        ("install",),
        ("sync", "kv"),
        ("cat", "a/b"),
        ("status",),
    }
    assert CommandLine("page.md:10", ("status",)) in command_lines(page)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("status --jsonn", "No such option"),
        ("statsu", "No such command"),
        ("umount", "Missing argument"),
        ("umount a b", "unexpected extra argument"),
        ("mount local: kv --cache-ttl=soon", "soon"),
        ("umount kv", None),
        ("mount --help", None),
    ],
)
def test_a_wrong_line_is_noticed(words: str, says: str | None) -> None:
    """A wrong option, command, value or number of arguments is noticed."""
    complaint = _complaint(tuple(words.split()))
    assert (complaint is None) if says is None else (says in complaint)
