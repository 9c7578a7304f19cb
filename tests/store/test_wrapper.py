"""A wrapper of a store passes on every operation that a store has."""

from kvfs.store.base import Store
from kvfs.store.wrapper import Around


def test_every_operation_of_a_store_is_passed_on():
    """A forgotten operation would do nothing and return None, because the methods of a protocol are empty."""
    operations = {
        name for name, member in vars(Store).items() if callable(member) and not name.startswith("_")
    }
    assert len(operations) >= 13
    assert operations - vars(Around).keys() == set()
