"""docs/troubleshooting.md explains every message that a user can see, and none that is gone."""

import ast
import re
from collections import Counter
from functools import cache

import pytest
from support.messages import Entry, Message, entries, messages
from support.mounted import REPOSITORY

PACKAGE, PAGE = REPOSITORY / "kvfs", REPOSITORY / "docs" / "troubleshooting.md"
SHOWN = {message.text: message for message in messages(PACKAGE)}
OF_OTHERS = {
    "Transport endpoint is not connected", "File too large", "File name too long", "No space left on device",
    "Invalid or incomplete multibyte or wide character", "Invalid argument", "Permission denied",
    "Disk quota exceeded", "Connection timed out", "Input/output error", "Operation not permitted",
    "Directory not empty", "touch", "rsync -a", "cp -p", "ls -l", "ln", "rmdir", "kvfs status",
}  # fmt: skip
"""The words of errno, and the programs that they come from."""
ANSWERS_OF_SERVE = "server/"
"""What `kvfs serve` answers to its clients are the API's own words, with the API's codes."""
MALFORMED = "MalformedError"
"""These say what is wrong with a part of a file or an answer, and stand behind one of the messages that are listed."""


def _is_for_people(message: Message) -> bool:
    return not (message.kind == MALFORMED and message.place.startswith(ANSWERS_OF_SERVE))


def test_every_message_is_explained() -> None:
    """A row of the page has its words in the first column, so a search for them finds what to do."""
    missing = [
        f"kvfs/{message.place} can show: {text}"
        for text, message in SHOWN.items()
        if _is_for_people(message) and not any(entry.fits(text) for entry in entries(PAGE))
    ]
    assert not missing, (
        "add a row to docs/troubleshooting.md for each, its words in `code` in the first column, "
        "… for what is filled in:\n" + "\n".join(missing)
    )


def test_there_are_as_many_messages_as_it_seems() -> None:
    """The collector finds enough messages: errors, complaints and warnings are among them."""
    kinds = Counter(message.kind for message in SHOWN.values())
    assert kinds["UserError"] > 150
    assert kinds["complain"] > 10
    assert kinds["warning"] > 10
    assert len(SHOWN) > 400


@cache
def _words_of_the_code() -> str:
    """Return all texts of the package."""
    trees = (ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py")))
    found = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return re.sub(r"%(?:\.\d+)?[a-z]", "…", "\n".join(text for text in found if isinstance(text, str)))


def _is_gone(entry: Entry) -> bool:
    """Return True if neither the code nor the system says it any more."""
    if entry.text in OF_OTHERS or any(entry.fits(text) for text in SHOWN):
        return False
    pieces = [piece.strip() for piece in re.split("…|: ", entry.text) if len(piece.strip()) > 5]
    return not pieces or any(piece not in _words_of_the_code() for piece in pieces)


def test_no_explained_message_is_gone() -> None:
    """The page names words that the code has, or that the system says."""
    assert [f"line {entry.line}: {entry.text}" for entry in entries(PAGE) if _is_gone(entry)] == []


def test_no_message_has_two_rows() -> None:
    """No message has two rows, because two answers would sooner or later differ."""
    counted = Counter(entry.text for entry in entries(PAGE) if entry.text not in OF_OTHERS)
    assert [text for text, count in counted.items() if count > 1] == []


# the collector itself


@pytest.mark.parametrize(
    ("entry", "text", "fits"),
    [
        ("the token is not accepted", "the token is not accepted for …: …", True),
        ("the token", "…: the token is not accepted", True),
        ("token is", "the token is not accepted", False),
        ("… is gone", "… is gone", True),
        ("… is gone", "the file went", False),
        ("a … b", "a … c, … b", True),
        ("b … a", "a … b", False),
    ],
)
def test_an_entry_fits_what_has_its_pieces(entry: str, text: str, fits: bool) -> None:
    """An entry matches a message that has its pieces in order, with the first where a clause begins."""
    assert Entry(1, entry).fits(text) == fits
