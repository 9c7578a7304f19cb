"""Every example in the tables of the pages is run: each row has one, and it answers what the row says."""

import pytest
from support.calls import outcome
from support.mounted import REPOSITORY
from support.pages import Row, parse, read_page
from support.standing import Standing

pytestmark = pytest.mark.fuse

PAGES = ("semantics.md", "compatibility.md")
ROWS = [row for name in PAGES for row in read_page(REPOSITORY / "docs" / name).rows]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.place))
def test_a_call_answers_what_the_table_says(row: Row, world: Standing) -> None:
    """The example of each row gives the value or the errno that stands beside it."""
    found, wanted = outcome(row, world)
    assert found == wanted, f"{row.place}: {row.code}"


# the runner itself


@pytest.mark.parametrize(
    ("cell", "agrees"),
    [
        ("`content('f')` → `b'hello'`", True),
        ("`content('f')` → `b'hullo'`", False),
        ("`rmdir('full')` → `ENOTEMPTY`", True),
        ("`rmdir('full')` → `ENOENT`", False),
        ("`rmdir('d')` → `ENOTEMPTY`", False),
        ("`rmdir('d')`", True),
        ("`rmdir('full')`", False),
    ],
)
def test_an_altered_row_is_noticed(cell: str, agrees: bool, world: Standing) -> None:
    """A wrong value, a wrong errno, an errno too many and one too few are each noticed."""
    found, wanted = outcome(parse("page.md", f"| a | example |\n|---|---|\n| 1 | {cell} |").rows[0], world)
    assert (found == wanted) == agrees
