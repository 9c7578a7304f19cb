"""Sentences of a page and of `--help`, to see how long they are. A cell of a table is one; code counts as a word."""

import re
from collections.abc import Iterator
from pathlib import Path

import click

_END = re.compile(r"(?<=[.!?])[”\")]*\s+(?=[A-Z“`…(0-9]|kvfs )| · ")


def of_page(path: Path) -> Iterator[str]:
    """Return every sentence of a Markdown page, without blocks of code and pictures."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n", text):
        for piece in _pieces(block):
            yield from of_text(piece)


def of_text(text: str) -> Iterator[str]:
    """Return every sentence of plain text."""
    plain = re.sub(r"``.+?``|`[^`]*`", "CODE", " ".join(text.split()))
    yield from (sentence for sentence in _END.split(plain) if sentence.strip())


def of_help(command: click.Command) -> Iterator[str]:
    """Return every sentence in the `--help` of one command."""
    texts = [command.help, command.short_help, command.epilog]
    texts += [parameter.help for parameter in command.params if isinstance(parameter, click.Option)]
    for text in filter(None, texts):
        for paragraph in re.split(r"\n\s*\n", text.replace("\b", "")):
            yield from (sentence for line in _lines(paragraph) for sentence in of_text(line))


def _lines(paragraph: str) -> list[str]:
    """Return the text as lines for examples, and as a whole for prose."""
    is_example = all(
        re.match(r"\s*((sudo )?kvfs|\$|[A-Z]+ {2,}|\w+ {2,})", line) for line in paragraph.splitlines()
    )
    return [] if is_example else [paragraph]


def _pieces(block: str) -> Iterator[str]:
    """Return cells, items of lists, headings, or the block itself."""
    if block.lstrip().startswith("|"):
        for line in block.splitlines():
            yield from re.split(r"(?<!\\)\|", line)
    else:
        yield from re.split(r"\n(?=\s*(?:[-*] |\d+\. |#))", block)


def words(sentence: str) -> int:
    """Return the number of words."""
    return len(re.findall(r"[\w\u2019'/.-]*\w[\w\u2019'/.-]*", sentence))
