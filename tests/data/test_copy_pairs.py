"""Copies between every pair of places: every entry comes back, byte for byte."""

import gzip
import json
import os
import stat
import subprocess
import sys

import pytest
from support.moves import dump, fill, sample

from kvfs.core.model import Entry, Key

PLACES = [
    "x.json",
    "x.ndjson",
    "x.tar",
    "x.json.gz",
    "x.ndjson.gz",
    "x.tgz",
    "x.json.zst",
    "x.ndjson.zst",
    "x.tar.zst",
]


@pytest.mark.parametrize("name", [*PLACES, "directory"])
def test_everything_survives_a_copy_out_and_in(name, kvfs, tmp_path):
    """Hostile keys, binary and empty values, any metadata and expirations come back as they were."""
    entries = sample(2_300, binaries=20)
    store = fill(tmp_path / "a.sqlite", entries)
    kvfs("copy", store, name)
    kvfs("copy", name, "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite") == entries


def test_every_format_can_be_copied_to_every_other(kvfs, tmp_path):
    """A chain of copies through all formats, without a store in between, loses nothing."""
    entries = sample(40, binaries=3)
    place = fill(tmp_path / "a.sqlite", entries)
    for name in ("one.tar", "two.json", "three", "four.ndjson.gz", "five", "six.tar.zst", "seven.ndjson"):
        kvfs("copy", place, name)
        place = name
    kvfs("copy", place, "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite") == entries


def test_a_store_is_copied_to_a_store(kvfs, tmp_path):
    """A copy between stores makes the namespace, and leaves other keys in it alone."""
    entries = sample(1_200)
    store = fill(tmp_path / "a.sqlite", entries)
    fill(tmp_path / "b.sqlite", {Key("other"): Entry(b"1")})
    said = kvfs("copy", store, "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite") == entries | {Key("other"): Entry(b"1")}
    assert f"copied {len(entries):,} keys" in said.out


def test_the_largest_value_goes_through_every_format(kvfs, tmp_path):
    """25 MiB of bytes that are no text, whose base64 no bulk body may hold."""
    large = {Key("large"): Entry(bytes(range(256)) * 102_400, b'{"a":1}')}
    store = fill(tmp_path / "a.sqlite", large)
    for number, name in enumerate(("x.json", "x.ndjson.gz", "x.tar", "directory")):
        kvfs("copy", store, name)
        kvfs("copy", name, f"local:b{number}.sqlite/shop")
        assert dump(tmp_path / f"b{number}.sqlite") == large


def test_files_that_hold_values_are_private(kvfs, tmp_path):
    """An exported file is readable by its owner only, whatever the umask."""
    store = fill(tmp_path / "a.sqlite", sample())
    kvfs("copy", store, "x.ndjson")
    kvfs("copy", store, "directory")
    files = [tmp_path / "x.ndjson", *(path for path in (tmp_path / "directory").rglob("*") if path.is_file())]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_nobodys_file_is_written_over(kvfs, tmp_path):
    """A file or a directory that exists is changed only if an option says so."""
    store = fill(tmp_path / "a.sqlite", {Key("k"): Entry(b"v")})
    (tmp_path / "x.json").write_text("mine")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "k").write_text("mine")
    assert "x.json exists" in kvfs("copy", store, "x.json", ok=False).err
    assert "d is not empty" in kvfs("copy", store, "d", ok=False).err
    assert (tmp_path / "x.json").read_text() == "mine"
    assert (tmp_path / "d" / "k").read_text() == "mine"
    kvfs("copy", store, "x.json", "--if-exists", "overwrite")
    kvfs("copy", store, "d", "--if-exists", "overwrite")
    assert (tmp_path / "d" / "k").read_text() == "v"


def test_a_link_in_the_way_is_not_followed(kvfs, tmp_path):
    """A symbolic link in the way is refused, and its target is not touched."""
    store = fill(tmp_path / "a.sqlite", {Key("k"): Entry(b"v")})
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "x.json").symlink_to("theirs")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "k").symlink_to(tmp_path / "theirs")
    assert kvfs("copy", store, "x.json", "--if-exists", "overwrite", ok=False).status == 1
    assert kvfs("copy", store, "d", "--if-exists", "overwrite", ok=False).status != 0
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_standard_output_and_input(kvfs, tmp_path):
    """`-` with --format is a stream that contains entries and nothing else."""
    entries = sample(50)
    store = fill(tmp_path / "a.sqlite", entries)
    with open(tmp_path / "stream", "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "kvfs", "copy", store, "-", "--format", "ndjson.gz"],
            stdout=out,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 0, done.stderr
    lines = gzip.decompress((tmp_path / "stream").read_bytes()).splitlines()
    assert len(lines) == len(entries)
    with open(tmp_path / "stream", "rb") as stream:
        target = f"local:{tmp_path}/b.sqlite/shop"
        words = [sys.executable, "-m", "kvfs", "import", "-", target, "--format", "ndjson.gz"]
        subprocess.run(words, stdin=stream, check=True, capture_output=True)
    assert dump(tmp_path / "b.sqlite") == entries
    assert "say --format" in kvfs("copy", store, "-", ok=False).err


def test_a_key_that_is_a_directory_too_in_a_directory_that_grows(kvfs, tmp_path):
    """The file `a` moves into the directory `a` when a key below it comes later."""
    kvfs("copy", fill(tmp_path / "a.sqlite", {Key("a"): Entry(b"1")}), "d")
    second = fill(tmp_path / "b.sqlite", {Key("a/b"): Entry(b"2")})
    kvfs("copy", second, "d", "--if-exists", "skip")
    kvfs("copy", "d", "local:c.sqlite/shop")
    assert dump(tmp_path / "c.sqlite") == {Key("a"): Entry(b"1"), Key("a/b"): Entry(b"2")}


def test_bulk_json_is_what_wrangler_takes(kvfs, tmp_path):
    """An array of objects with key, value, base64, expiration and metadata, and nothing else."""
    entries = {Key("t"): Entry(b"text", b'{"a":1}', 4_000_000_000), Key("b"): Entry(b"\xff\x00")}
    kvfs("copy", fill(tmp_path / "a.sqlite", entries), "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == [
        {"key": "b", "value": "/wA=", "base64": True},
        {"key": "t", "value": "text", "expiration": 4_000_000_000, "metadata": {"a": 1}},
    ]


@pytest.mark.parametrize("behind", ["", "\n\nSuccess!\n"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_bulk_get_prints_is_taken(behind, wrapped, kvfs, tmp_path):
    """The object that `wrangler kv bulk get` prints is read, with or without metadata, and with the word behind it."""
    printed: dict[str, object] = {"a": {"value": "1", "metadata": {"x": 1.0}}, "b": "2", "c": {"value": "3"}}
    text = json.dumps({"values": printed} if wrapped else printed, indent=2) + behind
    (tmp_path / "got.json").write_text(text)
    kvfs("import", "got.json", "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite") == {
        Key("a"): Entry(b"1", b'{"x":1.0}'),
        Key("b"): Entry(b"2"),
        Key("c"): Entry(b"3"),
    }


def tar(*words, **options):
    """Run GNU tar, which must end well."""
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["tar", *map(str, words)], capture_output=True, text=True, env=env, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done


def test_gnu_tar_reads_and_writes_the_archive(kvfs, tmp_path):
    """Extracted and made again by GNU tar, metadata, expirations and hostile names are all there."""
    entries = sample(30, binaries=2)
    store = fill(tmp_path / "a.sqlite", entries)
    kvfs("export", store, "x.tar")
    (tmp_path / "out").mkdir()
    said = tar("--xattrs", "--xattrs-include=user.*", "-xf", tmp_path / "x.tar", "-C", tmp_path / "out")
    unknown = [line for line in said.stderr.split("\n")[:-1] if "in the future" not in line]
    assert unknown == []
    assert os.getxattr(tmp_path / "out" / "user" / "0" / "000000", "user.role") == b"user"
    kvfs("copy", "out", "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite") == entries
    tar("--xattrs", "-cf", tmp_path / "back.tar", "-C", tmp_path / "out", ".")
    kvfs("copy", "back.tar", "local:c.sqlite/shop")
    assert dump(tmp_path / "c.sqlite") == entries


def test_a_directory_with_extended_attributes(kvfs, tmp_path):
    """--metadata xattrs writes no manifest, and loses nothing."""
    entries = sample(30, binaries=2)
    kvfs("copy", fill(tmp_path / "a.sqlite", entries), "d", "--metadata", "xattrs")
    assert os.getxattr(tmp_path / "d" / "user" / "0" / "000000", "user.role") == b"user"
    kvfs("copy", "d", "local:b.sqlite/shop")
    assert dump(tmp_path / "b.sqlite") == entries
