"""Large values as JSON text, encoded and decoded in bites."""

import base64
import json
import time

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.model import Entry, Key
from kvfs.store.rest import request
from kvfs.store.wire import bulk_values, codec
from kvfs.store.wire.json import MalformedError
from kvfs.store.wire.strings import BITE, GiveWay, string_bytes

CHARS = st.sampled_from(["x", '"', "\\", "\n", "é", "€", "𝄞", "\0"])


@given(CHARS, st.integers(-5, 5), st.binary(max_size=3))
def test_a_value_of_several_bites_arrives_as_it_was(char: str, around: int, end: bytes) -> None:
    """A value of several bites arrives unchanged, with characters across two bites.

    Bytes that are no text go as base64.
    """
    size = len(char.encode())
    value = b"a" * (around % 4) + (char * ((2 * BITE + around) // size)).encode() + end
    entries = {Key('k","value":0'): Entry(value, b'{"value":0}', 2_000_000_000), Key("z"): Entry(b"last")}
    first, last = json.loads(b"".join(codec.encode_pairs(entries)))
    sent = base64.b64decode(first["value"]) if first.get("base64") else first["value"].encode()
    assert sent == value
    if not end and char in "xé€𝄞":
        assert "base64" not in first
    assert (first["key"], first["metadata"], first["expiration"]) == (
        'k","value":0', {"value": 0}, 2_000_000_000,
    )  # fmt: skip
    assert last == {"key": "z", "value": "last"}


@given(CHARS, st.integers(-14, 14), st.booleans())
def test_a_string_of_several_bites_is_read_as_it_was_written(char: str, around: int, escaped: bool) -> None:
    """A string is read as it was written wherever a bite ends: in a character, an escape, or a pair of escapes."""
    text = "a" * (BITE + around) + char * 3 + "a" * (BITE - 12) + char * 9
    written = json.dumps(text, ensure_ascii=escaped).encode()
    assert string_bytes(memoryview(written)) == text.encode()


@given(CHARS, st.sampled_from([None, b'{"a":1.0}']), st.sampled_from([None, 2_000_000_000]))
def test_a_large_answer_says_what_a_small_one_says(
    char: str, metadata: bytes | None, expiration: int | None
) -> None:
    """A large answer gives the same result as a small one, for values, metadata, bare texts, and missing keys."""
    entry = Entry((char * 40).encode(), metadata, expiration)
    result = codec.encode_values({Key("k"): entry, Key("gone"): None}, with_metadata=True)
    small = result[:-2] + b',"bare":"text","odd":{"value":5},"half":"\\ud800"}}'
    large = small[:-2] + b',"large":"' + b"x" * bulk_values.LARGE + b'"}}'
    found = bulk_values.decode_values(large)
    assert len(found.pop("large").value) == bulk_values.LARGE
    assert found == bulk_values.decode_values(small)


@pytest.mark.parametrize("part", [b"\\ud800", b"\xff", b"\\q", b"\\u12", b"\\"])
@pytest.mark.parametrize("size", [0, 2 * BITE])
def test_a_string_that_is_no_text_is_refused(part: bytes, size: int) -> None:
    """A string with half a surrogate pair, bytes that are no UTF-8, or malformed escapes is refused at any size."""
    with pytest.raises(MalformedError):
        string_bytes(memoryview(b'"' + b"a" * size + part + b'"'))


async def test_encoding_a_large_body_leaves_the_loop_alone() -> None:
    """No step of encoding a 60 MB body, text or binary, holds the interpreter for long, and the loop goes on.

    In one step a value it would stand still for a good part of the time.
    """
    text = b"some text that is long \xe2\x82\xac " * 1_000_000
    binary = bytes(range(256)) * 70_000
    entries = {
        Key(str(n)): Entry(value) for n, value in enumerate([text[:18_000_002], binary, text[:9_000_000]])
    }
    gaps, done = [], False

    async def tick() -> None:
        last = time.perf_counter()
        while not done:
            await trio.sleep(0.0005)
            gaps.append(time.perf_counter() - last)
            last = time.perf_counter()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await trio.to_thread.run_sync(request.bulk_put_body, entries, GiveWay())
        done = True
    assert sorted(gaps)[len(gaps) // 2] < 0.02, f"median {sorted(gaps)[len(gaps) // 2]:.3f} s"
    assert len(gaps) > 15, f"the loop had only {len(gaps)} turns"
