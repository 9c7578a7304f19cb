"""Our client and our server, over a real socket, with every operation and every kind of entry."""

import time

import httpcore
import pytest
import trio
from support.serving import served

from kvfs.core.errors import NamespaceNotFoundError, NotTextError, TitleExistsError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.patches import HTTPCORE_READS
from kvfs.store.rest.client import open_rest
from kvfs.store.rest.request import READ_BYTES, read_in_large_pieces

LATER = int(time.time()) + 3600

ENTRIES = {
    Key("text"): Entry("vålue\n".encode()),
    Key("empty"): Entry(b""),
    Key("binary"): Entry(bytes(range(256)), b'{"a":[1,2.50,"\\u00e9"]}', LATER),
    Key("a/b/../c//"): Entry(b"x", b'"only a string"'),
    Key("..."): Entry(b"dots"),
    Key("%2e%2e"): Entry(b"looks escaped", None, LATER),
    Key("?q=1&r#f"): Entry(b"looks like a query"),
    Key("\u00e9\U0001f600 \x1f^+"): Entry(b"\x00" * 100, b"false"),
    Key("k" * 512): Entry(b"long"),
}


@pytest.fixture
async def server(tmp_path):
    async with served(tmp_path) as running:
        yield running


@pytest.fixture
async def store(server):
    async with server.open_rest() as client:
        yield client


@pytest.fixture
async def namespace(store):
    return (await store.create_namespace("the namespace")).id


@pytest.mark.parametrize("key", ENTRIES)
async def test_a_single_put_is_read_back_whole(store, namespace, key):
    """A single put, raw or as multipart, is read back with value, metadata and expiration."""
    entry = ENTRIES[key]
    await store.put(namespace, key, entry)
    found = await store.get(namespace, key)
    assert Entry(found.value, await store.get_metadata(namespace, key), found.expiration) == entry


async def test_a_large_value_comes_in_large_bites(store, namespace, monkeypatch):
    """The daemon asks for large bites at its start, and a large value comes in them.

    Httpcore's own would be a quarter.
    """
    monkeypatch.setattr(httpcore.AsyncHTTP11Connection, HTTPCORE_READS.name, 64 * 1024)
    read_in_large_pieces()
    await store.put(namespace, Key("a"), Entry(bytes(4 * READ_BYTES)))
    asked, receive = [], trio.SocketStream.receive_some

    async def receive_some(stream, max_bytes=None):
        asked.append(max_bytes)
        return await receive(stream, max_bytes)

    monkeypatch.setattr(trio.SocketStream, "receive_some", receive_some)
    found = await store.get(namespace, Key("a"))
    assert (len(found.value), max(asked)) == (4 * READ_BYTES, READ_BYTES)


async def test_a_bulk_put_is_read_back_whole(store, namespace):
    """A bulk put is read back by listing and by bulk get, which refuses while a binary value is among them."""
    assert await store.bulk_put(namespace, ENTRIES) == frozenset()
    listed = (await store.list_keys(namespace)).keys
    assert [line.key for line in listed] == sorted(ENTRIES)
    assert {line.key: (line.metadata, line.expiration) for line in listed} == {
        key: (entry.metadata, entry.expiration) for key, entry in ENTRIES.items()
    }
    with pytest.raises(NotTextError):
        await store.bulk_get(namespace, list(ENTRIES))
    texts = {key: entry for key, entry in ENTRIES.items() if key != "binary"}
    missing = Key("missing")
    assert await store.bulk_get(namespace, [*texts, missing]) == {**texts, missing: None}


async def test_what_is_missing_is_none(store, namespace):
    """A missing key is None and no error, and neither is its deletion."""
    key = Key("missing")
    assert await store.get(namespace, key) is None
    assert await store.get_metadata(namespace, key) is None
    await store.delete(namespace, key)
    assert await store.bulk_delete(namespace, [key]) == frozenset()


async def test_a_listing_goes_by_pages_and_prefix(store, namespace):
    """A listing goes by pages and prefix; the smallest page has ten keys, and the cursor leads on."""
    keys = [Key(f"p{number:02}") for number in range(25)]
    await store.bulk_put(namespace, {key: Entry(b"") for key in [*keys, Key("other")]})
    found, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = await store.list_keys(namespace, prefix="p", cursor=cursor, limit=3)
        found += [line.key for line in page.keys]
        cursor, pages = page.cursor, pages + 1
    assert found == keys
    assert pages == 3


async def test_namespaces_are_created_renamed_and_deleted(store):
    """Namespaces, more than a page, with any title, are created, renamed and deleted, and titles stay unique."""
    first = await store.create_namespace("a/b \u00e9")
    with pytest.raises(TitleExistsError):
        await store.create_namespace("a/b \u00e9")
    second = await store.create_namespace("second")
    with pytest.raises(TitleExistsError):
        await store.rename_namespace(second.id, "a/b \u00e9")
    await store.rename_namespace(second.id, "renamed")
    assert [one.title for one in await store.list_namespaces()] == ["a/b \u00e9", "renamed"]
    assert (await store.get_namespace(second.id)).title == "renamed"
    await store.delete_namespace(first.id)
    with pytest.raises(NamespaceNotFoundError):
        await store.get_namespace(first.id)


async def test_a_namespace_that_is_gone_says_so_everywhere(store):
    """Every operation tells a namespace that is gone apart from a missing key."""
    gone, key = NamespaceId("f" * 32), Key("k")
    for call in (
        store.get_namespace(gone),
        store.rename_namespace(gone, "t"),
        store.delete_namespace(gone),
        store.list_keys(gone),
        store.get(gone, key),
        store.get_metadata(gone, key),
        store.bulk_get(gone, [key]),
        store.put(gone, key, Entry(b"")),
        store.bulk_put(gone, {key: Entry(b"")}),
        store.delete(gone, key),
        store.bulk_delete(gone, [key]),
    ):
        with pytest.raises(NamespaceNotFoundError):
            await call


async def test_accounts_have_namespaces_of_their_own(server, store):
    """Two accounts may have the same title, and neither sees the other's namespaces."""
    mine = await store.create_namespace("title")
    async with open_rest(base_url=server.url, account="other", token=server.token) as other:
        theirs = await other.create_namespace("title")
        assert [one.id for one in await other.list_namespaces()] == [theirs.id]
        with pytest.raises(NamespaceNotFoundError):
            await other.list_keys(mine.id)


async def test_large_values_pass_both_ways(store, namespace):
    """25 MiB pass by a single put, and as much text by bulk."""
    large = bytes(range(256)) * 102_400
    await store.put(namespace, Key("large"), Entry(large, b"{}"))
    assert (await store.get(namespace, Key("large"))).value == large
    text = "text \u00e9 ".encode() * 1_000_000
    assert await store.bulk_put(namespace, {Key("text"): Entry(text)}) == frozenset()
    assert (await store.bulk_get(namespace, [Key("text")]))["text"].value == text


async def test_statistics_count_what_is_billed(server, store, namespace):
    """Statistics count what is billed, as the server does: a bulk request has many keys, and a missing key costs."""
    await store.bulk_put(namespace, {Key("a"): Entry(b"1"), Key("b"): Entry(b"2")})
    await store.put(namespace, Key("c"), Entry(b"3"))
    await store.bulk_get(namespace, [Key("a"), Key("missing")])
    await store.get(namespace, Key("missing"))
    await store.list_keys(namespace)
    await store.bulk_delete(namespace, [Key("a"), Key("b")])
    await store.delete(namespace, Key("c"))
    assert store.billing.keys == {"read": 3, "written": 3, "deleted": 3, "lists": 1}
    assert store.billing.requests == await server.requests()
