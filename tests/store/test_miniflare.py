"""The state of `wrangler dev` on disk: read and written in its own format, while other processes have it open."""

import os
import sqlite3

import pytest
import trio

from kvfs.core.errors import FixedNamespacesError, NamespaceNotFoundError, RejectedError, UnavailableError
from kvfs.core.model import Entry, Key, KeyInfo, Namespace, NamespaceId
from kvfs.store.miniflare import database, dev, layout
from kvfs.store.miniflare.sqlite_files import DiskStore

ID = NamespaceId("b" * 32)
NOW = 1_700_000_000


@pytest.fixture
def store(tmp_path):
    """A store of one namespace, in an empty state directory."""
    store = DiskStore(tmp_path, lambda: [Namespace(ID, "CONFIG")], now=lambda: NOW)
    yield store
    store.close()


def blobs(state):
    """Return the files of the namespace's values."""
    return sorted(layout.blob_directory(state, ID).iterdir())


def test_the_file_of_a_namespace_is_named_as_workerd_names_it(tmp_path):
    """A namespace's file has the name that workerd gives it, as in the state of wrangler 4.164 and 4.86."""
    name = "aa1dc38a4238f56a8ac52f2f40904fb460614bbf35249e120c5732c1545a5a44.sqlite"
    assert layout.database_file(tmp_path, ID) == tmp_path / "v3/kv/miniflare-KVNamespaceObject" / name


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        ("abc", "abc"),
        ("a:b", "a_b"),
        ("..", "__"),
        ("a/../b", "a____b"),
        ("con", "_"),
        (" a ", "_a_"),
        ("x" * 300, "x" * 255),
    ],
)
def test_an_id_becomes_a_file_name_as_miniflare_makes_it(unsafe, safe):
    """An id becomes a file name as in miniflare, and never leads out of the directory of all namespaces."""
    assert layout.sanitised(unsafe) == safe


async def test_what_is_put_is_read_back(store):
    """An entry is read back with a binary value, metadata byte for byte, and its expiration in seconds."""
    entries = {
        Key("bin"): Entry(b"\x00\xff"),
        Key("é/\U0001f600"): Entry(b"x", b'{"a": 1}', NOW + 60),
        Key("empty"): Entry(b""),
    }
    await store.bulk_put(ID, entries)
    assert await store.bulk_get(ID, [*entries, Key("none")]) == {**entries, Key("none"): None}
    page = await store.list_keys(ID)
    assert page.keys == (
        KeyInfo(Key("bin")),
        KeyInfo(Key("empty")),
        KeyInfo(Key("é/\U0001f600"), b'{"a": 1}', NOW + 60),
    )
    assert await store.get_metadata(ID, Key("é/\U0001f600")) == b'{"a": 1}'


async def test_pages_follow_each_other(store):
    """Pages follow each other in UTF-8 order, below a prefix, with each key once."""
    keys = [Key(f"p/{number:03}") for number in range(25)]
    await store.bulk_put(ID, {key: Entry(b"") for key in [*keys, Key("o"), Key("q")]})
    found, cursor = [], None
    while True:
        page = await store.list_keys(ID, prefix="p/", cursor=cursor, limit=10)
        found += [info.key for info in page.keys]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == keys


async def test_an_overwritten_value_leaves_no_file_behind(store, tmp_path):
    """A value is one file, which goes when the value is overwritten or deleted."""
    await store.put(ID, Key("a"), Entry(b"1"))
    await store.put(ID, Key("a"), Entry(b"2"))
    assert [file.read_bytes() for file in blobs(tmp_path)] == [b"2"]
    await store.bulk_delete(ID, [Key("a"), Key("never")])
    assert blobs(tmp_path) == []
    assert await store.get(ID, Key("a")) is None


async def test_what_has_expired_is_not_there(store):
    """An expired key is absent, although miniflare keeps its row until somebody reads it."""
    await store.put(ID, Key("a"), Entry(b"1", None, NOW))
    assert await store.get(ID, Key("a")) is None
    assert (await store.list_keys(ID)).keys == ()


async def test_a_namespace_that_nobody_wrote_to_is_empty(store, tmp_path):
    """A namespace that nobody wrote to is empty, and reading makes no file."""
    assert await store.get(ID, Key("a")) is None
    assert (await store.list_keys(ID)).keys == ()
    await store.delete(ID, Key("a"))
    assert list(tmp_path.iterdir()) == []


async def test_a_database_that_workerd_has_just_made_is_empty(store, tmp_path):
    """A database that workerd has just made, without its table yet, is empty."""
    file = layout.database_file(tmp_path, ID)
    file.parent.mkdir(parents=True)
    sqlite3.connect(file).close()
    assert (await store.list_keys(ID)).keys == ()
    await store.put(ID, Key("a"), Entry(b"1"))
    assert (await store.get(ID, Key("a"))).value == b"1"


async def test_the_state_can_be_removed_meanwhile(store, tmp_path):
    """The state can be removed meanwhile, as by `rm -rf .wrangler/state`."""
    await store.put(ID, Key("a"), Entry(b"1"))
    (tmp_path / "v3").rename(tmp_path / "gone")
    assert await store.get(ID, Key("a")) is None
    await store.put(ID, Key("b"), Entry(b"2"))
    assert [info.key for info in (await store.list_keys(ID)).keys] == ["b"]


async def test_a_value_that_is_overwritten_while_it_is_read_is_read_again(store, tmp_path, monkeypatch):
    """If a value is overwritten between its row and its file, the row is read once more."""
    await store.put(ID, Key("a"), Entry(b"1"))
    find, seen = database.find, []

    def overtaken(db, keys, now_ms):
        rows = find(db, keys, now_ms)
        if not seen:
            seen.append(rows["a"].blob)
            other = database.connect(layout.database_file(tmp_path, ID))
            (layout.blob_directory(tmp_path, ID) / "b2").write_bytes(b"2")
            for blob in database.replace(other, [database.MiniflareRow("a", "b2", None, None)]):
                (layout.blob_directory(tmp_path, ID) / blob).unlink()
            other.close()
        return rows

    monkeypatch.setattr(database, "find", overtaken)
    assert (await store.get(ID, Key("a"))).value == b"2"


async def test_a_row_cannot_lead_out_of_the_directory(store, tmp_path):
    """A hostile blob id in a row never leads out of the directory."""
    await store.put(ID, Key("a"), Entry(b"1"))
    db = database.connect(layout.database_file(tmp_path, ID))
    database.replace(db, [database.MiniflareRow("a", "../../../etc/passwd", None, None)])
    db.close()
    with pytest.raises(UnavailableError, match="is no value"):
        await store.get(ID, Key("a"))


async def test_namespaces_are_those_of_the_bindings(store):
    """Namespaces are those of the bindings, and a refusal to make, rename or delete one says where to do it."""
    assert await store.list_namespaces() == [Namespace(ID, "CONFIG")]
    for refused in (
        store.create_namespace("x"),
        store.rename_namespace(ID, "x"),
        store.delete_namespace(ID),
    ):
        with pytest.raises(FixedNamespacesError, match="edit kv_namespaces"):
            await refused
    with pytest.raises(NamespaceNotFoundError):
        await store.put(NamespaceId("e" * 32), Key("a"), Entry(b""))


@pytest.mark.parametrize("key", ["", ".", "..", "k" * 513])
async def test_keys_that_kv_forbids_are_refused(store, key):
    """Keys that KV forbids are refused, although miniflare would take some of them."""
    with pytest.raises(RejectedError):
        await store.put(ID, Key(key), Entry(b""))


async def test_a_lock_held_for_long_is_unavailable(store, tmp_path, monkeypatch):
    """A lock held for long makes the store unavailable, so the sender tries again and nothing is lost."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    await store.put(ID, Key("a"), Entry(b"1"))
    other = sqlite3.connect(layout.database_file(tmp_path, ID), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.close()
    with pytest.raises(UnavailableError, match="locked"):
        await store.put(ID, Key("a"), Entry(b"2"))
    other.execute("ROLLBACK")
    other.close()
    assert (await store.get(ID, Key("a"))).value == b"1"


async def test_nobody_uses_a_state_that_is_only_on_disk(tmp_path):
    """A state that is only on disk, without its file or without a lock on it, has no owner."""
    assert dev.owner_of(tmp_path) is None
    file = layout.kv_directory(tmp_path) / layout.OBJECTS / "metadata.sqlite"
    file.parent.mkdir(parents=True)
    file.touch()
    assert dev.owner_of(tmp_path) is None


async def test_the_ports_of_a_process_are_found():
    """The ports on which a process listens are found, and no others."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    assert f"http://127.0.0.1:{port}" in list(dev.origins_of(os.getpid()))
    await listeners[0].aclose()
    assert f"http://127.0.0.1:{port}" not in list(dev.origins_of(os.getpid()))
