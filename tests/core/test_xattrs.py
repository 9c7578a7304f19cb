"""Metadata as extended attributes: a table of the forms, then round trips over arbitrary JSON."""

import contextlib
import json
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvfs.core import xattrs
from kvfs.core.errors import (
    FileError,
    InvalidError,
    NoAttributeError,
    NoSpaceError,
    NotPermittedError,
    NotSupportedError,
)

SURROGATES = st.characters() | st.sampled_from("\ud800\udfff\0")
STRINGS = st.text(max_size=12) | st.text(SURROGATES, max_size=4)
LOOKS_LIKE_JSON = st.sampled_from(["5", "true", "null", '"q"', "[]", " 7 ", "NaN", "{", "1e5", "", "\ufeff1"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    SCALARS | STRINGS | LOOKS_LIKE_JSON,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9) | STRINGS
ODD_FIELDS = st.sampled_from(
    ["", "kvfs.key", "kvfs.metadata", "a\0b", "x" * 251, "x" * 250, "ü", "kvfs", '"']
)
OBJECTS = st.dictionaries(FIELDS | ODD_FIELDS, JSON, max_size=4)


def text_of(document: object, *, spaced: bool = False) -> bytes:
    """Metadata as a server might send it."""
    return json.dumps(document, indent=1 if spaced else None).encode()


def meaning(metadata: bytes | None) -> object:
    """Return what the metadata says, numbers to the last digit."""
    return None if metadata is None else json.loads(metadata, parse_float=Decimal)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ('"plain"', "plain"),
        ('""', ""),
        ('"with \\"quotes\\" and \\u00fc"', 'with "quotes" and ü'),
        ('"two\\nlines\\u0000"', "two\nlines\0"),
        ('"5"', '"5"'),
        ('" 5 "', '" 5 "'),
        ('"true"', '"true"'),
        ('"\\"q\\""', '"\\"q\\""'),
        ('"NaN"', "NaN"),
        ('"-Infinity"', "-Infinity"),
        ('"{"', "{"),
        ('"\\ud800"', '"\\ud800"'),
        ("5", "5"),
        ("1.0", "1.0"),
        ("-0", "-0"),
        ("1e400", "1e400"),
        ("1E+2", "1E+2"),
        ("9" * 400, "9" * 400),
        ("0.1000", "0.1000"),
        ("null", "null"),
        ('{ "a" : [ 1.50 , "x y", {} ] }', '{"a":[1.50,"x y",{}]}'),
        ('["\\u00fc", "\\ud83d\\ude00"]', '["ü","😀"]'),
        ('["a\\\\", "b , c"]', '["a\\\\","b , c"]'),
    ],
)
def test_table_of_fields(stored: str, shown: str) -> None:
    """Strings show bare unless they would parse, the rest as compact JSON, numbers as they are written."""
    metadata = f'{{"before": 1, "f": {stored}, "after": "x"}}'.encode()
    assert xattrs.list_names(metadata) == ["user.before", "user.f", "user.after"]
    assert xattrs.get(metadata, "user.f") == shown.encode()
    assert xattrs.get(metadata, "user.after") == b"x"
    again = xattrs.set(metadata, "user.f", shown.encode())
    assert again is not None
    assert again.startswith(b'{"before":1,"f":')
    assert xattrs.get(again, "user.f") == shown.encode()
    assert meaning(again) == meaning(metadata)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (b"text", b'{"f":"text"}'),
        (b"", b'{"f":""}'),
        (b"5", b'{"f":5}'),
        (b" [1, 2]\n", b'{"f":[1,2]}'),
        (b'"5"', b'{"f":"5"}'),
        (b"NaN", b'{"f":"NaN"}'),
        (b"[NaN]", b'{"f":"[NaN]"}'),
        (b"Infinity", b'{"f":"Infinity"}'),
        (b"{not json", b'{"f":"{not json"}'),
        ("ü\n".encode(), '{"f":"ü\\n"}'.encode()),
        (b"null", b'{"f":null}'),
    ],
)
def test_setting_a_field_parses_what_parses(value: bytes, stored: bytes) -> None:
    """On a file without metadata the first field makes the object, and a field is parsed if it parses."""
    assert xattrs.set(None, "user.f", value) == stored


@pytest.mark.parametrize("metadata", [b"5", b'"text"', b"[1, 2]", b"true", b"{}", b"not json", b"\xff"])
def test_metadata_that_is_no_object_is_one_attribute(metadata: bytes) -> None:
    """Metadata that is no object shows whole, can be removed, and says why it takes no field.

    An empty object takes one.
    """
    assert xattrs.list_names(metadata) == ["user.kvfs.metadata"]
    assert xattrs.get(metadata, "user.kvfs.metadata") == metadata
    assert xattrs.remove(metadata, "user.kvfs.metadata") is None
    with pytest.raises(NoAttributeError):
        xattrs.get(metadata, "user.f")
    if metadata == b"{}":
        assert xattrs.set(metadata, "user.f", b"1") == b'{"f":1}'
    else:
        with pytest.raises(InvalidError, match=r"user\.kvfs\.metadata"):
            xattrs.set(metadata, "user.f", b"1")


def test_the_whole_document() -> None:
    """`user.kvfs.metadata` reads the stored text, writes compact JSON, and `null` is none."""
    whole = "user.kvfs.metadata"
    assert xattrs.get(b'{"a": 1}', whole) == b'{"a": 1}'
    assert xattrs.set(b'{"a": 1}', whole, b' [1.0, "\\u00fc"] ') == '[1.0,"ü"]'.encode()
    assert xattrs.set(b'{"a": 1}', whole, b"null") is None
    for bad in (b"", b"text", b"NaN", b"{'a': 1}", b"[1,]", b"\xff", b'"\xff"'):
        with pytest.raises(InvalidError):
            xattrs.set(None, whole, bad)


def test_no_metadata_has_no_attributes() -> None:
    """Without metadata no attribute is listed, none is there, none can be removed."""
    assert xattrs.list_names(None) == []
    for name in ("user.f", "user.kvfs.metadata"):
        with pytest.raises(NoAttributeError):
            xattrs.get(None, name)
        with pytest.raises(NoAttributeError):
            xattrs.remove(None, name)


def test_removing_the_last_field_removes_the_metadata() -> None:
    """Removing the last field removes the metadata, and a field that is not there cannot be removed."""
    assert xattrs.remove(b'{"a": 1.0, "b": [ ]}', "user.b") == b'{"a":1.0}'
    assert xattrs.remove(b'{"a":1}', "user.a") is None
    with pytest.raises(NoAttributeError):
        xattrs.remove(b'{"a":1}', "user.b")


def test_fields_that_no_attribute_can_be_named_after() -> None:
    """A field that no attribute can name is only in the whole document, which is listed, and stays in it."""
    metadata = text_of({"": 1, "a": 2, "kvfs.key": 3, "x" * 251: 4, "n\0": 5, "\ud800": 6})
    assert xattrs.list_names(metadata) == ["user.a", "user.kvfs.metadata"]
    for name in ("user.", "user.kvfs.key", "user." + "x" * 251, "user.n\0", "user.\ud800"):
        with pytest.raises(NoAttributeError):
            xattrs.get(metadata, name)
        with pytest.raises(FileError):
            xattrs.set(metadata, name, b"1")
    assert xattrs.list_names(text_of({"x" * 250: 1})) == ["user." + "x" * 250]
    changed = xattrs.set(metadata, "user.a", b"7")
    assert meaning(changed) == {**json.loads(metadata), "a": 7}


def test_of_a_field_that_occurs_twice_the_last_counts() -> None:
    """The last counts if a field occurs twice, as for every JSON parser in use."""
    assert xattrs.get(b'{"a":1,"a":2}', "user.a") == b"2"
    assert xattrs.list_names(b'{"a":1,"a":2}') == ["user.a"]


@pytest.mark.parametrize("name", ["security.selinux", "system.posix_acl_access", "trusted.x", "f", "USER.f"])
def test_other_classes_are_not_supported(name: str) -> None:
    """Other classes, security labels for instance, are refused before the value is looked at."""
    for call in (
        lambda: xattrs.get(b'{"f":1}', name),
        lambda: xattrs.set(None, name, b"\xff"),
        lambda: xattrs.remove(b'{"f":1}', name),
    ):
        with pytest.raises(NotSupportedError):
            call()


@pytest.mark.parametrize("name", [*xattrs.COMPUTED, "user.kvfs.other"])
def test_computed_names_are_not_metadata(name: str) -> None:
    """The rules neither hold nor change computed names, because the file system answers them."""
    with pytest.raises(NoAttributeError):
        xattrs.get(b'{"a":1}', name)
    with pytest.raises(NotPermittedError):
        xattrs.set(None, name, b"1")
    with pytest.raises(NotPermittedError):
        xattrs.remove(b'{"a":1}', name)


def test_the_budget_is_1024_bytes_of_json() -> None:
    """The limit of 1,024 counts UTF-8 bytes of the compact document, whichever way it is set."""
    assert len(xattrs.set(None, "user.f", b"x" * 1016) or b"") == 1024
    assert len(xattrs.set(None, "user.kvfs.metadata", b'"' + b"x" * 1022 + b'"   ') or b"") == 1024
    for name, value in [
        ("user.f", b"x" * 1017),
        ("user.f", ("ü" * 509).encode()),
        ("user.f", b"\n" * 509),
        ("user.kvfs.metadata", b'"' + b"x" * 1023 + b'"'),
        ("user.kvfs.metadata", b"9" * 5000),
    ]:
        with pytest.raises(NoSpaceError, match="1024"):
            xattrs.set(None, name, value)


@pytest.mark.parametrize("bomb", [b"[" * 60_000, b'{"a":' * 10_000, b"[" * 20_000 + b"]" * 20_000])
def test_json_nested_without_end_is_refused(bomb: bytes) -> None:
    """JSON nested without end is neither parsed nor kept, and stored metadata of that kind still shows."""
    for name in ("user.f", "user.kvfs.metadata"):
        with pytest.raises(InvalidError, match="deep"):
            xattrs.set(None, name, bomb)
    assert xattrs.list_names(bomb) == ["user.kvfs.metadata"]
    inside = json.dumps({"f": bomb.decode()}).encode()
    assert xattrs.get(inside, "user.f") == json.dumps(bomb.decode()).encode()


def test_metadata_nested_as_deeply_as_fits_works() -> None:
    """Metadata with 509 brackets in a field, as many as fit 1,024 bytes, works."""
    deep = b"[" * 509 + b"]" * 509
    metadata = xattrs.set(None, "user.f", deep)
    assert xattrs.get(metadata, "user.f") == deep


@given(OBJECTS, st.booleans())
def test_writing_back_what_was_read_changes_nothing(document: dict[str, object], spaced: bool) -> None:
    """Every attribute listed can be read and set again, onto the same file or an empty one."""
    metadata = text_of(document, spaced=spaced)
    assume(len(xattrs._compact(metadata.decode()).encode()) <= 1024)
    names = xattrs.list_names(metadata)
    copy: bytes | None = None
    for name in names:
        value = xattrs.get(metadata, name)
        assert meaning(xattrs.set(metadata, name, value)) == meaning(metadata)
        copy = xattrs.set(copy, name, value)
    assert meaning(copy) == meaning(metadata)
    assert len({*names}) == len(names)


@given(OBJECTS.filter(bool))
def test_removing_every_field_leaves_none(document: dict[str, object]) -> None:
    """Each removal leaves the other fields as they were, and after the last there is no metadata."""
    metadata: bytes | None = text_of(document)
    for field in list(document):
        name = "user." + field
        if name not in xattrs.list_names(metadata) or not xattrs._is_field(field):
            continue
        metadata = xattrs.remove(metadata, name)
        del document[field]
        assert (meaning(metadata) or {}) == meaning(text_of(document))
    assert (metadata is None) == (not document)


@given(st.binary(max_size=40), st.text(max_size=20), st.binary(max_size=40))
def test_anything_is_answered_with_a_file_error_at_worst(metadata: bytes, name: str, value: bytes) -> None:
    """No stored bytes, no name and no value end in another exception."""
    for call in (xattrs.list_names, lambda kept: xattrs.get(kept, "user." + name)):
        with contextlib.suppress(FileError):
            call(metadata)
    try:
        changed = xattrs.set(metadata, "user." + name, value)
    except FileError:
        return
    assert changed is not None
    assert meaning(changed) is not None
