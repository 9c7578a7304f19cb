"""Local attributes, kept on this machine beside the changes: modes, times, directories, first sight of namespaces."""

import pytest
from support.journals import NS, START, ack_all, delete, open_journal, put, side_of, small_disk

from kvfs.core.digest import digest
from kvfs.core.model import Key, NamespaceId
from kvfs.journal.worth import Worth, worth
from kvfs.kept import facts as memory
from kvfs.kept import side
from kvfs.kept.local import DirRow, LocalAttrs

A, B = Key("a"), Key("b")
OTHER = NamespaceId("other")


@pytest.fixture
def path(tmp_path):
    """Return the place of the journal."""
    return tmp_path / "journal.db"


@pytest.fixture
def kept(path):
    """Yield the attributes of an empty journal."""
    with open_journal(path) as journal:
        yield journal.attributes


def test_attributes_of_a_file_survive_a_reopen(path):
    """Attributes of a file survive a reopen, and each of them may be unset."""
    attrs = LocalAttrs(0o755, 1, None, 3)
    with open_journal(path) as journal:
        journal.attributes.set_file_attrs(NS, A, attrs)
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, A) == attrs
        assert journal.attributes.file_attrs(NS, B) is None
        assert journal.attributes.file_attrs(OTHER, A) is None


def test_attributes_of_a_key_without_a_change_are_kept(path):
    """Attributes of a key without a change are kept: `chmod` of a file the store has sends nothing."""
    with open_journal(path) as journal:
        journal.attributes.set_file_attrs(NS, A, LocalAttrs(mode=0o600))
        assert journal.pending() == []


def test_attributes_go_with_their_key(path):
    """Attributes go with their key, so a new file of the name starts afresh even if the deletion is never sent."""
    with open_journal(path) as journal:
        put(journal, "a", attrs=LocalAttrs(mode=0o600))
        delete(journal, "a")
        assert journal.attributes.file_attrs(NS, A) is None
        journal.attributes.set_file_attrs(NS, B, LocalAttrs(mode=0o600))
        journal.record_delete(NS, B, base=b"")
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, B) is None


def test_many_files_do_not_fill_the_memory(kept, monkeypatch):
    """Attributes of many files do not fill the memory, and those that are not remembered are read again."""
    monkeypatch.setattr(memory, "CACHED_FILES", 10)
    monkeypatch.setattr(memory, "SAVE_COUNT", 7)
    for number in range(100):
        kept.set_file_attrs(NS, Key(str(number)), LocalAttrs(mode=number))
    assert [kept.file_attrs(NS, Key(str(number))).mode for number in range(100)] == list(range(100))
    assert len(kept._kept.unsaved) < 7
    assert len(kept._kept._cached) == 10


def test_made_directories_survive_a_reopen(path):
    """Made directories survive a reopen with their attributes, until they are removed."""
    with open_journal(path) as journal:
        journal.attributes.add_dir(NS, DirRow("d/", 2, 0o700, 5, 6))
        journal.attributes.add_dir(NS, DirRow("e/", 2))
        journal.attributes.remove_dir(NS, "e/", 2)
    with open_journal(path) as journal:
        assert journal.attributes.dir(NS, "d/", 2) == DirRow("d/", 2, 0o700, 5, 6)
        assert journal.attributes.has_dir(NS, "d/", 2)
        assert not journal.attributes.has_dir(NS, "d/", 0)
        assert not journal.attributes.has_dir(NS, "e/", 2)
        assert not journal.attributes.has_dir(OTHER, "d/", 2)


def test_directories_below_a_prefix_come_in_order(kept):
    """Directories below a prefix come in order, with itself and without neighbours."""
    for prefix in ["d/", "d/b/", "d/a/", "d0/", "c/"]:
        kept.add_dir(NS, DirRow(prefix, len(prefix)))
    assert [row.prefix for row in kept.dirs_under(NS, "d/")] == ["d/", "d/a/", "d/b/"]
    assert list(kept.dirs_under(OTHER, "")) == []


def test_walking_directories_is_safe_against_changes(kept):
    """A walk over directories gives those at the call, whatever changes meanwhile."""
    kept.add_dir(NS, DirRow("a/", 2))
    kept.add_dir(NS, DirRow("b/", 2))
    rows = kept.dirs_under(NS, "")
    kept.remove_dir(NS, "b/", 2)
    assert [row.prefix for row in rows] == ["a/", "b/"]


def test_renaming_a_directory_takes_those_below_along(kept):
    """A rename of a directory takes those below along; `start` is a place in the prefix and moves with it."""
    for prefix, start in [("old/", 4), ("old/sub/", 8), ("old/" + "x" * 250, 4), ("older/", 6)]:
        kept.add_dir(NS, DirRow(prefix, start, 0o700))
    kept.move_dirs(NS, "old/", "new/name/")
    assert {(row.prefix, row.start) for row in kept.dirs_under(NS, "")} == {
        ("new/name/", 9),
        ("new/name/sub/", 13),
        ("new/name/" + "x" * 250, 9),
        ("older/", 6),
    }


def test_renaming_a_directory_into_its_own_name_longer(kept):
    """`mv d d2` does not find its own results among the directories below."""
    kept.add_dir(NS, DirRow("d/", 2))
    kept.add_dir(NS, DirRow("d/d/", 4))
    kept.move_dirs(NS, "d/", "d/d/")
    assert [row.prefix for row in kept.dirs_under(NS, "")] == ["d/d/", "d/d/d/"]


def test_a_namespace_is_seen_first_once(path):
    """A namespace is seen first once, and its unchanged files show that time, across remounts."""
    with open_journal(path) as journal:
        assert journal.attributes.namespace_first_seen(NS, START + 0.9) == int(START)
    with open_journal(path) as journal:
        assert journal.attributes.namespace_first_seen(NS, START + 99) == int(START)


# contents that were shown

FIRST, SECOND_, THIRD = (digest(text) for text in (b"first", b"second", b"third"))


def test_a_content_that_was_not_shown_before_keeps_the_time(kept):
    """The first content found of a key is no change, so the time stays."""
    kept.set_file_attrs(NS, A, LocalAttrs(mode=0o600, mtime_ns=5))
    kept.found(NS, [(A, FIRST), (B, FIRST)], now_ns=9)
    assert kept.file_attrs(NS, A) == LocalAttrs(0o600, 5, None, None, FIRST[:8])
    assert kept.file_attrs(NS, B) == LocalAttrs(shown=FIRST[:8])


@pytest.mark.parametrize("attrs", [None, LocalAttrs(mode=0o600, mtime_ns=5)])
def test_another_content_than_was_shown_is_dated_over_a_reopen(path, attrs):
    """Another content than was shown gets a new date, also over a reopen, and an equal one does not."""
    with open_journal(path) as journal:
        if attrs is not None:
            journal.attributes.set_file_attrs(NS, A, attrs)
        journal.attributes.found(NS, [(A, FIRST)], now_ns=6)
    with open_journal(path) as journal:
        journal.attributes.found(NS, [(A, FIRST)], now_ns=7)
        before = attrs.mtime_ns if attrs is not None else None
        assert journal.attributes.file_attrs(NS, A).mtime_ns == before
        journal.attributes.found(NS, [(A, SECOND_)], now_ns=8)
    with open_journal(path) as journal:
        found = journal.attributes.file_attrs(NS, A)
        assert (found.mtime_ns, found.ctime_ns, found.shown) == (8, 8, SECOND_[:8])
        assert found.mode == (attrs.mode if attrs is not None else None)


def test_a_content_that_stays_costs_no_transaction(kept):
    """A content that stays costs no transaction, not even one that writes nothing."""
    kept.found(NS, [(A, FIRST)], now_ns=6)
    before = kept._transactions.log.last
    kept.found(NS, [(A, FIRST)], now_ns=7)
    assert kept._transactions.log.last == before


def test_only_a_change_of_time_shows(kept):
    """A directory's listing may be repeated when a content was only noted, because only a change of time shows."""
    generation = kept._transactions.kept.generation
    before = generation.number
    kept.found(NS, [(A, FIRST)], now_ns=6)
    assert generation.number == before
    kept.found(NS, [(A, SECOND_)], now_ns=7)
    assert generation.number > before


def test_what_was_shown_goes_with_its_key_and_its_namespace(path):
    """The digest shown goes with its key and its namespace, whatever its row's length, in memory and in tables."""
    with open_journal(path) as journal:
        kept = journal.attributes
        for namespace in (NS, OTHER):
            kept.found(namespace, [(A, FIRST), (B, FIRST)], now_ns=6)
        kept.found(NS, [(A, SECOND_)], now_ns=7)
        kept.set_file_attrs(NS, A, LocalAttrs(mode=0o600))
        journal.record_delete(NS, A, base=b"")
        journal.drop_namespace(OTHER)
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, A) is None
        assert journal.attributes.file_attrs(NS, B) == LocalAttrs(shown=FIRST[:8])
        assert journal.attributes.file_attrs(OTHER, A) is None
        assert journal.attributes.file_attrs(OTHER, B) is None


def test_the_newest_row_of_a_key_counts_whatever_its_length(path):
    """The newest row of a key counts: a mode makes a short row long, and a file moved there makes it short again."""
    with open_journal(path) as journal:
        kept = journal.attributes
        kept.found(NS, [(A, FIRST)], now_ns=6)
        kept.set_file_attrs(NS, A, LocalAttrs(mode=0o600, shown=SECOND_[:8]))
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, A) == LocalAttrs(mode=0o600, shown=SECOND_[:8])
        journal.attributes.set_file_attrs(NS, A, LocalAttrs(None, 3, 3, None, THIRD[:8]))
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, A) == LocalAttrs(None, 3, 3, None, THIRD[:8])


def test_what_was_shown_takes_little_room(path):
    """A digest in the tables takes at most 64 bytes a key, however long the keys are."""
    with open_journal(path) as journal:
        empty = path.stat().st_size
    count = 20_000
    keys = [Key(f"a/directory/with/a/long/name/{number:0200}") for number in range(count)]
    with open_journal(path) as journal:
        for start in range(0, count, 100):
            contents = [(key, digest(key.encode())) for key in keys[start : start + 100]]
            journal.attributes.found(NS, contents, now_ns=6)
        other = [(key, FIRST) for key in keys[::3]]
        journal.attributes.found(NS, other, now_ns=2**60)
    assert (path.stat().st_size - empty) / count <= 64


def gone(journal):
    """The places of deleted keys in the side table."""
    return {place for (place,) in side_of(journal).execute("SELECT place FROM gone")}


def test_of_deleted_keys_the_latest_are_remembered(path, monkeypatch):
    """The content that they were shown with: not of every key that was ever deleted here."""
    monkeypatch.setattr(side, "GONE_KEPT", 3)
    shown = LocalAttrs(shown=b"12345678")
    with open_journal(path) as journal:
        for name in "abcdef":
            journal.attributes.set_file_attrs(NS, Key(name), shown)
            side_of(journal)
            delete(journal, name, base=None)
            ack_all(journal)
            journal.settle(START + 1000, 0)
        assert side_of(journal).execute("SELECT count(*) FROM shown").fetchone()[0] == 0
        assert gone(journal) == {side.short_place(NS, Key(name)) for name in "def"}
    with open_journal(path) as journal:
        assert journal.attributes.file_attrs(NS, Key("e")) == LocalAttrs(shown=b"12345678", is_gone=True)
        journal.attributes.found(NS, [(Key("e"), b"12345678"), (Key("f"), b"another content")], 7)
        assert journal.attributes.file_attrs(NS, Key("e")) == shown
        assert journal.attributes.file_attrs(NS, Key("f")).mtime_ns == 7
        put(journal, "d")
        assert gone(journal).isdisjoint({side.short_place(NS, Key(name)) for name in "ef"})
    assert worth(path) is Worth.CHANGES


def test_a_journal_inherits_what_is_kept_of_keys_and_no_changes(path, tmp_path):
    """From one that is open, or was made by another source, or is damaged: then it begins empty."""
    attrs = LocalAttrs(0o755, 1, 2, 3)
    with open_journal(path) as journal:
        journal.attributes.set_file_attrs(NS, A, attrs)
        journal.attributes.set_file_attrs(NS, B, LocalAttrs(None, 5, 5, None, b"12345678"))
        side_of(journal)
        put(journal, "c")
        with open_journal(tmp_path / "heir" / "journal.db", heir_of=path) as heir:
            assert heir.attributes.file_attrs(NS, A) == attrs
            assert heir.attributes.file_attrs(NS, B).mtime_ns == 5
            assert heir.pending() == []
        with open_journal(tmp_path / "other" / "journal.db", source="another", heir_of=path) as other:
            assert other.attributes.file_attrs(NS, A) is None
    with open_journal(tmp_path / "new" / "journal.db", heir_of=tmp_path / "missing") as new:
        assert new.attributes.file_attrs(NS, A) is None


def test_a_journal_without_room_for_what_it_inherits_begins_empty(path, tmp_path, expect_log):
    """It opens on a nearly full disk, says what is not taken over, and goes on when there is room."""
    expect_log("directories that .* are not taken over: .*No space left")
    heirs = tmp_path / "heir" / "journal.db"
    heirs.parent.mkdir()
    with open_journal(path) as journal:
        for number in range(100):
            journal.attributes.add_dir(NS, DirRow(f"directory {number}/", 0))
        with small_disk(heirs, 1000), open_journal(heirs, heir_of=path) as heir:
            assert list(heir.attributes.dirs_under(NS, "")) == []
        with open_journal(heirs, heir_of=path) as heir:
            put(heir, "c")
