"""Claims: the keys of a mount, and the cases in which two mounts would have the same ones."""

import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvfs.core.errors import UserError
from kvfs.host.claims import claim, claimed, locked, overlap, remembered_id
from kvfs.host.leftovers import remove_records
from kvfs.host.sources import SourceRecord, store_of, write_source
from kvfs.host.state import MountRecord, birth, read_record, record_path, records

A, B = "cloudflare:https://api\naccount", "local:/store"
TEXT = st.text("ab/", max_size=3)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory."""
    (tmp_path / "mounts").mkdir()
    return tmp_path


def record(name: str, **fields) -> MountRecord:
    """Return the record of a mount by this very process, which certainly lives; two of them differ by `pid` alone."""
    found = MountRecord(f"/mnt/{name}", f"cloudflare:/{name}", os.getpid(), "/s", 1.0, store=A, journal=name)
    return replace(found, **{"born": birth(found.pid)} | fields)


def other(name: str, **fields) -> MountRecord:
    """Return the record of a mount by another process that lives."""
    return record(name, **{"pid": os.getppid(), "born": birth(os.getppid())} | fields)


def keys(store: str, namespace: str = "", prefix: str = "") -> MountRecord:
    """Return the record of a mount that has these keys."""
    return MountRecord("/m", "local:/x", 1, "/s", 1.0, store=store, namespace=namespace, prefix=prefix)


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (keys(A), keys(A), True),
        (keys(A), keys(B), False),
        (keys(A), keys(A, "n"), True),
        (keys(A, "n"), keys(A, "n"), True),
        (keys(A, "n"), keys(A, "m"), False),
        (keys(A, "n"), keys(B, "n"), False),
        (keys(A, "n"), keys(A, "n", "pre/"), True),
        (keys(A, "n", "pre/"), keys(A), True),
        (keys(A, "n", "pre/"), keys(A, "n", "pre/deep/"), True),
        (keys(A, "n", "pre/"), keys(A, "n", "prefix/"), False),
        (keys(A, "n", "pre"), keys(A, "n", "prefix"), True),
        (keys(A, "n", "pre/"), keys(A, "m", "pre/"), False),
        (keys(B), keys(B), True),
    ],
)
def test_keys_overlap_where_one_could_be_among_both(
    mine: MountRecord, theirs: MountRecord, expected: bool
) -> None:
    """Keys overlap by store, namespace and prefix, where one key could be among both."""
    assert overlap(mine, theirs) is expected


@given(TEXT, TEXT, TEXT)
def test_a_key_that_is_among_both_makes_them_overlap(mine: str, theirs: str, key: str) -> None:
    """A key among both makes two sources overlap, and the order of the two does not matter."""
    one, two = keys(A, "n", mine), keys(A, "n", theirs)
    assert overlap(one, two) is overlap(two, one)
    if key.startswith(mine) and key.startswith(theirs):
        assert overlap(one, two)


@pytest.mark.parametrize(
    ("identity", "store"),
    [
        ("cloudflare:https://api\naccount\nns\npre", "cloudflare:https://api\naccount"),
        ("wrangler:/project/.wrangler\nstaging\nKV\n", "wrangler:/project/.wrangler"),
        ("local:/a/b", "local:/a/b"),
    ],
)
def test_the_store_of_a_source(identity: str, store: str) -> None:
    """The store of a source is its account, project or file."""
    assert store_of(identity) == store


def test_a_mount_is_refused_by_the_name_of_the_other(state: Path) -> None:
    """A mount is refused with the name of the other, and then claims nothing."""
    claim(other("shop", namespace="n"), [state])
    with pytest.raises(
        UserError, match=r"cloudflare:/mine has keys .* mounted at /mnt/shop as cloudflare:/shop"
    ):
        claim(record("mine"), [state])
    assert [one.mountpoint for one in records(state)] == ["/mnt/shop"]
    claim(record("mine", namespace="m"), [state])


@pytest.mark.parametrize(
    "fields",
    [
        {"is_read_only": True},
        {"journal": "mine"},  # its lock says so
        {"store": ""},  # of a kvfs that did not say so
        {"store": B},
        {"born": 1},  # another process of that number
        {"pid": 2**22 + 1},  # it died
    ],
)
def test_what_is_in_nobodys_way(state: Path, fields) -> None:
    """Mounts that cannot write, records of dead processes and other stores do not get in the way."""
    claim(other("shop", **fields), [state])
    claim(record("mine"), [state])
    assert len(records(state)) == 2


def test_a_read_only_mount_is_in_nobodys_way(state: Path) -> None:
    """A read-only mount is never refused for its overlap."""
    claim(other("shop"), [state])
    claim(record("mine", is_read_only=True), [state])


def test_mounts_of_another_state_directory_count(state: Path, tmp_path_factory) -> None:
    """A mount of another state directory counts, and the record is kept in the first."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mounts").mkdir()
    claim(other("shop"), [elsewhere])
    with pytest.raises(UserError, match="/mnt/shop"):
        claim(record("mine"), [state, elsewhere])
    claim(record("mine", store=B), [state, elsewhere, state])
    assert [one.mountpoint for one in records(state)] == ["/mnt/mine"]


def test_the_answer_of_the_server_says_which_namespace_it_is(state: Path) -> None:
    """The server's answer tells a title's namespace, which may be one that is mounted by its id."""
    claim(other("shop", namespace="id"), [state])
    mine = record("mine", namespace="Shop")
    with claimed(mine, [state]), pytest.raises(UserError, match="/mnt/shop"):
        claim(replace(mine, namespace="id", prefix=""), [state])
    assert read_record(record_path(Path("/mnt/mine"), state)) is None


def test_titles_are_remembered_of_every_source_of_the_store(tmp_path: Path) -> None:
    """Titles of every source of the store are remembered, so an id is one namespace under any title.

    An unknown one stays as it is.
    """
    for number, identity in enumerate((f"{A}\n\n", f"{A}\nShop\npre", f"{A}2\n\n")):
        folder = tmp_path / "sources" / str(number)
        folder.mkdir(parents=True)
        (folder / "journal.sqlite").touch()
        names = {f"id{number}": f"title{number}", "id9": "id0"}
        write_source(folder / "journal.sqlite", SourceRecord("", identity, "", namespaces=names))
    ids = {text: remembered_id(A, text, [tmp_path]) for text in ("title0", "title1", "title2", "id0", "")}
    assert ids == {"title0": "id0", "title1": "id1", "title2": "title2", "id0": "id0", "": ""}


def test_of_two_that_start_at_once_one_is_refused(state: Path) -> None:
    """One of two mounts that start at once is refused, because they look and claim one after the other."""
    found: list[str] = []

    def start(one: MountRecord) -> None:
        try:
            claim(one, [state])
        except UserError:
            found.append("refused")

    threads = [threading.Thread(target=start, args=(one,)) for one in (record("a"), other("b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["refused"]


def test_a_record_of_before_is_read(state: Path) -> None:
    """A record of an earlier version is read, and says nothing of keys."""
    path = record_path(Path("/m"), state)
    path.write_text(
        json.dumps({"mountpoint": "/m", "source": "local:/x", "pid": 1, "socket": "/s", "since": 1.0})
    )
    assert read_record(path) == MountRecord("/m", "local:/x", 1, "/s", 1.0)


def test_an_ending_mount_takes_its_record_back_while_nobody_claims(state: Path) -> None:
    """An ending mount removes its record while nobody claims, or it could remove one that a new mount is writing."""
    path = record_path(Path("/mnt/mine"), state)
    mount = claimed(record("mine"), [state])
    mount.__enter__()
    with locked(state / "mounts"):
        ending = threading.Thread(target=mount.__exit__, args=(None, None, None))
        ending.start()
        ending.join(0.1)
        assert path.exists()
    ending.join()
    assert not path.exists()


def test_records_of_the_dead_go_while_nobody_claims(state: Path) -> None:
    """Records of dead mounts are removed while nobody claims, because a new mount may have a record of that name."""
    claim(other("shop", pid=2**22 + 1), [state])
    with locked(state / "mounts"):
        sweeping = threading.Thread(target=remove_records, args=(state,))
        sweeping.start()
        sweeping.join(0.1)
        assert len(records(state)) == 1
    sweeping.join()
    assert records(state) == []


@pytest.mark.parametrize(
    ("number", "way_out"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EACCES, "it must be yours, with mode 700"),
        (errno.EROFS, "or name another directory with --state-dir"),
    ],
)
def test_a_record_that_cannot_be_written_has_the_right_way_out(state: Path, monkeypatch, number, way_out):
    """A record that cannot be written names the way out by the disk's own word."""

    def fail(record, path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("kvfs.host.claims.write_record", fail)
    with pytest.raises(UserError, match=way_out), claimed(record("mine"), [state]):
        pass
