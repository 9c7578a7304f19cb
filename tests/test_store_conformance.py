"""The contract of `Store` for keys and values, a sentence a test, kept by every store there is.

The stores are those of `support/benches.py`; namespaces have a file of their own.
"""

import json
import os

import pytest

from kvfs.core.errors import NotTextError, RejectedError
from kvfs.core.limits import BULK_GET_KEYS, BULK_PAIRS, LIST_KEYS, METADATA_BYTES, VALUE_BYTES
from kvfs.core.model import Entry, Key, KeyInfo, ValueRead

pytest_plugins = ["support.benches"]

HOUR = 3600

VALUES = {
    "text": "grüße 🦊\n".encode(),
    "binary": bytes(range(256)),
    "empty": b"",
    "json": b'{"a": [1, null]}',
    "half a character": b"\xf0\x9f",
    "a byte order mark": b"\xef\xbb\xbfx\r\n\0",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_a_value_comes_back_byte_for_byte(bench, value):
    """A value comes back byte for byte, text or binary, singly or in bulk."""
    await bench.put("single", value)
    await bench.store.bulk_put(bench.namespace, {Key("bulk"): Entry(value)})

    assert await bench.store.get(bench.namespace, Key("single")) == ValueRead(value)
    assert await bench.store.get(bench.namespace, Key("bulk")) == ValueRead(value)


async def test_the_largest_value(bench):
    """25 MiB are kept; one byte more is rejected and changes nothing."""
    largest = os.urandom(1024) * (VALUE_BYTES // 1024)
    await bench.put("large", largest)

    with pytest.raises(RejectedError):
        await bench.put("large", largest + b"x")

    assert await bench.store.get(bench.namespace, Key("large")) == ValueRead(largest)


METADATA = [
    '{"a":1,"b":{"c":[true,null]}}',
    '["x"]',
    '"text"',
    "7",
    "-1.5e3",
    "true",
    "false",
    '""',
    "{}",
    "[]",
]


@pytest.mark.parametrize("metadata", METADATA)
async def test_metadata_of_every_json_type_is_kept(bench, metadata):
    """Metadata means the same wherever it is read, singly or in bulk, however it was written."""
    entry = Entry(b"value", metadata.encode())
    await bench.store.put(bench.namespace, Key("a"), entry)
    await bench.store.bulk_put(bench.namespace, {Key("b"): entry})

    got = await bench.store.bulk_get(bench.namespace, [Key("a"), Key("b")])
    listed = await bench.keys()

    found = [await bench.store.get_metadata(bench.namespace, Key(key)) for key in "ab"]
    found += [got[Key("a")].metadata, got[Key("b")].metadata, *(info.metadata for info in listed)]
    assert [json.loads(text) for text in found] == [json.loads(metadata)] * 6


async def test_metadata_null_is_none(bench):
    """Metadata of JSON null and no metadata mean the same."""
    await bench.put("a", metadata=b"null")

    assert await bench.store.get_metadata(bench.namespace, Key("a")) is None
    assert await bench.keys() == [KeyInfo(Key("a"))]


@pytest.mark.parametrize(
    "metadata", [b"{", b"", b"{} x", b"'a'", b"NaN", b'"\xff"', b"1" * (METADATA_BYTES + 1)], ids=range(7)
)
async def test_metadata_that_is_none_is_rejected(bench, metadata):
    """Metadata that is not JSON, or above 1,024 bytes, is rejected before anything changes, singly and in bulk."""
    with pytest.raises(RejectedError):
        await bench.put("a", metadata=metadata)
    with pytest.raises(RejectedError):
        await bench.store.bulk_put(bench.namespace, {Key("b"): Entry(b""), Key("a"): Entry(b"", metadata)})

    assert await bench.keys() == []


async def test_metadata_at_the_limit_is_kept(bench):
    """1,024 bytes are kept."""
    metadata = b'"' + b"m" * (METADATA_BYTES - 2) + b'"'
    await bench.put("a", metadata=metadata)

    assert await bench.store.get_metadata(bench.namespace, Key("a")) == metadata


async def test_a_put_replaces_the_whole_entry(bench):
    """A put replaces the whole entry: metadata and expiration that it does not give are gone, singly and in bulk."""
    for key in ("a", "b"):
        await bench.put(key, b"old", metadata=b"1", expiration=bench.soon())

    await bench.put("a", b"new")
    await bench.store.bulk_put(bench.namespace, {Key("b"): Entry(b"new")})

    got = await bench.store.bulk_get(bench.namespace, [Key("a"), Key("b")])
    assert got == {Key("a"): Entry(b"new"), Key("b"): Entry(b"new")}


async def test_an_expiration_is_answered_everywhere(bench):
    """Get, bulk get and the listing name the second it expires."""
    soon = bench.soon()
    await bench.put("a", expiration=soon)
    await bench.store.bulk_put(bench.namespace, {Key("b"): Entry(b"value", None, soon)})

    for key in (Key("a"), Key("b")):
        assert await bench.store.get(bench.namespace, key) == ValueRead(b"value", soon)
        assert await bench.store.bulk_get(bench.namespace, [key]) == {key: Entry(b"value", None, soon)}
    assert [info.expiration for info in await bench.keys()] == [soon, soon]


async def test_an_expired_key_is_gone(bench):
    """From the second of its expiration on no operation knows a key, and it may be written again."""
    if bench.clock is None:
        pytest.skip("the clock of the real API is nobody's to move")
    await bench.put("a", metadata=b"1", expiration=bench.soon())
    await bench.put("b")
    bench.clock.advance(HOUR - 1)
    assert [info.key for info in await bench.keys()] == ["a", "b"]

    bench.clock.advance(1)

    assert [info.key for info in await bench.keys()] == ["b"]
    assert await bench.store.get(bench.namespace, Key("a")) is None
    assert await bench.store.get_metadata(bench.namespace, Key("a")) is None
    assert (await bench.store.bulk_get(bench.namespace, [Key("a"), Key("b")]))[Key("a")] is None
    await bench.put("a", b"again")
    assert await bench.store.get(bench.namespace, Key("a")) == ValueRead(b"again")


ODD_KEYS = [
    "k" * 512, "🦊" * 128, "é", "e\u0301", "a/b", "/", "//", "a/", "/a", "a//b", "%2F", "%2f", "%", "%25",
    "%00", "a b", " ", "a+b", "?a=b&c=d", "#x", ";", "...", "..a", ".a", "a/..", "a/../b", "./a", "../../..",
    "a\\b", "a\nb", "\t", "\x1f", "\x7f", "\0", "a\0b", "^", '"', "'", "<>", "{}", ":", "@", "null", "bulk",
    "\ufeff", "\u2028", "\uffff", "\U0010ffff", "~", "*", "keys",
]  # fmt: skip


async def test_odd_keys_are_keys_like_any_other(bench):
    """Each can be put, listed, got, got in bulk and deleted, and is never taken for another."""
    keys = [Key(key) for key in ODD_KEYS]
    for key in keys[::2]:
        await bench.put(key, key.encode())
    await bench.store.bulk_put(bench.namespace, {key: Entry(key.encode()) for key in keys[1::2]})

    assert [info.key for info in await bench.keys()] == sorted(keys)
    assert await bench.store.bulk_get(bench.namespace, keys) == {key: Entry(key.encode()) for key in keys}
    for key in keys:
        assert await bench.store.get(bench.namespace, key) == ValueRead(key.encode())
        assert [info.key for info in await bench.keys(prefix=key)] == sorted(
            k for k in keys if k.startswith(key)
        )
    for key in keys[::2]:
        await bench.store.delete(bench.namespace, key)
    assert [info.key for info in await bench.keys()] == sorted(keys[1::2])
    assert await bench.store.bulk_delete(bench.namespace, keys) == frozenset()
    assert await bench.keys() == []


FORBIDDEN = ["", ".", "..", "k" * 513, "é" * 257, "\ud800"]


@pytest.mark.parametrize("key", [Key(key) for key in FORBIDDEN], ids=range(6))
async def test_a_forbidden_key_is_rejected_and_does_nothing(bench, key):
    """A key that is empty, dot, dot-dot, above 512 bytes or no Unicode is rejected by every operation."""
    store, namespace = bench.store, bench.namespace
    await bench.put("kept")
    for call in (
        lambda: store.get(namespace, key),
        lambda: store.get_metadata(namespace, key),
        lambda: store.bulk_get(namespace, [Key("kept"), key]),
        lambda: store.put(namespace, key, Entry(b"x")),
        lambda: store.bulk_put(namespace, {Key("other"): Entry(b"x"), key: Entry(b"x")}),
        lambda: store.delete(namespace, key),
        lambda: store.bulk_delete(namespace, [Key("kept"), key]),
    ):
        with pytest.raises(RejectedError):
            await call()

    assert [info.key for info in await bench.keys()] == ["kept"]
    assert namespace in {found.id for found in await store.list_namespaces()}


async def test_a_listing_is_in_the_order_of_utf8_bytes(bench):
    """A listing is in the order of UTF-8 bytes and not of UTF-16: characters beyond the BMP come last."""
    keys = [
        "a",
        "aa",
        "B",
        "é",
        "~",
        "\x01",
        "\uffff",
        "\U00010000",
        "\U0010ffff",
        "\ue000",
        "z\uffff",
        "z😀",
    ]
    await bench.store.bulk_put(bench.namespace, {Key(key): Entry(b"") for key in keys})

    listed = [info.key for info in await bench.keys()]

    assert listed == sorted(keys, key=str.encode)


async def test_a_long_listing_comes_in_pages(bench):
    """2,500 keys take three pages; each key comes once, in order; smaller pages are smaller."""
    keys = sorted(f"dir{number % 3}/{number:05d}" for number in range(2500))
    await bench.store.bulk_put(bench.namespace, {Key(key): Entry(b"") for key in keys})

    pages = await bench.pages()
    small = await bench.pages(limit=700, prefix="dir1/")

    assert [info.key for page in pages for info in page] == keys
    assert max(map(len, pages)) <= LIST_KEYS
    assert [info.key for page in small for info in page] == [k for k in keys if k.startswith("dir1/")]
    assert len(small) >= 2
    assert max(map(len, small)) <= 700


async def test_a_prefix_is_text_and_no_pattern(bench):
    """A prefix lists all keys that start with it, its own key too, and no other.

    `%`, `_`, `*` and case mean themselves.
    """
    keys = [
        "a",
        "a%b",
        "a\uffff",
        "a\U0010ffff",
        "a_b",
        "axb",
        "A",
        "a*",
        "\U0010ffff",
        "\U0010ffffx",
        "b",
        "\ud7ff",
        "\ue000",
        "\ud7ffx",
    ]
    await bench.store.bulk_put(bench.namespace, {Key(key): Entry(b"") for key in keys})

    for prefix in ["", "a", "a%", "a_", "a*", "A", "\U0010ffff", "\ud7ff", "c", "ab", "x" * 600]:
        listed = [info.key for info in await bench.keys(prefix=prefix)]
        assert listed == sorted(key for key in keys if key.startswith(prefix)), prefix


async def test_a_cursor_outlives_changes(bench):
    """Keys that stay are listed exactly once although others come and go between the pages."""
    keys = [f"{number:03d}" for number in range(30)]
    await bench.store.bulk_put(bench.namespace, {Key(key): Entry(b"") for key in keys})
    first = await bench.store.list_keys(bench.namespace, limit=10)

    await bench.store.bulk_delete(bench.namespace, [info.key for info in first.keys])
    await bench.put("000 before")
    await bench.put("020 after")
    rest = await bench.store.list_keys(bench.namespace, cursor=first.cursor)

    assert [info.key for info in rest.keys] == sorted([*keys[10:], "020 after"])


async def test_a_cursor_that_is_none_is_rejected(bench):
    """A cursor that nobody gave out is refused, not guessed at."""
    for cursor in ("no cursor!", "é", "/w==", "\x00"):
        with pytest.raises(RejectedError):
            await bench.store.list_keys(bench.namespace, cursor=cursor)


async def test_a_key_that_is_missing_is_none(bench):
    """Reading it is no error, deleting it succeeds."""
    missing = Key("missing")

    assert await bench.store.get(bench.namespace, missing) is None
    assert await bench.store.get_metadata(bench.namespace, missing) is None
    assert await bench.store.bulk_get(bench.namespace, [missing]) == {missing: None}
    await bench.store.delete(bench.namespace, missing)
    assert await bench.store.bulk_delete(bench.namespace, [missing]) == frozenset()
    assert await bench.keys() == []


async def test_a_bulk_get_answers_for_every_key(bench):
    """A bulk get answers for a hundred keys, present and missing, each with its own whole entry."""
    soon = bench.soon()
    entries = {
        Key(f"{n}"): Entry(b"%d" % n, b"%d" % n if n % 2 else None, soon if n % 3 else None)
        for n in range(80)
    }
    await bench.store.bulk_put(bench.namespace, entries)
    keys = [Key(f"{n}") for n in range(BULK_GET_KEYS)]

    got = await bench.store.bulk_get(bench.namespace, keys)

    assert got == {key: entries.get(key) for key in keys}


async def test_a_bulk_get_with_a_binary_value_is_whole_or_not(bench):
    """A bulk get with a binary value brings the bytes as they are or raises `NotTextError`, never something else."""
    await bench.store.bulk_put(bench.namespace, {Key("b"): Entry(b"\xff\xfe"), Key("t"): Entry(b"text")})

    try:
        got = await bench.store.bulk_get(bench.namespace, [Key("b"), Key("t")])
    except NotTextError:
        return
    assert got == {Key("b"): Entry(b"\xff\xfe"), Key("t"): Entry(b"text")}


async def test_bulks_have_their_limits(bench):
    """101 keys in a bulk get, and 10,001 in a bulk write or delete, are rejected with nothing done."""
    many = [Key(f"{n}") for n in range(BULK_PAIRS + 1)]
    with pytest.raises(RejectedError):
        await bench.store.bulk_get(bench.namespace, many[: BULK_GET_KEYS + 1])
    with pytest.raises(RejectedError):
        await bench.store.bulk_put(bench.namespace, dict.fromkeys(many, Entry(b"")))
    with pytest.raises(RejectedError):
        await bench.store.bulk_delete(bench.namespace, many)

    assert await bench.keys() == []


async def test_an_empty_bulk_does_nothing(bench):
    """An empty bulk succeeds and does nothing."""
    assert await bench.store.bulk_put(bench.namespace, {}) == frozenset()
    assert await bench.store.bulk_delete(bench.namespace, []) == frozenset()


async def test_a_bulk_delete_removes_what_it_names(bench):
    """A bulk delete removes the keys it names and nothing else."""
    await bench.store.bulk_put(bench.namespace, {Key(key): Entry(b"") for key in "abcd"})

    assert await bench.store.bulk_delete(bench.namespace, [Key("a"), Key("c"), Key("x")]) == frozenset()

    assert [info.key for info in await bench.keys()] == ["b", "d"]


async def test_operations_may_be_repeated(bench):
    """Putting and deleting twice is the same as once."""
    for _ in range(2):
        await bench.put("a", b"1")
    assert [info.key for info in await bench.keys()] == ["a"]
    for _ in range(2):
        await bench.store.delete(bench.namespace, Key("a"))
    assert await bench.keys() == []


async def test_an_expiration_beyond_whole_numbers_of_json_is_refused(bench):
    """An expiration above 2**53 is refused, because an export with it could not be imported; 2**53 itself is kept."""
    await bench.put("a", expiration=2**53)
    assert [info.expiration for info in await bench.keys()] == [2**53]
    with pytest.raises(RejectedError):
        await bench.put("b", expiration=2**53 + 1)
