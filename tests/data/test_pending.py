"""Pending changes over a store, without a mount: pages that meet, and values that are read from files."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from support.moves import fill_store

from kvfs.core.model import Entry, Key
from kvfs.data.overlaid import PendingChange, PendingStore
from kvfs.store.embedded.sqlite_store import open_sqlite

KEYS = st.sampled_from([f"k{number:02}" for number in range(30)])


@given(
    stored=st.sets(KEYS),
    changed=st.dictionaries(KEYS, st.booleans()),
    limit=st.integers(1, 7),
    prefix=st.sampled_from(["", "k0", "k1"]),
)
def test_the_pages_together_are_the_truth(stored, changed, limit, prefix, tmp_path_factory):
    """Each key is there once, in order, and deleted keys are not, wherever the pages end."""

    async def work():
        async with open_sqlite(tmp_path_factory.mktemp("s") / "s.sqlite") as store:
            await fill_store(store, "n", {Key(key): Entry(b"") for key in stored})
            [namespace] = await store.list_namespaces()
            changes = [PendingChange(Key(key), key, deleted) for key, deleted in changed.items()]
            over = PendingStore(store, namespace.id, changes, lambda path: path.encode())
            found, cursor = [], None
            while True:
                page = await over.list_keys(namespace.id, prefix=prefix, cursor=cursor, limit=limit)
                found += [line.key for line in page.keys]
                cursor = page.cursor
                if cursor is None:
                    break
            values = await over.bulk_get(namespace.id, [Key(key) for key in found]) if found else {}
            return found, {key for key, entry in values.items() if entry and entry.value}

    found, from_files = trio.run(work)
    there = (stored - changed.keys()) | {key for key, deleted in changed.items() if not deleted}
    assert found == sorted(key for key in there if key.startswith(prefix))
    assert from_files == {key for key in found if key in changed}
