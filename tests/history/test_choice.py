"""The choice of the version to restore: tables over the changes of a key, and of the files of a directory."""

import pytest

from kvfs.core.model import How, Key, NamespaceId
from kvfs.history.restore_choice import TOGETHER, as_of, last_deletion
from kvfs.history.version import Version


def version(at: float, how: How = How.WRITE, since: float | None = None) -> Version:
    return Version(at, NamespaceId("n"), Key("k"), how, since=since)


W10, W20 = version(10), version(20)
READ = version(30)
MADE_AT_15 = version(20, since=15)
GONE = version(12, How.DELETE)
AGAIN = version(30, How.DELETE, since=25)


@pytest.mark.parametrize(
    ("versions", "moment", "expected"),
    [
        ([W10, W20], 5, W10),
        ([W10, W20], 15, W20),
        ([W10, W20], 25, None),  # it is what it is now
        ([W10, W20], 20, None),  # at the very moment it was replaced
        ([READ], 5, READ),  # nobody knows since when it was that: it was read
        ([MADE_AT_15], 10, None),  # it was not there
        ([MADE_AT_15], 16, MADE_AT_15),
        ([GONE, AGAIN], 20, None),  # deleted, and not made anew yet
        ([GONE, AGAIN], 26, AGAIN),
        ([W10, MADE_AT_15], 12, MADE_AT_15),  # the one between is not kept: the next is the nearest
        ([], 5, None),
    ],
)
def test_what_a_key_was_at_a_moment(versions, moment, expected) -> None:
    """A key at a moment was the first version that was replaced after it, if that existed by then."""
    assert as_of(versions, moment) is expected


def test_the_last_deletion_is_one_rm_however_long_it_took() -> None:
    """The last deletion is one rm, however long. Files deleted over a minute earlier, or made anew since, stay."""
    keys = {f"{number}": [version(1000 + number * 0.9 * TOGETHER, How.DELETE)] for number in range(5)}
    keys["before"] = [version(900, How.DELETE)]
    keys["changed"] = [version(1001, How.DELETE), version(1100)]
    keys["renamed"] = [version(1001, How.RENAME)]
    found = last_deletion(keys)
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    assert found["3"] is keys["3"][-1]
    assert last_deletion({"k": [version(1)]}) == {}
