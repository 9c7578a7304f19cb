"""`kvfs ls`, `find`, `cat`, `put`, `rm`, `edit`, `du` on an embedded store."""

import io
import json
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.moves import dump, fill, sample

from kvfs.core.model import Entry, Key

SOON = int(time.time()) + 42 * 60 + 20
ENTRIES = {
    Key("config.json"): Entry(b'{"a":1}', b'{"role":"admin"}'),
    Key("session"): Entry(b"s", None, SOON),
    Key("user"): Entry(b"the key user"),
    Key("user/1"): Entry(b"one", b'{"role":"admin","n":1}', SOON + 86_400),
    Key("user/2/x"): Entry(b"two"),
    Key("username"): Entry(b"no"),
    Key("image"): Entry(b"\xff\xd8" + bytes(3000)),
}


@pytest.fixture
def shop(tmp_path):
    """A store with a handful of keys."""
    return fill(tmp_path / "a.sqlite", ENTRIES)


@pytest.fixture
def no_terminal(monkeypatch):
    """Leave nobody who could answer a question."""
    monkeypatch.setattr("sys.stdin", io.StringIO())


# ls


def test_ls_shows_one_level(kvfs, shop):
    """`ls` shows keys below a key as a directory."""
    assert kvfs("ls", shop).out.split() == ["config.json", "image", "session", "user", "user/", "username"]
    assert kvfs("ls", f"{shop}/user").out.split() == ["user", "user/1", "user/2/"]
    assert kvfs("ls", f"{shop}/user/").out.split() == ["user/1", "user/2/"]


def test_ls_recursively_shows_all(kvfs, shop):
    """`ls -R` shows every key, in order."""
    assert kvfs("ls", "-R", shop).out.splitlines() == sorted(ENTRIES)


def test_ls_long_tells_when_keys_expire(kvfs, shop):
    """`ls -l` shows an expiration as `in 42 min`, not as a date, and metadata as it is."""
    lines = kvfs("ls", "-l", shop).out.splitlines()
    assert '     never  config.json  {"role":"admin"}' in lines
    assert any(
        re.fullmatch(r" in (4[0-2]|3\d) min  session", line) for line in lines
    )  # SOON came nearer meanwhile


@pytest.mark.parametrize(
    ("expiration", "shown"),
    [(SOON + 400 * 86_400, "in 400 d"), (4_000_000_000, "2096-10-02"), (1_795_342_800_000, "year 58862")],
    ids=[
        "days",
        "a date",
        "a year",
    ],  # no moment of now, because processes that share the tests compare names
)
def test_ls_long_shows_a_far_expiration_as_a_date(kvfs, tmp_path, expiration, shown):
    """Days are for the next two years; a time given in milliseconds is in a year that no calendar has."""
    store = fill(tmp_path / "a.sqlite", {Key("a"): Entry(b"1", None, expiration)})
    assert kvfs("ls", "-l", store).out == f"{shown:>10}  a\n"


def test_milliseconds_for_seconds_are_kept_and_named(kvfs, tmp_path):
    """JavaScript's Date.now() is taken as it is, as the API takes it, with a word about what was meant."""
    store, moment, hint = fill(tmp_path / "a.sqlite", {}), 1_795_342_800_000, "write 1795342800"
    said = kvfs("put", f"{store}/a", "v", "--expiration", str(moment)).err
    assert f"{moment} is in the year 58862" in said
    assert hint in said
    (tmp_path / "bulk.json").write_text(
        json.dumps([{"key": "b", "value": "v", "expiration": moment}, {"key": "c", "value": "v"}])
    )
    assert (
        f"'b' expires far from now: KV counts seconds, and {moment}"
        in kvfs("copy", str(tmp_path / "bulk.json"), store).err
    )
    assert hint in kvfs("copy", "--dry-run", store, str(tmp_path / "out.ndjson")).out
    for line in kvfs("ls", "--json", store).out.splitlines():
        assert json.loads(line).get("expiration") == (None if '"c"' in line else moment)
    assert "a time from now is --ttl" in kvfs("put", f"{store}/a", "v", "--expiration", "3600", ok=False).err
    assert "expiration" not in kvfs("put", f"{store}/a", "v", "--expiration", "4000000000").err


def test_ls_of_a_store_shows_namespaces(kvfs, shop, tmp_path):
    """`ls` of a store shows the id and title of its namespaces."""
    fill(tmp_path / "a.sqlite", {}, "other")
    assert re.fullmatch(r"[0-9a-f]{32}  other\n[0-9a-f]{32}  shop\n", kvfs("ls", "local:a.sqlite").out)


def test_ls_of_nothing_says_so(kvfs, shop):
    """`ls` of a wrong name is an error, and of an empty namespace it is not."""
    assert "no key is 'nope'" in kvfs("ls", f"{shop}/nope", ok=False).err


def test_json_is_a_line_a_key(kvfs, shop):
    """A line of JSON has the metadata as JSON and the expiration in seconds."""
    lines = [json.loads(line) for line in kvfs("ls", "-R", "--json", shop).out.splitlines()]
    assert {"key": "session", "expiration": SOON} in lines
    assert {"key": "config.json", "metadata": {"role": "admin"}} in lines


def test_nothing_hostile_reaches_the_terminal(kvfs, tmp_path):
    """Control characters of keys are escaped, and in JSON they are escaped as JSON does."""
    store = fill(tmp_path / "a.sqlite", sample())
    said = kvfs("ls", "-lR", store)
    assert all(line.isprintable() for line in said.out.splitlines())
    for line in kvfs("ls", "-R", "--json", store).out.split("\n")[:-1]:
        json.loads(line)


# find


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["--meta", "role=admin"], {"config.json", "user/1"}),
        (["--key", "*.json"], {"config.json"}),
        (["--expires-within", "1h"], {"session"}),
        (["--expires-within", "1d2h", "--meta", "n=1"], {"user/1"}),
        (["--expires"], {"session", "user/1"}),
        (["--binary"], {"image"}),
        (["--larger", "2K"], {"image"}),
        (["--smaller", "2", "--text"], {"session"}),
        (["--never-expires", "--key", "user*"], {"user", "user/2/x", "username"}),
    ],
)
def test_find_finds(words, keys, kvfs, shop):
    """`find` finds keys by key, metadata, expiration, size and kind."""
    assert set(kvfs("find", shop, *words).out.splitlines()) == keys


def test_find_below_a_prefix_for_xargs(kvfs, shop):
    """With `-0` NUL ends each key."""
    assert set(kvfs("find", f"{shop}/user", "-0").out.split("\0")) == {"user", "user/1", "user/2/x", ""}


# cat, put


def test_cat_writes_the_bytes(kvfs, shop):
    """`cat` writes the bytes of a value, binary or not, and nothing else."""
    command = [sys.executable, "-m", "kvfs", "cat", f"{shop}/image"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == ENTRIES[Key("image")].value
    assert kvfs("cat", f"{shop}/config.json").out == '{"a":1}'
    assert kvfs("cat", "-m", f"{shop}/config.json").out == '{"role":"admin"}\n'
    assert kvfs("cat", f"{shop}/none", ok=False).err == "kvfs: there is no key 'none'\n"
    assert "name a key" in kvfs("cat", shop, ok=False).err


def test_put_writes_value_metadata_and_ttl(kvfs, shop, tmp_path, monkeypatch):
    """`put` takes the value from an argument, a file or standard input, with metadata and a ttl."""
    kvfs("put", f"{shop}/a", "text", "--metadata", '{"x": 1}', "--ttl", "2h")
    (tmp_path / "file").write_bytes(b"\xff\x00")
    kvfs("put", f"{shop}/b", "--file", tmp_path / "file")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\x01in")))
    kvfs("put", f"{shop}/c")
    found = dump(tmp_path / "a.sqlite")
    assert found[Key("a")].value == b"text"
    assert found[Key("a")].metadata == b'{"x":1}'
    assert abs(found[Key("a")].expiration - time.time() - 7200) < 10
    assert found[Key("b")] == Entry(b"\xff\x00")
    assert found[Key("c")] == Entry(b"\x01in")


def test_put_keeps_what_the_key_has_when_asked(kvfs, shop, tmp_path):
    """`put` replaces all parts of an entry as the API does, and with --keep only the value."""
    kvfs("put", f"{shop}/user/1", "new", "--keep")
    assert dump(tmp_path / "a.sqlite")[Key("user/1")] == Entry(
        b"new", b'{"role":"admin","n":1}', SOON + 86_400
    )
    kvfs("put", f"{shop}/user/1", "new")
    assert dump(tmp_path / "a.sqlite")[Key("user/1")] == Entry(b"new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("k", "v", "--metadata", "{"), "is not JSON"),
        (("k", "v", "--ttl", "30"), "less than 60 seconds"),
        (("k", "v", "--ttl", "soon"), "is not a duration"),
        (("k", "v", "--ttl", "2h", "--expiration", "4000000000"), "give one"),
        (("k" * 513, "v"), "513 bytes, at most 512"),
        (("..", "v"), "cannot be a key"),
        (("k", "v", "--metadata", json.dumps("m" * 1100)), "1102 bytes, at most 1024"),
    ],
)
def test_put_says_what_kv_cannot_keep(words, message, kvfs, shop, tmp_path):
    """`put` refuses an entry that KV cannot keep with one line, and writes nothing."""
    key, *rest = words
    said = kvfs("put", f"{shop}/{key}", *rest, ok=False)
    assert said.status in (1, 2)
    assert message in said.err
    assert dump(tmp_path / "a.sqlite") == ENTRIES


@pytest.mark.parametrize("rest", [("--metadata", "{"), ("--ttl", "2h", "--expiration", "4000000000")])
def test_put_refuses_its_options_before_it_reads_a_value(rest, kvfs, shop, monkeypatch):
    """`put` refuses wrong options at once, and lets nobody type a value for nothing."""
    typed = io.TextIOWrapper(io.BytesIO(b"a value"))
    monkeypatch.setattr("sys.stdin", typed)
    assert kvfs("put", f"{shop}/k", *rest, ok=False).status == 2
    assert typed.buffer.tell() == 0


# rm


def test_rm_deletes_one_key(kvfs, shop, tmp_path):
    """`rm` deletes one key and shows it."""
    assert kvfs("rm", f"{shop}/user").out == "delete user\n"
    assert set(dump(tmp_path / "a.sqlite")) == set(ENTRIES) - {"user"}
    assert "there is no key" in kvfs("rm", f"{shop}/user", ok=False).err


def test_rm_of_many_shows_them_first(kvfs, shop, tmp_path, no_terminal):
    """`rm` of many keys shows them first, and without --yes and a terminal deletes nothing."""
    said = kvfs("rm", "-r", f"{shop}/user", ok=False)
    assert said.out.splitlines() == ["delete user", "delete user/1", "delete user/2/x"]
    assert "say --yes" in said.err
    assert dump(tmp_path / "a.sqlite") == ENTRIES
    assert "would delete user/1" in kvfs("rm", "-rn", f"{shop}/user").out
    kvfs("rm", "-ry", f"{shop}/user", "--match", "*/*", "--where", "role=admin")
    assert set(dump(tmp_path / "a.sqlite")) == set(ENTRIES) - {"user/1"}
    assert "nothing to delete" in kvfs("rm", "-ry", f"{shop}/none", ok=False).err


# edit


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Return a function that sets an editor which runs a line of shell on its file."""

    def choose(script):
        path = tmp_path / "editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setenv("EDITOR", str(path))
        monkeypatch.delenv("VISUAL", raising=False)

    return choose


def test_edit_keeps_metadata_and_expiration(kvfs, shop, tmp_path, editor):
    """`edit` changes the value only, and its file is private and is removed."""
    editor('stat -c %a "$1" > mode; echo more >> "$1"')
    kvfs("edit", f"{shop}/user/1")
    found = dump(tmp_path / "a.sqlite")[Key("user/1")]
    assert found == Entry(b"onemore\n", b'{"role":"admin","n":1}', SOON + 86_400)
    assert (tmp_path / "mode").read_text() == "600\n"
    assert list((tmp_path / "state" / "edits").iterdir()) == []


def test_edit_takes_the_backup_of_the_editor_away(kvfs, shop, tmp_path, editor):
    """`name~`, which emacs and others leave beside the file, holds the value: it is removed, and is no failure."""
    editor('cp "$1" "$1~"; echo more >> "$1"')
    kvfs("edit", f"{shop}/user/1")
    assert dump(tmp_path / "a.sqlite")[Key("user/1")].value == b"onemore\n"
    assert list((tmp_path / "state" / "edits").iterdir()) == []


def test_edit_names_a_command_of_an_editor_that_makes_no_sense(kvfs, shop, monkeypatch):
    """A malformed command of the editor, with a quote that is not closed for instance, is named."""
    monkeypatch.setenv("VISUAL", "vi '")
    assert (
        'the editor "vi \'" cannot be run: No closing quotation' in kvfs("edit", f"{shop}/new", ok=False).err
    )


def test_edit_makes_a_key(kvfs, shop, tmp_path, editor):
    """`edit` of a key that does not exist makes it, as editors make files."""
    editor('echo new > "$1"')
    kvfs("edit", f"{shop}/new")
    assert dump(tmp_path / "a.sqlite")[Key("new")] == Entry(b"new\n")


def test_edit_writes_nothing_when_nothing_changed(kvfs, shop, editor):
    """`edit` without a change writes nothing."""
    editor("true")
    assert "nothing was changed" in kvfs("edit", f"{shop}/user").err


def test_edit_minds_a_change_made_meanwhile(kvfs, shop, tmp_path, editor):
    """After a change by another client both versions are kept: theirs in the store, ours in the file of the message."""
    other = f"{sys.executable} -m kvfs put {shop}/user theirs"
    editor(f'{other}; echo ours > "$1"')
    said = kvfs("edit", f"{shop}/user", ok=False)
    assert "somebody changed 'user' meanwhile" in said.err
    assert dump(tmp_path / "a.sqlite")[Key("user")].value == b"theirs"
    [file] = re.findall(r"what you wrote is in (\S+)", said.err)
    assert Path(file).read_text() == "ours\n"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    editor(f'{other}2; echo ours > "$1"')
    kvfs("edit", f"{shop}/user", "--force")
    assert dump(tmp_path / "a.sqlite")[Key("user")].value == b"ours\n"


def test_edit_that_fails_keeps_the_text(kvfs, shop, tmp_path, editor):
    """An editor that fails writes nothing and its text is kept; one that is missing is named."""
    editor("exit 3")
    assert "ended with status 3" in kvfs("edit", f"{shop}/user", ok=False).err
    assert dump(tmp_path / "a.sqlite") == ENTRIES


# du


def test_du_counts(kvfs, shop):
    """`du` counts keys, bytes, the largest value, and expirations."""
    said = kvfs("du", shop, "--largest", "1").out.splitlines()
    assert said[0].startswith("7 keys, 3.0 KiB; 1 binary, 2 with metadata")
    assert said[1] == "expire: 1 within 1 h, 1 within 1 w, 5 never"
    assert said[2:] == ["   2.9 KiB  image"]
    found = json.loads(kvfs("du", f"{shop}/user", "--json").out)
    assert found["keys"] == 3
    assert found["bytes"] == len(b"the key user" + b"one" + b"two")
