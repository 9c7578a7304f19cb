"""Knowledge of binary values is shared on a machine: copies and mounts tell each other, counted in requests."""

import json
import subprocess
from collections import Counter

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.mounted import KVFS, Api, environment, mounted
from support.moves import fill_store
from support.serving import served_by_process

from kvfs.core.kinds import Kept, Kinds
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.host import kinds_file as kept_kinds
from kvfs.host.kinds_file import KindsFile
from kvfs.store.embedded.sqlite_store import open_sqlite

NS = NamespaceId("0123456789abcdef" * 2)
BINARIES = (7, 61, 62, 149)
ENTRIES = {Key(f"k{n:03}"): Entry(b"\xff%d" % n if n in BINARIES else b"v%d" % n) for n in range(150)}


@pytest.fixture
def served(tmp_path):
    """A server with one namespace, of text and a few binaries whose names tell nothing."""

    async def fill():
        async with open_sqlite(tmp_path / "store.sqlite", account="0123456789abcdef" * 2) as store:
            await fill_store(store, "shop", ENTRIES)

    trio.run(fill)
    with served_by_process(tmp_path) as ready:
        yield ready


def reads(api):
    """Return the reads that were counted so far, bulk and single."""
    counted = Counter(api.requests())
    return Counter({name: counted[name] for name in ("bulk_get", "get_value")})


def export(tmp_path, served, name):
    words = [*KVFS, "export", "cloudflare:/shop", name]
    subprocess.run(words, env=environment(tmp_path, served), cwd=tmp_path, check=True, capture_output=True)


@pytest.mark.fuse
def test_a_mount_tells_copies_and_later_mounts(served, tmp_path):
    """After a mount, a copy asks for each binary singly and for the rest by the hundred, and so does the next mount."""
    with Api(served) as api:
        with mounted(tmp_path, "cloudflare:/shop", served=served) as mount:
            mount.shell("cat * >/dev/null")
        first = reads(api)
        assert first["get_value"] + first["bulk_get"] > 10, "the binaries were known before"
        export(tmp_path, served, "x.ndjson")
        assert reads(api) - first == Counter(bulk_get=2, get_value=4)
        before = reads(api)
        with mounted(tmp_path, "cloudflare:/shop", served=served) as mount:
            mount.shell("cat * >/dev/null")
        assert (reads(api) - before)["get_value"] == 4


@pytest.mark.fuse
def test_a_copy_tells_mounts(served, tmp_path):
    """After an export no bulk get of a mount meets a binary, and each key is asked for once."""
    with Api(served) as api:
        export(tmp_path, served, "x.ndjson")
        before = reads(api)
        with mounted(tmp_path, "cloudflare:/shop", served=served) as mount:
            mount.shell("cat * >/dev/null")
        assert (reads(api) - before)["get_value"] == 4


PLACES = st.tuples(st.sampled_from(["a.png", "b.bin", "c", "d/e", "f.unheard"]), st.booleans())


@given(first=st.lists(PLACES), second=st.lists(PLACES))
def test_what_is_kept_is_what_was_learned(first, second, tmp_path_factory):
    """The second of two successive processes begins with the knowledge of the first, and its changes are kept."""
    file = KindsFile(tmp_path_factory.mktemp("state"), "account")
    last = {}
    for learned in (first, second):
        kinds = Kinds()
        kinds.recall(file.read())
        for key, is_text in learned:
            kinds.learn((NS, Key(key)), is_text=is_text)
            last[key] = is_text
        file.add(kinds.take_news())
    known = file.read().get(NS, Kept()).binary
    assert set(known) == {key for key, is_text in last.items() if not is_text}


@given(before=st.lists(PLACES), learned=st.lists(PLACES, min_size=1))
def test_a_likelihood_is_one_whatever_was_known_before(before, learned):
    """A binary that was known and is read again counts for no likelihood, so nothing is divided by zero values."""
    first, kinds = Kinds(), Kinds()
    for key, is_text in before:
        first.learn((NS, Key(key)), is_text=is_text)
    kinds.recall(first.take_news())
    for key, is_text in learned:
        kinds.learn((NS, Key(key)), is_text=is_text)
        for other in ("a.png", "z.bin", "y", "d/x", "w.unheard"):
            assert 0 <= kinds.risk((NS, Key(other))) <= 1


def test_a_binary_known_before_does_not_make_its_neighbours_binary():
    """A mount that first reads a known binary still asks for the others of its directory by the hundred."""
    kinds = Kinds()
    kinds.recall({NS: Kept(binary={"d/blob": True}, endings={".odd": (0, 0)})})
    kinds.learn((NS, Key("d/blob")), is_text=False)
    assert kinds.is_single((NS, Key("d/blob")))
    assert not kinds.is_single((NS, Key("d/other")))
    assert not kinds.is_single((NS, Key("x.odd")))


def test_an_ending_that_says_too_much_is_remembered():
    """Text under an ending of binaries is asked for by the hundred the next time, by copies and mounts."""
    kinds, later = Kinds(), Kinds()
    place = (NS, Key("1.bin"))
    assert kinds.is_surely_single(place)
    kinds.learn(place, is_text=True)
    later.recall(kinds.take_news())
    assert not later.is_surely_single((NS, Key("2.bin")))
    assert not later.is_single((NS, Key("2.bin")))


def test_a_rare_binary_does_not_make_its_ending_binary():
    """A rare binary is asked for singly, and other keys with its ending still come by the hundred."""
    kinds = Kinds()
    for number in range(10):
        kinds.learn((NS, Key(f"{number}.page")), is_text=number != 3)
    assert kinds.is_surely_single((NS, Key("3.page")))
    assert not kinds.is_surely_single((NS, Key("11.page")))


def test_the_file_is_bounded_and_private(tmp_path, monkeypatch):
    """The file keeps the newest of too many keys, and only its owner can read their names."""
    monkeypatch.setattr(kept_kinds, "MOST_KEYS", 10)
    file = KindsFile(tmp_path, "account")
    for number in range(4):
        file.add({NamespaceId(f"n{number}"): Kept({f"{number}-{n}": True for n in range(4)})})
    kept = {key for known in file.read().values() for key in known.binary}
    assert len(kept) == 10
    assert {f"3-{n}" for n in range(4)} <= kept
    [path] = (tmp_path / "kinds").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"n":1}', b'{"n":{"binary":[1],"endings":{"x":1}}}'])
def test_a_damaged_file_is_no_knowledge(content, tmp_path):
    """A damaged file counts as no knowledge: it costs requests, and nothing else."""
    file = KindsFile(tmp_path, "account")
    file.add({NS: Kept({"k": True})})
    [path] = (tmp_path / "kinds").iterdir()
    assert json.loads(path.read_bytes())
    path.write_bytes(content)
    assert file.read() == {}
