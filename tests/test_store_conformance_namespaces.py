"""The contract of `Store` for namespaces, a sentence a test, kept by every store there is."""

import time

import pytest

from kvfs.core.errors import NamespaceNotFoundError, RejectedError, TitleExistsError
from kvfs.core.limits import TITLE_CHARS
from kvfs.core.model import Entry, Key, NamespaceId, ValueRead

pytest_plugins = ["support.benches"]


async def test_namespaces_do_not_share_keys(bench):
    """A key in two namespaces is two keys."""
    other = (await bench.store.create_namespace(f"other {time.time_ns()}")).id
    try:
        await bench.put("a", b"here")
        await bench.store.put(other, Key("a"), Entry(b"there"))

        assert await bench.store.get(bench.namespace, Key("a")) == ValueRead(b"here")
        await bench.store.delete(bench.namespace, Key("a"))
        assert await bench.store.get(other, Key("a")) == ValueRead(b"there")
    finally:
        await bench.store.delete_namespace(other)


@pytest.mark.parametrize("title", ["a/b", "..", "ü" * TITLE_CHARS, " spaced ", "'\"%"], ids=range(5))
async def test_a_namespace_lives_under_its_title(bench, title):
    """A namespace lives under its title: created, found by id and in the list, renamed and deleted."""
    if bench.clock is None:
        title = f"{time.time_ns()}{title}"[:TITLE_CHARS]
    new = await bench.store.create_namespace(title)
    assert new.title == title
    assert await bench.store.get_namespace(new.id) == new
    assert new in await bench.store.list_namespaces()

    await bench.store.rename_namespace(new.id, title[::-1])
    assert (await bench.store.get_namespace(new.id)).title == title[::-1]

    await bench.store.delete_namespace(new.id)
    assert new.id not in {found.id for found in await bench.store.list_namespaces()}


async def test_a_title_is_taken_once(bench):
    """Another namespace of that title is refused, by creation and by renaming; its own title is not."""
    title = (await bench.store.get_namespace(bench.namespace)).title
    other = await bench.store.create_namespace(f"{title} other")
    try:
        with pytest.raises(TitleExistsError):
            await bench.store.create_namespace(title)
        with pytest.raises(TitleExistsError):
            await bench.store.rename_namespace(other.id, title)
        await bench.store.rename_namespace(other.id, other.title)
    finally:
        await bench.store.delete_namespace(other.id)


async def test_a_bad_title_is_rejected(bench):
    """A title that is empty, or above 512 characters, is rejected."""
    before = await bench.store.list_namespaces()
    for title in ("", "t" * (TITLE_CHARS + 1)):
        with pytest.raises(RejectedError):
            await bench.store.create_namespace(title)
        with pytest.raises(RejectedError):
            await bench.store.rename_namespace(bench.namespace, title)

    assert await bench.store.list_namespaces() == before


@pytest.mark.parametrize("existed", [True, False], ids=["deleted", "never was"])
async def test_a_namespace_that_is_gone_says_so(bench, existed):
    """Every operation on a namespace that is gone raises `NamespaceNotFoundError`, and nothing comes back to life."""
    store, gone = bench.store, NamespaceId("0123456789abcdef" * 2)
    if existed:
        gone = (await store.create_namespace(f"gone {time.time_ns()}")).id
        await store.put(gone, Key("a"), Entry(b""))
        await store.delete_namespace(gone)
    for call in (
        lambda: store.get_namespace(gone),
        lambda: store.rename_namespace(gone, "again"),
        lambda: store.delete_namespace(gone),
        lambda: store.list_keys(gone),
        lambda: store.get(gone, Key("a")),
        lambda: store.get_metadata(gone, Key("a")),
        lambda: store.bulk_get(gone, [Key("a")]),
        lambda: store.put(gone, Key("a"), Entry(b"")),
        lambda: store.bulk_put(gone, {Key("a"): Entry(b"")}),
        lambda: store.delete(gone, Key("a")),
        lambda: store.bulk_delete(gone, [Key("a")]),
    ):
        with pytest.raises(NamespaceNotFoundError):
            await call()
