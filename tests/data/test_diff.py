"""`kvfs diff`: the differences it finds, its requests, and its exit status."""

import json

import pytest
from support.moves import dump, fill, sample

from kvfs.core.model import Entry, Key

A = {
    Key("same"): Entry(b"1", b'{"a":1}', 4_000_000_000),
    Key("value"): Entry(b"1"),
    Key("metadata"): Entry(b"1", b'{"a":1}'),
    Key("expiration"): Entry(b"1", None, 4_000_000_000),
    Key("only in a"): Entry(b"1"),
}
B = {
    Key("same"): Entry(b"1", b'{"a": 1}', 4_000_000_000),
    Key("value"): Entry(b"2"),
    Key("metadata"): Entry(b"1", b'{"a":1.0}'),
    Key("expiration"): Entry(b"1"),
    Key("only in b"): Entry(b"1"),
}


@pytest.fixture
def places(kvfs, tmp_path):
    """Two stores that differ in every way."""
    return fill(tmp_path / "a.sqlite", A), fill(tmp_path / "b.sqlite", B)


def test_every_kind_of_difference_is_named(kvfs, places):
    """Every kind of difference gives one line a key, in order, and status 1."""
    said = kvfs("diff", *places, "--values", ok=False)
    assert said.status == 1
    assert said.out.splitlines() == [
        "~ expiration  (expiration)",
        "~ metadata  (metadata)",
        "- only in a",
        "+ only in b",
        "~ value  (value)",
    ]


def test_listings_tell_no_values(kvfs, places):
    """Without --values a value that differs is not seen."""
    assert "~ value" not in kvfs("diff", *places, ok=False).out


def test_json_is_a_line_a_key(kvfs, places):
    """`--json` prints a line a key for programs."""
    lines = [
        json.loads(line) for line in kvfs("diff", *places, "--values", "--json", ok=False).out.splitlines()
    ]
    assert {"key": "only in a", "only": "a"} in lines
    assert {"key": "value", "differs": ["value"]} in lines


def test_a_place_is_the_same_as_itself(kvfs, places):
    """A place compared with itself gives status 0 and no output, and its store is opened once."""
    said = kvfs("diff", places[0], places[0], "--values")
    assert said.text == ""


@pytest.mark.parametrize("name", ["x.json", "x.ndjson.gz", "x.tar", "d"])
def test_a_store_is_the_same_as_its_export(name, kvfs, tmp_path):
    """A store equals its export in any format and any order of keys."""
    store = fill(tmp_path / "a.sqlite", sample(300, binaries=3))
    kvfs("export", store, name)
    assert kvfs("diff", store, name, "--values").text == ""
    assert kvfs("diff", name, store, "--values").text == ""


def test_only_what_is_chosen_is_compared(kvfs, places):
    """A prefix, a pattern or a condition restricts the comparison."""
    assert kvfs("diff", *places, "--prefix", "same", "--values").status == 0
    assert kvfs("diff", *places, "--match", "only in a", ok=False).out == "- only in a\n"


def test_trouble_is_status_2(kvfs, places, tmp_path):
    """An error gives status 2, as for diff(1), where 1 means that the places differ."""
    assert kvfs("diff", places[0], "local:none/x", ok=False).status == 2
    (tmp_path / "bad.ndjson").write_text("{")
    said = kvfs("diff", places[0], "bad.ndjson", ok=False)
    assert said.status == 2
    assert "line 1" in said.err


def test_two_namespaces_of_one_store(kvfs, tmp_path):
    """Two namespaces in one file of a store can be copied and compared."""
    store = fill(tmp_path / "a.sqlite", sample(1_500))
    kvfs("copy", store, "local:a.sqlite/other")
    kvfs("diff", store, "local:a.sqlite/other", "--values")
    assert dump(tmp_path / "a.sqlite", "other") == dump(tmp_path / "a.sqlite")
