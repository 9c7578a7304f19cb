"""No sentence that a user reads first has more than thirty words."""

import pytest
from support.mounted import REPOSITORY
from support.sentences import of_help, of_page, of_text, words
from test_docs import COMMANDS

MOST = 30
DOCS = REPOSITORY / "docs"
NAMES = ("tutorial", "troubleshooting", "usage", "operating", "README")
PAGES = [REPOSITORY / "README.md", *(DOCS / f"{name}.md" for name in NAMES)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_page_has_short_sentences(page) -> None:
    """No sentence of a page has more than thirty words.

    A cell of a table counts as a sentence, a piece of code as a word.
    """
    assert [sentence for sentence in of_page(page) if words(sentence) > MOST] == []


@pytest.mark.parametrize("path", COMMANDS)
def test_help_has_short_sentences(path: str) -> None:
    """No sentence in the help of a command, its options and its end has more than thirty words."""
    assert [sentence for sentence in of_help(COMMANDS[path]) if words(sentence) > MOST] == []


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("One two. Three four five.", [2, 3]),
        ("It takes `kvfs mount -o a,b`, and ends.", [5]),
        ("A file (1.5 MiB) is here.", [6]),
        ("one · two three", [1, 2]),
    ],
)
def test_sentences_are_told_apart(text: str, counts: list[int]) -> None:
    """A point ends a sentence, and a point in a number does not."""
    assert [words(sentence) for sentence in of_text(text)] == counts
