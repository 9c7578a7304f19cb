"""`kvfs history` and `kvfs restore` of unmounted sources: the choice of place and version, and the messages."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kvfs.cli import main
from kvfs.cli.exits import Exit
from kvfs.core.digest import digest
from kvfs.core.model import How, Key, NamespaceId
from kvfs.history.allowance import Bounds
from kvfs.history.shelf import Shelf
from kvfs.history.version import AWAY, Version
from kvfs.history.version_segment import segments
from kvfs.host.sources import HISTORY, SourceRecord, write_source

NS = NamespaceId("1" * 32)
OLD = NamespaceId("2" * 32)
NOW = 1_796_000_000.0

Add = Callable[..., None]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TZ", "UTC")
    return tmp_path / "state"


def source(state: Path, name: str, *, mountpoint: str = "/nowhere/mnt", **more: str) -> Shelf:
    """A source that was mounted once; its history, to be added to."""
    journal = state / "sources" / name.replace("/", "_").replace(":", "_") / "journal.sqlite"
    journal.parent.mkdir(parents=True)
    record = SourceRecord(name, name, mountpoint, namespaces={NS: "ns"}, **more)
    write_source(journal, record)
    journal.touch()
    shelf = Shelf(journal.with_name(HISTORY), Bounds(1e10, 2**30), digest)
    shelf.open(NOW)
    return shelf


def add(shelf: Shelf, at: float, key: str, value: bytes | None, how: How = How.WRITE, **more) -> None:
    size = -1 if value is None else len(value)
    found = Version(NOW + at, more.pop("namespace", NS), Key(key), how, size=size, **more)
    found.why = AWAY if value is None else ""
    shelf.add([(found, value)], {NS: "ns", OLD: "ns"}, NOW)


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.mark.parametrize(
    "text", ["local:/s.db/ns/d/f", "local:/s.db/ns/d/f/", "/nowhere/mnt/ns/d/f", "local:/x/../s.db/ns/d/f"]
)
def test_a_place_is_found_by_its_source_and_by_where_it_was_mounted(state, capsys, text) -> None:
    """A place is found by its source and by where it was mounted, with the path below it.

    The longest source that fits counts.
    """
    add(source(state, "local:/s.db"), 0, "d/f", b"found")
    add(source(state, "local:/s.d", mountpoint="/nowhere"), 0, "d/f", b"another")
    status, out, _ = run(capsys, "history", "--json", text)
    assert status == Exit.OK
    assert [(one["path"], one["size"]) for one in json.loads(out)] == [("ns/d/f", 5)]


def test_a_place_that_nobody_knows(state, capsys) -> None:
    """The message about an unknown place names the known sources."""
    source(state, "local:/s.db")
    status, _, err = run(capsys, "history", "/etc/hostname")
    assert status == Exit.FAILED
    assert "neither in a mount nor in a source that was mounted here: local:/s.db" in err


def test_odd_names_lead_to_their_keys(state, capsys) -> None:
    """`%self`, escapes and a mount's prefix lead to their keys, also in a namespace made anew under its title."""
    shelf = source(state, "local:/s.db")
    for key in ("a", "a/b", "a//c", "x%2Fy"):
        add(shelf, 0, key, key.encode())
    add(shelf, 1, "gone", b"gone", how=How.DELETE, namespace=OLD)
    prefixed = source(state, "cloudflare:acc/ns/p", namespace=NS, prefix="p/")
    add(prefixed, 0, "p/k", b"k")

    def paths(text: str) -> list[str]:
        return [one["path"] for one in json.loads(run(capsys, "history", "--json", text)[1])]

    assert paths("local:/s.db/ns/a/%self") == ["ns/a/%self"]
    assert sorted(paths("local:/s.db/ns/a")) == ["ns/a", "ns/a/%/c", "ns/a/b"]
    assert paths("local:/s.db/ns/x%252Fy") == ["ns/x%252Fy"]
    assert "ns/gone" in paths("local:/s.db/ns")
    assert paths("cloudflare:acc/ns/p") == ["k"]


def test_a_version_of_changed_attributes_has_the_content_of_the_next(state, capsys, tmp_path) -> None:
    """A version of changed attributes has the content of the next version; if that has none, a message says so."""
    shelf = source(state, "local:/s.db")
    add(shelf, 0, "f", b"content", how=How.ATTRIBUTES)
    add(shelf, 5, "f", b"content", how=How.WRITE)
    add(shelf, 0, "g", b"content of g", how=How.ATTRIBUTES)
    to = ("--yes", "--to", tmp_path / "out")
    assert run(capsys, "restore", "local:/s.db/ns/f", "--at", "2026-11-30T00:53:19+00:00", *to)[0] == Exit.OK
    assert (tmp_path / "out").read_bytes() == b"content"
    status, _, err = run(capsys, "restore", "local:/s.db/ns/g", *to)
    assert status == Exit.LEFT
    assert "not kept, because its content has left the history since" in err


def test_what_is_not_kept_is_said_with_what_is(state, capsys, tmp_path) -> None:
    """A content that is not kept is reported with the reason and the command for the last version that is."""
    shelf = source(state, "local:/s.db")
    add(shelf, 0, "f", b"kept")
    add(shelf, 100, "f", None, how=How.DELETE)
    to = ("--yes", "--to", tmp_path / "out")
    status, _, err = run(capsys, "restore", "local:/s.db/ns/f", *to)
    assert status == Exit.FAILED
    assert "what was deleted at" in err
    assert f"is not kept: {AWAY}; the last that is kept was overwritten at" in err
    before = err.partition("--at '")[2].partition("'")[0]
    assert run(capsys, "restore", "local:/s.db/ns/f", "--at", before, *to)[0] == Exit.OK
    assert (tmp_path / "out").read_bytes() == b"kept"


def test_a_damaged_content_is_not_restored(state, capsys, tmp_path) -> None:
    """A content for which the disk returns other bytes than were written is not restored."""
    shelf = source(state, "local:/s.db")
    add(shelf, 0, "f", b"content")
    file = segments(shelf.directory)[0].path / "contents"
    file.write_bytes(b"c0ntent")
    status, _, err = run(capsys, "restore", "local:/s.db/ns/f", "--to", tmp_path / "out")
    assert (status, (tmp_path / "out").exists()) == (Exit.LEFT, False)
    assert "the content in the history is damaged" in err


def test_a_directory_goes_to_a_time_after_a_question(state, capsys, tmp_path, monkeypatch) -> None:
    """A directory is restored to a time after a question, which comes after the check of the arguments.

    `--dry-run` asks and writes nothing.
    """
    shelf = source(state, "local:/s.db")
    add(shelf, 100, "d/a", b"a", how=How.DELETE)
    add(shelf, 100, "d/b", b"b")
    out = tmp_path / "out"
    out.mkdir()
    (out / "b").write_text("present")
    asked = []
    monkeypatch.setattr("kvfs.cli.restore.confirm", asked.append)
    words = ("restore", "local:/s.db/ns/d", "--to", out)
    at = ("--at", "2026-11-30T00:53:30+00:00")
    status, said, _ = run(capsys, *words, *at, "--dry-run")
    assert (status, asked, said.count("would restore")) == (Exit.OK, [], 2)
    assert run(capsys, *words, "--at", "yesterday")[0] == Exit.USAGE
    assert asked == []
    assert run(capsys, *words, *at)[0] == Exit.OK
    assert len(asked) == 1
    assert asked == [f"{out / 'b'} exists and is written over; what is there now is not kept. Go on?"]
    assert ((out / "a").read_text(), (out / "b").read_text()) == ("a", "b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["local:/s.db/ns/nothing"], "nothing was overwritten or deleted at local:/s.db/ns/nothing"),
        (["local:/s.db/ns/d"], "nothing was deleted below local:/s.db/ns/d: --at TIME"),
        (["local:/s.db/ns/d", "--at", "2026-12-01"], "nothing below local:/s.db/ns/d was changed after"),
        (
            ["local:/s.db/ns/d/f", "--at", "2026-12-01"],
            "was not changed after 2026-12-01 00:00:00, or was made",
        ),
    ],
)
def test_what_cannot_be_restored(state, capsys, tmp_path, words, message) -> None:
    """A restore that is refused says the way out."""
    monday = 1_796_083_200.0  # 2026-12-01
    shelf = source(state, "local:/s.db")
    add(shelf, 0, "d/f", b"x")
    import kvfs.cli.restore as restore

    real = restore.time.time
    try:
        restore.time.time = lambda: monday + 3600
        status, _, err = run(capsys, "restore", *words, "--to", tmp_path / "out")
    finally:
        restore.time.time = real
    assert status == Exit.FAILED
    assert message in err


def test_an_ordinary_file_is_written_over_after_a_question(state, capsys, tmp_path, monkeypatch) -> None:
    """An ordinary file is written over only after a question, because nothing keeps its content; `--yes` answers it."""
    add(source(state, "local:/s.db"), 0, "f", b"old")
    target = tmp_path / "out"
    target.write_bytes(b"newer")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    status, _, err = run(capsys, "restore", "local:/s.db/ns/f", "--to", target)
    assert (status, target.read_bytes()) == (Exit.INTERRUPTED, b"newer")
    assert f"{target} exists and is written over; what is there now is not kept. Go on?" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    status, _, err = run(capsys, "restore", "local:/s.db/ns/f", "--to", target)
    assert (status, target.read_bytes(), "say --yes" in err) == (Exit.USAGE, b"newer", True)
    assert run(capsys, "restore", "local:/s.db/ns/f", "--to", target, "--yes")[0] == Exit.OK
    assert target.read_bytes() == b"old"
