"""The table of codes: the meaning of each, and that there is one table only."""

import tokenize
from pathlib import Path

import pytest

import kvfs
from kvfs.store import codes
from kvfs.store.codes import Meaning

CONTENT = (10012, 10019, 10022, 10024, 10029, 10030, 10033, 10034, 10047, 10147)
NAMESPACE = (10010, 10011, 10013, 10018, 10021, 10035, 10038)
TOKEN = (6003, 6111, 9103, 9106, 9109, 10502)


@pytest.mark.parametrize(
    ("listed", "meaning"),
    [
        (CONTENT, Meaning.CONTENT),
        (NAMESPACE, Meaning.NAMESPACE),
        (TOKEN, Meaning.TOKEN),
        ((10017, 10026), Meaning.ACCOUNT),
        ((10037,), Meaning.PERMISSION),
        ((10048,), Meaning.QUOTA),
        ((0, 5, 10002, 10036, 10100, 4711), Meaning.UNKNOWN),
    ],
)
def test_each_code_has_the_meaning_of_the_public_record(listed, meaning):
    """A code of content sets a change aside, the others make everything wait, and an unknown code says nothing."""
    assert {codes.meaning(code, 400) for code in listed} == {meaning}


@pytest.mark.parametrize("code", [10000, 10001])
def test_a_passing_code_is_about_the_token_only_with_401_and_403(code):
    """10001 concerns the token only with 401 and 403: wrangler's explorer sends it with 400 for bad requests."""
    assert codes.meaning(code, 401) is codes.meaning(code, 403) is Meaning.TOKEN
    assert codes.meaning(code, 400) is codes.meaning(code, 405) is Meaning.UNKNOWN


def test_a_code_with_two_meanings_is_told_by_its_text():
    """The text of code 1000 tells "Invalid API Token" from "Internal Server Error"."""
    assert codes.meaning(1000, 400, "Invalid API Token") is Meaning.TOKEN
    assert codes.meaning(1000, 500, "Internal Server Error") is Meaning.UNKNOWN


def test_no_other_file_writes_a_code_as_a_number():
    """No other file writes a code as a number, because two tables would differ one day."""
    root = Path(kvfs.__file__).parent
    written = {str(code) for code in codes.MEANINGS}  # 10_000 is a number of something else
    guilty = []
    for file in root.rglob("*.py"):
        with file.open("rb") as source:
            tokens = [t for t in tokenize.tokenize(source.readline) if t.type == tokenize.NUMBER]
        guilty += [f"{file.relative_to(root)}:{t.start[0]}" for t in tokens if t.string in written]
    # error_answers.py has the words that the API says with them
    assert {line.partition(":")[0] for line in guilty} == {"store/codes.py", "server/error_answers.py"}, (
        guilty
    )
