"""The command lines of kvfs on a page, in blocks and within sentences, as lists of words for the real command line."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELLS = ("sh", "console", "bash")
_SPLIT = re.compile(r"\s*(?:&&|\|\||;|\|(?=\s)|<(?=[\s(])|>{1,2}|\d>&\d)\s*")
_BEFORE = re.compile(r"^(?:sudo|env|exec|eval|time|\w+=\S*|if|while|!|do|then)$")
_PLACES = {
    "NUMBER": "1",
    "SECONDS": "5",
    "TIME": "1h",
    "SIZE": "1M",
    "OCTAL": "022",
    "HOST:PORT": "127.0.0.1:1",
}
"""Words that stand for a value of a certain form."""


@dataclass(frozen=True)
class CommandLine:
    """The place of a command line, and its words after `kvfs`."""

    place: str
    words: tuple[str, ...]
    is_mention: bool = False
    """Within a sentence, where a command may be named without its arguments."""


def command_lines(path: Path) -> Iterator[CommandLine]:
    """Return all command lines of a page, in order."""
    text = path.read_text()
    for block in _BLOCK.finditer(text):
        if block[1] in _SHELLS:
            line = text.count("\n", 0, block.start()) + 2
            yield from _of_block(path.name, line, block[1], block[2])
    prose = _BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    for code in re.finditer(r"`(kvfs [^`]+)`", prose):
        line = prose.count("\n", 0, code.start()) + 1
        for words in _commands(_without_synopsis(" ".join(code[1].split()))):
            yield CommandLine(f"{path.name}:{line}", words, is_mention=True)


def _of_block(name: str, first: int, language: str, body: str) -> Iterator[CommandLine]:
    lines = body.replace("\\\n", "  ").splitlines()
    for number, line in enumerate(lines, start=first):
        if language == "console" and not re.match(r"[$>] ", line):
            continue
        for words in _commands(re.sub(r"^[$>] ", "", line)):
            yield CommandLine(f"{name}:{number}", words)


def _without_synopsis(text: str) -> str:
    """Return `kvfs status [DIR]` with the optional words, the first of `list|diff`, and without `…`."""
    text = text.replace("\\|", "|").replace("…", "")
    return re.sub(r"\b([a-z]+)(?:\|[a-z]+)+\b", r"\1", re.sub(r"[\[\]]", "", text))


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    """Return the words of each call of kvfs in a line of shell."""
    inner = re.findall(r"\$\(([^()]*)\)", line)
    for part in (
        part for each in (re.sub(r"\$\([^()]*\)", "X", line), *inner) for part in _SPLIT.split(each)
    ):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:
            continue
        while words and _BEFORE.match(words[0]):
            words.pop(0)
        if words and re.fullmatch(r"(?:\S*/)?kvfs", words[0]) and len(words) > 1:
            yield tuple(_PLACES.get(word, word) for word in words[1:] if word not in ("…", "&"))
