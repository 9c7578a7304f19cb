"""Copies of a whole account: of all namespaces, to an account, a directory or a file of each, and back."""

import pytest
from support.moves import dump, fill, sample, titles

from kvfs.core.model import Entry, Key

ACCOUNT = {
    "shop": sample(40, binaries=2),
    "users / staging": {Key("k"): Entry(b"v", b'{"a":1}', 4_000_000_000)},
    "..": {Key("k"): Entry(b"dots")},
    "empty": {},
}


@pytest.fixture
def account(tmp_path):
    """An embedded store with several namespaces, titles that no file name holds among them."""
    for title, entries in ACCOUNT.items():
        fill(tmp_path / "a.sqlite", entries, title)
    return f"local:{tmp_path}/a.sqlite"


def all_of(file):
    return {title: dump(file, title) for title in titles(file)}


def test_an_account_is_copied_to_an_account(kvfs, account, tmp_path):
    """Every namespace is copied under its title; one that is there already gets the keys."""
    fill(tmp_path / "b.sqlite", {Key("old"): Entry(b"1")}, "shop")
    kvfs("copy", account, "local:b.sqlite")
    expected = ACCOUNT | {"shop": ACCOUNT["shop"] | {Key("old"): Entry(b"1")}}
    assert all_of(tmp_path / "b.sqlite") == expected


@pytest.mark.parametrize("words", [[], ["--format", "ndjson.gz"], ["--format", "tar"]])
def test_an_account_goes_through_a_directory(words, kvfs, account, tmp_path):
    """An account becomes a directory of each namespace, as in a mount, or with --format a file of each."""
    kvfs("copy", account, "out/", *words)
    suffix = f".{words[1]}" if words else ""
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}{suffix}" for name in ("shop", "users %2F staging", "%2E%2E", "empty")
    }
    kvfs("copy", "out/", "local:b.sqlite", *words)
    assert all_of(tmp_path / "b.sqlite") == ACCOUNT


def test_it_goes_on_with_the_namespace_that_failed(kvfs, account, tmp_path):
    """A copy goes on with the namespace that failed, and does not repeat those that are done."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "shop").write_text("in the way")
    said = kvfs("copy", account, "out/", ok=False)
    assert said.status != 0
    (tmp_path / "out" / "shop").unlink()
    said = kvfs("copy", account, "out/")
    assert "%2E%2E" not in said.err
    assert ".. is done already" in said.err
    kvfs("copy", "out/", "local:b.sqlite")
    assert all_of(tmp_path / "b.sqlite") == ACCOUNT


def test_a_dry_run_of_all_writes_nothing(kvfs, account, tmp_path):
    """A dry run of an account shows a plan for each namespace, and writes nothing."""
    said = kvfs("copy", account, "out/", "--dry-run")
    assert said.out.count("keys to copy") == len(ACCOUNT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("local:a.sqlite", "x.tar"), "x.tar holds one: name one, local:a.sqlite/NAMESPACE"),
        (("local:a.sqlite", "local:b.sqlite/shop"), "name one on both sides"),
        (("local:a.sqlite/shop", "local:b.sqlite"), "name one on both sides"),
        (("d", "local:b.sqlite"), "d/file is not a directory: each namespace is one"),
        (("d", "local:b.sqlite", "--format", "tar"), "d/file is not a file that ends in .tar"),
        (("nothing/", "local:b.sqlite"), "nothing/ does not exist"),
    ],
)
def test_what_cannot_hold_all_namespaces_is_refused(words, message, kvfs, account, tmp_path):
    """A target that cannot hold all namespaces is refused by name, with the way out, and nothing is written."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_text("1")
    said = kvfs("copy", *words, ok=False)
    assert said.status in (1, 2)
    assert message in said.err
    assert not (tmp_path / "x.tar").exists()
    assert not (tmp_path / "b.sqlite").exists() or titles(tmp_path / "b.sqlite") == []
