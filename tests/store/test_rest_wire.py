"""The codec: one side reads what the other writes, and no bytes bring it out of step."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.expiry import LATEST
from kvfs.core.limits import FORBIDDEN_KEYS
from kvfs.core.model import (
    Change,
    ChangeKind,
    ChangeState,
    Entry,
    Key,
    KeyInfo,
    KeyPage,
    Namespace,
    NamespaceId,
    Seq,
)
from kvfs.core.packing import pair_bytes
from kvfs.store.wire import bulk_values, codec
from kvfs.store.wire.json import compact, is_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = TEXT.filter(lambda text: text not in FORBIDDEN_KEYS and len(text.encode()) <= 512).map(Key)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
METADATA = JSON_VALUES.map(lambda value: json.dumps(value).encode()).filter(lambda text: text != b"null")
EXPIRATIONS = st.none() | st.integers(0, LATEST)
VALUES = st.binary(max_size=2000) | TEXT.map(str.encode)
ENTRIES = st.builds(Entry, VALUES, st.none() | METADATA, EXPIRATIONS)

DECODERS = [
    codec.decode_envelope,
    codec.decode_namespace,
    codec.decode_namespaces,
    codec.decode_keys,
    codec.decode_metadata,
    codec.decode_bulk_result,
    bulk_values.decode_values,
    codec.decode_pairs,
    codec.decode_key_list,
    codec.decode_bulk_get,
    codec.decode_namespace_request,
]

FRAGMENTS = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"1", b"-", b"1e999", b"\\ud800", b"\\udc00"]
    + [
        b'"%b"' % name
        for name in (b"name", b"id", b"title", b"result", b"success", b"values", b"value", b"k")
    ]
    + [b'"metadata"', b'"expiration"', b'"errors"', b'"code"', b'"cursor"', b"\xff", b"\\", b"\x00", b" "]
)
NOISE = st.binary(max_size=60) | st.lists(FRAGMENTS, max_size=25).map(b"".join)
FIELDS = ("success", "result", "errors", "result_info", "id", "title", "values", "keys", "name")
SHAPED = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON_VALUES)).map(
    lambda value: json.dumps(value).encode()
)


@pytest.mark.parametrize("decode", DECODERS)
@given(noise=NOISE | SHAPED | SHAPED.map(lambda text: b"[%b]" % text))
def test_no_bytes_make_a_decoder_fail_in_any_other_way(decode, noise):
    """Any bytes give a decoder's result or a `MalformedError`."""
    with contextlib.suppress(codec.MalformedError):
        decode(noise)


@given(noise=NOISE)
def test_metadata_is_judged_without_surprises(noise):
    """A text that counts as metadata can be compacted, and stays the same JSON."""
    if not is_json(noise):
        with pytest.raises(codec.MalformedError):
            compact(noise)
        return
    kept = compact(noise)
    assert json.loads(kept or b"null") == json.loads(noise)


@given(entries=st.dictionaries(KEYS, ENTRIES, max_size=6))
def test_a_bulk_put_arrives_as_it_was_sent(entries):
    """A bulk put arrives with values byte for byte, metadata as the same text, and expirations."""
    body = b"".join(codec.encode_pairs(entries))
    assert {
        pair.key: Entry(
            pair.value_bytes(), None if pair.metadata_text == b"null" else pair.metadata_text, pair.expiration
        )
        for pair in codec.decode_pairs(body)
    } == entries
    assert isinstance(json.loads(body), list)


def pair_of(key, entry):
    """Return one pair of a bulk put, as it is sent."""
    return b"".join(codec.encode_pairs({key: entry}))[1:-1]


@given(key=KEYS, entry=ENTRIES)
def test_the_bound_of_a_pair_is_never_exceeded(key, entry):
    """The bound of a pair is never exceeded, because packing relies on it without having seen the value."""
    change = Change(
        Seq(1), NamespaceId("ns"), key, ChangeKind.PUT, ChangeState.PENDING, len(entry.value),
        entry.metadata, entry.expiration, None, False, 0.0, None, None,
    )  # fmt: skip
    assert len(pair_of(key, entry)) + len(b",") <= pair_bytes(change)


@given(key=KEYS, entry=ENTRIES)
def test_base64_is_for_what_is_not_text_or_is_shorter_that_way(key, entry):
    """Text goes as text unless escaping makes it longer than base64; other bytes go as base64."""
    pair = json.loads(pair_of(key, entry))
    if pair.get("base64"):
        assert base64.b64decode(pair["value"]) == entry.value
    else:
        assert pair["value"].encode() == entry.value
        assert len(json.dumps(pair["value"], ensure_ascii=False)) <= 2 + 4 * ((len(entry.value) + 2) // 3)


def test_a_value_that_no_bulk_put_can_carry_is_named():
    """A value that no bulk put can carry, binary above 18.75 MiB, is named; text up to the full 25 MiB is not."""
    with pytest.raises(codec.TooLongError):
        pair_of(Key("k"), Entry(b"\xff" * 19_660_801))
    assert len(pair_of(Key("k"), Entry(b"\xff" * 19_660_800))) > 26_214_400
    assert len(pair_of(Key("k"), Entry(b"x" * 26_214_400))) > 26_214_400


@given(entries=st.dictionaries(KEYS, st.none() | ENTRIES, max_size=6))
def test_a_bulk_get_answers_with_what_is_stored(entries):
    """A bulk get answers with what is stored, missing keys included, and not with bytes that are no text."""
    try:
        result = codec.encode_values(entries, with_metadata=True)
    except codec.MalformedError:
        assert any(entry and not _is_text(entry.value) for entry in entries.values())
        return
    assert bulk_values.decode_values(result) == entries


@given(
    keys=st.lists(st.builds(KeyInfo, KEYS, st.none() | METADATA, EXPIRATIONS), max_size=6),
    cursor=st.none() | st.just("c"),
)
def test_a_page_of_keys_arrives_as_it_was_sent(keys, cursor):
    """A page of keys arrives with metadata, expirations and the cursor."""
    envelope = codec.decode_envelope(codec.encode_page(KeyPage(tuple(keys), cursor)))
    assert codec.decode_keys(envelope.result) == (keys, True)
    assert (envelope.paging().cursor or None) == cursor


@given(title=TEXT, mode=st.sampled_from(["", "instant"]))
def test_a_namespace_arrives_as_it_was_sent(title, mode):
    """A namespace arrives with any title."""
    namespace = Namespace(NamespaceId("a" * 32), title, mode)
    envelope = codec.decode_envelope(codec.encode_success(codec.encode_namespace(namespace)))
    assert codec.decode_namespace(envelope.result) == namespace
    assert codec.decode_namespace_request(codec.encode_title(title)).title == title


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("1700000000.9", 1_700_000_000),
        ("-5", 0),
        ("1e300", LATEST),
        ("9" * 25, LATEST),
        ("1795342800000", 1_795_342_800_000),  # milliseconds that a Worker gave stay as they are
        ("null", None),
        ('"1700000000"', 1_700_000_000),
        ('"soon"', None),
        ("[]", None),
    ],
)
def test_an_expiration_is_whole_seconds_within_reason(sent, read):
    """An expiration is whole seconds up to the largest whole number of JSON, although the schema says number."""
    (key,), _ = codec.decode_keys(f'[{{"name":"k","expiration":{sent}}}]'.encode())
    assert key.expiration == read


def _is_text(value):
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
