"""Noting: which writes of a command a mount may be told of."""

import pytest
from support.faults import FaultStore
from support.inline import open_inline

from kvfs.core.errors import StoreError
from kvfs.core.model import Entry, Key
from kvfs.store.noting import Noting

A, B = Key("a"), Key("b")
OLD, NEW = Entry(b"old"), Entry(b"new")


@pytest.fixture
async def noting(tmp_path):
    """Yield it around a store with faults, `noting.faults`, which has the namespace `noting.namespace`."""
    with open_inline(tmp_path / "store.db") as backend:
        faults = FaultStore(backend)
        noting = Noting(faults, lambda: 17.0)
        noting.faults, noting.namespace = faults, (await backend.create_namespace("ns")).id
        yield noting


def noted(noting):
    """Return the noted entries by key."""
    return {key: write.entry for (_, key), write in noting.writes.items()}


async def test_the_last_write_of_a_key_is_noted(noting):
    """A put, a deletion, or one of a bulk; a key that the store wants again is not written."""
    await noting.put(noting.namespace, A, OLD)
    await noting.bulk_put(noting.namespace, {A: NEW, B: OLD})
    assert noted(noting) == {A: NEW, B: OLD}
    await noting.delete(noting.namespace, A)
    assert noted(noting) == {A: None, B: OLD}
    noting.faults.torn()
    await noting.bulk_put(noting.namespace, {A: NEW, B: NEW})
    assert noted(noting) == {A: NEW}


@pytest.mark.parametrize("fault", ["fail", "lost_ack"])
async def test_a_key_whose_last_write_failed_is_not_noted(noting, fault):
    """Nobody knows which value the store has, so a mount must not be told that it is the first."""
    await noting.put(noting.namespace, A, OLD)
    getattr(noting.faults, fault)("bulk_put")
    with pytest.raises(StoreError):
        await noting.bulk_put(noting.namespace, {A: NEW, B: NEW})
    assert noted(noting) == {}
