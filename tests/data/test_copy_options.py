"""Options of a copy: the keys it takes, its treatment of existing keys, its questions, and bad input."""

import io
import json
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.moves import dump, fill, sample, titles

from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key
from kvfs.data.plan import Plan
from kvfs.data.selection import Selection, parse_condition

USERS = {
    Key("user/1"): Entry(b"1", b'{"role":"admin","n":7,"a":{"b":true}}'),
    Key("user/2"): Entry(b"2", b'{"role":"guest","n":30}'),
    Key("post/1"): Entry(b"3"),
    Key("post/2.json"): Entry(b"4", b'"text"'),
}

# Choosing


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["--prefix", "user/"], {"user/1", "user/2"}),
        (["--match", "*1"], {"user/1", "post/1"}),
        (["--match", "*1", "--match", "*.json"], {"user/1", "post/1", "post/2.json"}),
        (["--where", "role=admin"], {"user/1"}),
        (["--where", "role"], {"user/1", "user/2"}),
        (["--where", "n>7"], {"user/2"}),
        (["--where", "n>=7", "--where", "role~a*"], {"user/1"}),
        (["--where", "a.b=true"], {"user/1"}),
        (["--where", "role!=admin"], {"user/2", "post/1", "post/2.json"}),
        (["--prefix", "user/", "--rename-prefix", "user/=people/"], {"people/1", "people/2"}),
        (["--rename-prefix", "user/="], {"1", "2", "post/1", "post/2.json"}),
    ],
)
def test_what_is_chosen(words, keys, kvfs, tmp_path):
    """Prefixes, patterns and conditions on metadata choose the keys, and a renamed prefix changes them."""
    kvfs("copy", fill(tmp_path / "a.sqlite", USERS), "local:b.sqlite/shop", *words)
    assert set(dump(tmp_path / "b.sqlite")) == keys


def test_a_prefix_in_from_and_to_is_a_directory(kvfs, tmp_path):
    """`SOURCE/user/` names the keys below, as in a mount, and `TO/people/` puts them there."""
    kvfs("copy", fill(tmp_path / "a.sqlite", USERS) + "/user/", "local:b.sqlite/shop/people/")
    assert set(dump(tmp_path / "b.sqlite")) == {"people/1", "people/2"}


@given(st.text(max_size=8), st.text(max_size=4), st.text(max_size=4))
def test_a_key_keeps_what_no_rule_names(inner, strip, add):
    """Stripping and adding a prefix changes nothing behind it."""
    choice = Selection(strip=strip, add=add)
    assert choice.moved(strip + inner) == add + inner
    assert choice.chosen(strip + inner, None)


@pytest.mark.parametrize("text", ["", "=x", ">5"])
def test_a_condition_that_means_nothing_is_refused(text):
    """A condition without a meaning is refused, and the line says how conditions are written."""
    with pytest.raises(UserError, match="is no condition"):
        parse_condition(text)


# Entries that are there


@pytest.mark.parametrize(
    ("how", "value", "status"), [("overwrite", b"1", 0), ("skip", b"old", 0), ("fail", b"old", 1)]
)
def test_what_happens_to_a_key_that_is_there(how, value, status, kvfs, tmp_path):
    """A key that is there is replaced or left alone, or nothing at all is written, as the option says."""
    target = fill(tmp_path / "b.sqlite", {Key("user/1"): Entry(b"old")})
    said = kvfs("copy", fill(tmp_path / "a.sqlite", USERS), target, "--if-exists", how, ok=False)
    found = dump(tmp_path / "b.sqlite")
    assert said.status == status, said
    assert found[Key("user/1")].value == value
    assert len(found) == (1 if how == "fail" else 4)


def test_only_what_is_newer_is_copied(kvfs, tmp_path):
    """A directory's files go to a store when they were modified since the last copy there."""
    (tmp_path / "d").mkdir()
    for name in ("one", "two"):
        (tmp_path / "d" / name).write_text("1")
        os.utime(tmp_path / "d" / name, (1_000_000_000, 1_000_000_000))
    words = ("copy", "d", "local:b.sqlite/shop", "--if-exists", "newer")
    assert "copied 2 keys" in kvfs(*words).out
    assert "copied 0 keys" in kvfs(*words).out
    (tmp_path / "d" / "two").write_text("2")
    os.utime(tmp_path / "d" / "two", (time.time() + 3, time.time() + 3))
    assert "copied 1 keys" in kvfs(*words).out
    assert dump(tmp_path / "b.sqlite")[Key("two")].value == b"2"


def test_newer_needs_times(kvfs, tmp_path):
    """KV keeps no times, so a copy of newer files from it is refused instead of guessed."""
    said = kvfs(
        "copy", fill(tmp_path / "a.sqlite", USERS), "local:b.sqlite/s", "--if-exists", "newer", ok=False
    )
    assert "KV keeps none" in said.err


def test_a_mirror_deletes_what_is_gone(kvfs, tmp_path):
    """--delete removes at the target what the source has not, below the prefix that was copied only."""
    old = {Key("user/9"): Entry(b"9"), Key("else"): Entry(b"e")}
    target = fill(tmp_path / "b.sqlite", old)
    source = fill(tmp_path / "a.sqlite", USERS)
    kvfs("copy", source, target, "--prefix", "user/", "--delete")
    assert set(dump(tmp_path / "b.sqlite")) == {"user/1", "user/2", "else"}
    kvfs("copy", source, "d")
    (tmp_path / "d" / "more").mkdir()
    (tmp_path / "d" / "more" / "file").write_text("x")
    kvfs("copy", source, "d", "--delete", "--if-exists", "overwrite")
    assert not (tmp_path / "d" / "more").exists()
    assert "--delete mirrors" in kvfs("copy", source, target, "--delete", "--match", "*1", ok=False).err


def test_a_mirror_of_a_damaged_source_deletes_nothing(kvfs, tmp_path):
    """A mirror of a damaged source deletes nothing, because an unreadable key could be one that seems missing."""
    target = fill(tmp_path / "b.sqlite", {Key("k"): Entry(b"1")})
    (tmp_path / "x.ndjson").write_text('{"key":"a","value":"1"}\n{"key":"k","value":\n')
    said = kvfs("import", "x.ndjson", target, "--delete", "--skip-bad", ok=False)
    assert said.status == 3
    assert "nothing was deleted" in said.err
    assert set(dump(tmp_path / "b.sqlite")) == {"a", "k"}


# Asking


def test_a_dry_run_says_what_it_takes_and_writes_nothing(kvfs, tmp_path):
    """A dry run shows keys, and bytes where they are known, and makes no target."""
    kvfs("copy", fill(tmp_path / "a.sqlite", USERS), "x.ndjson")
    said = kvfs("import", "x.ndjson", "local:b.sqlite/shop", "--dry-run")
    assert "4 keys to copy; 4 B" in said.out
    assert titles(tmp_path / "b.sqlite") == []


def test_more_than_ten_thousand_keys_are_asked_about(kvfs, tmp_path, monkeypatch):
    """A copy of more than ten thousand keys asks first; without a terminal only --yes lets it write."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    source = fill(tmp_path / "a.sqlite", {Key(f"k{n}"): Entry(b"") for n in range(10_001)})
    said = kvfs("copy", source, "local:b.sqlite/shop", ok=False)
    assert said.status == 2
    assert "10,001 keys to copy" in said.err
    assert "say --yes" in said.err
    kvfs("copy", source, "local:b.sqlite/shop", "--yes")
    assert len(dump(tmp_path / "b.sqlite")) == 10_001


@pytest.mark.parametrize(
    ("plan", "requests", "dollars", "asks"),
    [
        (Plan(0), (0, 0), 0.0, False),
        (Plan(20_000, lists=20, singles=20, reads_billed=True), (220, 220), 0.0101, True),
        (Plan(10_000, writes_billed=True), (1, 10), 0.05, False),
        (Plan(10_001, writes_billed=True), (2, 11), 0.050005, True),
        (Plan(100_001, reads_billed=True), (1001, 1001), 0.0500005, True),
        (Plan(0, deletes=25_000, writes_billed=True), (3, 25), 0.125, True),
        (Plan(300_000, lists=300, reads_billed=True, writes_billed=True), (3030, 3300), 1.6515, True),
    ],
)
def test_what_a_plan_says(plan, requests, dollars, asks):
    """A plan has the requests from the least to the most, dollars by key, and says when to ask."""
    assert plan.requests == requests
    assert plan.dollars == pytest.approx(dollars)
    assert plan.must_ask is asks
    assert plan.must_ask_to_read is (plan.dollars > 0.05)


def test_a_plan_counts_the_windows_of_the_limit():
    """A plan sends 1,200 requests at once, and the rest in the windows after."""
    assert Plan(100_000, reads_billed=True).minutes < 5
    assert Plan(300_000, reads_billed=True, writes_billed=True).minutes >= 10


# Entries that are wrong


BAD = {
    "not JSON": ('{"key":"x","value":', "line 2"),
    "no value": ('{"key":"x"}', "it has no value"),
    "no key": ('{"value":"x"}', "line 2"),
    "bad base64": ('{"key":"x","value":"%","base64":true}', "not valid base64"),
    "a number": ('{"key":"x","value":5}', "line 2"),
    "an expiration": ('{"key":"x","value":"","expiration":-1}', "expiration"),
    "a short ttl": ('{"key":"x","value":"","expiration_ttl":59}', "less than 60 seconds"),
    "an endless ttl": ('{"key":"x","value":"","expiration_ttl":1e300}', "expiration_ttl"),
    "a surrogate": ('{"key":"\\ud800","value":""}', "surrogate"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", ["x.ndjson", "x.json"])
def test_a_malformed_record_is_named_and_nothing_is_written(kind, name, kvfs, tmp_path):
    """The line names it; --skip-bad goes on without it and lists it."""
    text, message = BAD[kind]
    good, more = '{"key":"a","value":"1"}', '{"key":"b","value":"2"}'
    if name.endswith(".json") and kind == "not JSON":
        text = '{"key":"x","value":}'
    lines = [good, text, more]
    content = "\n".join(lines) if name == "x.ndjson" else "[" + ",\n".join(lines) + "]"
    (tmp_path / name).write_text(content)
    said = kvfs("import", name, "local:b.sqlite/shop", ok=False)
    assert said.status == 1
    assert message in said.err
    assert "line 2" in said.err
    assert "nothing was written" in said.err
    said = kvfs("import", name, "local:b.sqlite/shop", "--skip-bad", ok=False)
    assert said.status == 3
    assert set(dump(tmp_path / "b.sqlite")) == {"a", "b"}
    [listed] = (tmp_path / "state" / "copies").glob("*.skipped.ndjson")
    assert json.loads(listed.read_text())["where"] == "line 2"


LIMITS = {
    "key": ({"key": "k" * 513, "value": ""}, "its key has 513 bytes, at most 512"),
    "dots": ({"key": "..", "value": ""}, "'..' cannot be a key"),
    "metadata": ({"key": "k", "value": "", "metadata": "m" * 1030}, "1032 bytes, at most 1024"),
    "value": ({"key": "k", "value": "v" * (25 * 1024 * 1024 + 1)}, "26214401 bytes, at most 26214400"),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_what_kv_cannot_keep_is_named_and_the_rest_goes_on(kind, kvfs, tmp_path):
    """A key that KV cannot keep is named and the rest goes on, or nothing does with --strict."""
    pair, message = LIMITS[kind]
    (tmp_path / "x.json").write_text(json.dumps([pair, {"key": "a", "value": "1"}]))
    said = kvfs("import", "x.json", "local:b.sqlite/shop", "--strict", ok=False)
    assert said.status == 1
    assert message in said.err
    assert "nothing was written" in said.err
    said = kvfs("import", "x.json", "local:b.sqlite/shop", ok=False)
    assert said.status == 3
    assert message in said.err
    assert set(dump(tmp_path / "b.sqlite")) == {"a"}


def test_of_a_key_that_occurs_twice_the_last_counts(kvfs, tmp_path):
    """The first is named; with --strict nothing is written."""
    lines = ['{"key":"a","value":"1"}', '{"key":"b","value":"2"}', '{"key":"a","value":"3"}']
    (tmp_path / "x.ndjson").write_text("\n".join(lines))
    assert "occurs again" in kvfs("import", "x.ndjson", "local:b.sqlite/s", "--strict", ok=False).err
    said = kvfs("import", "x.ndjson", "local:b.sqlite/shop", ok=False)
    assert said.status == 3
    assert "1 duplicate key" in said.err
    assert dump(tmp_path / "b.sqlite") == {Key("a"): Entry(b"3"), Key("b"): Entry(b"2")}


def test_what_has_expired_is_dropped_or_kept(kvfs, tmp_path):
    """An expired entry is dropped, which is no failure, or kept, and then never expires."""
    lines = ['{"key":"old","value":"1","expiration":1000}', '{"key":"new","value":"2"}']
    (tmp_path / "x.ndjson").write_text("\n".join(lines))
    said = kvfs("import", "x.ndjson", "local:b.sqlite/shop")
    assert "1 expired" in said.err
    assert set(dump(tmp_path / "b.sqlite")) == {"new"}
    kvfs("import", "x.ndjson", "local:c.sqlite/shop", "--expired", "keep")
    assert dump(tmp_path / "c.sqlite")[Key("old")] == Entry(b"1")


def test_less_than_a_minute_to_live_is_a_minute(kvfs, tmp_path):
    """An entry with less than a minute to live gets a minute, because KV would refuse its value for good."""
    soon = int(time.time()) + 20
    (tmp_path / "x.ndjson").write_text(json.dumps({"key": "k", "value": "1", "expiration": soon}))
    kvfs("import", "x.ndjson", "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite")[Key("k")].expiration > soon + 30


@pytest.mark.parametrize("name", ["x.ndjson", "x.json"])
def test_a_ttl_counts_from_the_import(kvfs, tmp_path, name):
    """An expiration_ttl in wrangler's bulk JSON counts from the import, and wins over an expiration, as in the API."""
    lines = [
        '{"key":"ttl","value":"1","expiration_ttl":3600}',
        '{"key":"both","value":"1","expiration":4000000000,"expiration_ttl":3600}',
        '{"key":"null","value":"1","expiration":4000000000,"expiration_ttl":null}',
    ]
    text = "\n".join(lines) if name == "x.ndjson" else f"[{','.join(lines)}]"
    (tmp_path / name).write_text(text)
    before = int(time.time())
    kvfs("import", name, "local:b.sqlite/shop")
    found = {key: entry.expiration for key, entry in dump(tmp_path / "b.sqlite").items()}
    assert found.pop(Key("null")) == 4_000_000_000
    assert set(found) == {"ttl", "both"}
    for expiration in found.values():
        assert before + 3600 <= expiration <= time.time() + 3600


def test_what_is_no_file_in_a_directory_is_named(kvfs, tmp_path):
    """Links and pipes in a directory are named, because they have no place in KV."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_text("1")
    (tmp_path / "d" / "link").symlink_to("file")
    os.mkfifo(tmp_path / "d" / "pipe")
    said = kvfs("copy", "d", "local:b.sqlite/shop", ok=False)
    assert said.status == 3
    assert "2 unreadable" in said.err
    assert "link: key 'link': it is no regular file" in said.err
    assert set(dump(tmp_path / "b.sqlite")) == {"file"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON array"),
        (b"hello", "no JSON array"),
        (b"[", "cut off"),
        (b'[{"key":"a","value":"1"}', "cut off"),
        (b'[{"key":"a","value":"1', "cut off"),
        (b'[{"key":"a","value":"1"},,]', "missing between two commas"),
        (b'{"a":', "neither an array of pairs"),
    ],
)
def test_a_json_file_that_is_none_says_why(content, message, kvfs, tmp_path):
    """A malformed JSON file is refused with the reason, and nothing is written."""
    (tmp_path / "x.json").write_bytes(content)
    said = kvfs("import", "x.json", "local:b.sqlite/shop", ok=False)
    assert said.status == 1
    assert message in said.err


@pytest.mark.parametrize("name", ["x.json.gz", "x.ndjson.zst", "x.tar", "x.tar.gz"])
def test_a_file_that_is_not_what_its_name_says_is_refused(name, kvfs, tmp_path):
    """A file whose content does not fit its name is refused by name."""
    (tmp_path / name).write_bytes(b"hello" * 500)
    said = kvfs("import", name, "local:b.sqlite/shop", ok=False)
    assert said.status == 1
    assert f"{name}: it is" in said.err, said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("copy", "nothing.json", "local:b.sqlite/s"), "nothing.json does not exist"),
        (("copy", "local:none/x", "x.json"), "there is no store at none/x"),
        (("copy", "local:a.sqlite", "x.json"), "name one"),
        (("copy", "local:a.sqlite/none", "x.json"), "unknown namespace 'none'"),
        (("copy", "local:a.sqlite/shop", "no/where/x.json"), "does not exist: make it first"),
        (("copy", "local:a.sqlite/shop", "x.json", "--rename-prefix", "x"), "OLD=NEW"),
        (("copy", "local:a.sqlite/shop", "-", "--format", "xml"), "--format is json, ndjson or tar"),
        (("export", "d", "x.json"), "d is no store"),
        (("import", "x.json", "y.json"), "y.json is no store"),
        (("copy", "s3:bucket", "x.json"), "is none of these"),
    ],
)
def test_words_that_name_nothing_are_explained(words, message, kvfs, tmp_path):
    """Words that name nothing are explained with one line and the way out."""
    fill(tmp_path / "a.sqlite", {})
    said = kvfs(*words, ok=False)
    assert said.status in (1, 2)
    assert message in said.err


def test_a_sample_is_hostile_enough():
    """The sample that the other tests move has an odd key of every kind."""
    keys = set(sample())
    assert {"a", "a/b", "%self", "//"} <= keys
