"""Every console of the pages is run, and a page with anything that would not be run fails."""

from pathlib import Path

import pytest
from support.consoles import fails, matches
from support.mounted import REPOSITORY
from support.pages import Session, parse, read_page
from support.standing import Standing

pytestmark = pytest.mark.fuse

DOCS = REPOSITORY / "docs"
PAGES = {name: read_page(DOCS / name) for name in ("semantics.md", "compatibility.md")}
SESSIONS = [session for page in PAGES.values() for session in page.sessions]
PROSE = {
    "semantics.md": {"Semantics", "Tenets", "Each call"},
    "compatibility.md": {"Compatibility", "What is assumed of writes", "The API"},
}
"""Sections that only introduce others, or tell of the API alone; all others show what they say."""


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: str(session.place))
def test_a_console_prints_what_the_page_says(session: Session, world: Standing, tmp_path: Path) -> None:
    """Each command of a console prints what the page says, in a namespace of its own."""
    difference = fails(session, world, tmp_path)
    assert difference is None, f"{session.place}\n{difference}"


@pytest.mark.parametrize("name", PAGES)
def test_every_example_is_run(name: str) -> None:
    """No page has a block in another language, a row or table without an example, or a section without one."""
    page = PAGES[name]
    assert page.complaints == []
    unshown = [heading for heading in page.headings if not page.is_shown(heading)]
    assert set(unshown) == PROSE[name]
    text = (DOCS / name).read_text()
    assert text.count("\n$ ") == sum(len(session.steps) for session in page.sessions)
    assert text.count("\n```console\n") == len(page.sessions)


# the runner itself


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```sh\nls\n```", "nobody runs a block of sh"),
        ("```\nls\n```", "nobody runs a block of no language"),
        ("    kvfs mount\n", "code by indentation"),
        ("```console\nls\n```", "does not start with a command"),
        ("```console\n```", "the block is empty"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "no column `example`"),
        ("| a | example |\n|---|---|\n| 1 | see below |", "the row has no example"),
        ("| a | example |\n|---|---|\n| 1 |", "the row has no example"),
        ("| a | example |\n|---|---|\n| 1 | `stat('f')` → 3 |", "the row has no example"),
    ],
)
def test_what_would_not_be_run_is_a_complaint(text: str, complaint: str) -> None:
    """Text that looks like an example in a form that the runner does not know is a complaint."""
    assert [complaint in said for said in parse("page.md", text).complaints] == [True]


@pytest.mark.parametrize(
    ("block", "differs"),
    [
        ("$ echo hello > f\n$ cat f\nhello", False),
        ("$ echo hello > f\n$ cat f\nhullo", True),
        ("$ echo hello > f\n$ cat f", True),
        ("$ echo hello\nhello\nworld", True),
        ("$ test -e f", True),
        ("$ cat f\ncat: f: No such …", False),
        ("$ seq 9\n1\n…\n9", False),
        ("$ seq 9\n1\n…\n8", True),
        ("$ exit 0", True),
        ("$ echo x > f; kvfs sync\n$ api get f\nx", False),
        ("$ echo x > f\n$ api list\nf", True),
    ],
)
def test_an_altered_console_is_noticed(block: str, differs: bool, world: Standing, tmp_path: Path) -> None:
    """A wrong line, a missing one, one too many, and a failure without a message are each noticed."""
    page = parse("page.md", f"```console\n{block}\n```")
    assert (fails(page.sessions[0], world, tmp_path) is not None) == differs


def test_an_ellipsis_is_anything() -> None:
    """An ellipsis matches any text within a line, and any number of lines alone; nothing else does."""
    assert matches(["a…c"], ["abbc"])
    assert matches(["…"], [])
    assert matches(["…"], ["one", "two"])
    assert not matches(["a.c"], ["abc"])
    assert not matches([], ["x"])
