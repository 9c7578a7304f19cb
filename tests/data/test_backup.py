"""`kvfs backup` and `kvfs restore-backup`: full and changed, verified, kept by a rule, restored to any of them."""

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.moves import dump, fill, sample

from kvfs.core.model import Entry, Key
from kvfs.data.retention import Backup, backup_of, chain_of, is_due, kept, name_of, parse_keep
from kvfs.store.embedded.sqlite_store import open_sqlite

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


def remove(file, *keys):
    """Delete keys of the store."""

    async def work():
        async with open_sqlite(file) as store:
            [namespace] = await store.list_namespaces()
            await store.bulk_delete(namespace.id, [Key(key) for key in keys])

    trio.run(work)


@pytest.fixture
def history(kvfs, tmp_path):
    """Three backups, a second apart, and the states that they are of."""
    states = []
    entries = sample(60, binaries=3)
    store = fill(tmp_path / "a.sqlite", entries)
    for step in range(3):
        if step:
            change = {Key(f"new/{step}"): Entry(b"n"), Key("a"): Entry(b"changed %d" % step)}
            fill(tmp_path / "a.sqlite", change)
            remove(tmp_path / "a.sqlite", f"user/{step}/{step:06}")
            time.sleep(1.01)
        kvfs("backup", store, "backups")
        states.append(dump(tmp_path / "a.sqlite"))
    return states


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "backups").glob("2*"))


def test_the_first_backup_is_full_and_the_next_hold_changes(history, tmp_path):
    """The first backup is full, and later ones hold changes, found by digest where the listing tells nothing."""
    found = [backup_of(name).is_full for name in names(tmp_path)]
    assert found == [True, False, False]
    sizes = [(tmp_path / "backups" / name).stat().st_size for name in names(tmp_path)]
    assert sizes[1] < sizes[0] / 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "backups").iterdir())


@pytest.mark.parametrize("number", range(3))
def test_each_state_can_be_restored(number, history, kvfs, tmp_path):
    """Each state can be restored, to a new store, or over one that has other keys."""
    name = names(tmp_path)[number]
    assert kvfs("restore-backup", "backups", "local:r.sqlite/shop", "--at", name, "--dry-run").status == 0
    kvfs("restore-backup", "backups", "local:r.sqlite/shop", "--at", name)
    assert dump(tmp_path / "r.sqlite") == history[number]
    fill(tmp_path / "r.sqlite", {Key("else"): Entry(b"e")})
    kvfs("restore-backup", "backups", "local:r.sqlite/shop", "--at", name, "--delete", "--yes")
    assert dump(tmp_path / "r.sqlite") == history[number]


def test_the_newest_is_restored_unless_another_is_named(history, kvfs, tmp_path):
    """The newest backup is restored unless another is named, and a full one is an export that can be imported."""
    kvfs("restore-backup", "backups", "local:r.sqlite/shop")
    assert dump(tmp_path / "r.sqlite") == history[2]
    kvfs("import", f"backups/{names(tmp_path)[0]}", "local:i.sqlite/shop")
    assert dump(tmp_path / "i.sqlite") == history[0]


def test_nothing_new_is_no_backup(history, kvfs, tmp_path):
    """A backup without any change makes no file."""
    before = names(tmp_path)
    assert "nothing has changed" in kvfs("backup", f"local:{tmp_path}/a.sqlite/shop", "backups").out
    assert names(tmp_path) == before


def test_listings_alone_miss_a_value(history, kvfs, tmp_path):
    """`--listing-only` reads only keys that are new in the listing, so it misses a changed value, as its help says."""
    fill(tmp_path / "a.sqlite", {Key("a"): Entry(b"again")})
    store = f"local:{tmp_path}/a.sqlite/shop"
    assert "nothing has changed" in kvfs("backup", store, "backups", "--listing-only").out
    fill(tmp_path / "a.sqlite", {Key("a"): Entry(b"again", b"1")})
    assert "1 changed, 0 gone" in kvfs("backup", store, "backups", "--listing-only").out


def test_each_is_read_to_its_end_when_they_are_listed(history, kvfs, tmp_path):
    """A list of backups reads each to its end, names a damaged one, and ends with status 1."""
    assert len(kvfs("restore-backup", "backups").out.splitlines()) == 3
    file = tmp_path / "backups" / names(tmp_path)[1]
    file.write_bytes(file.read_bytes()[:-5])
    said = kvfs("restore-backup", "backups", ok=False)
    assert said.status == 1
    assert "is damaged" in said.out
    assert "is damaged" in kvfs("restore-backup", "backups", "local:r.sqlite/shop", ok=False).err


def test_a_lost_index_makes_the_next_backup_full(history, kvfs, tmp_path):
    """Without its index the next backup is full, because every value has to be read again."""
    (tmp_path / "backups" / ".kvfs-index.sqlite").unlink()
    assert "-full" in kvfs("backup", f"local:{tmp_path}/a.sqlite/shop", "backups").out


def test_old_ones_are_deleted_by_the_rule(history, kvfs, tmp_path):
    """Old backups are deleted by the rule, and those that the newest needs stay."""
    store = f"local:{tmp_path}/a.sqlite/shop"
    kvfs("backup", store, "backups", "--keep", "1d")
    assert len(names(tmp_path)) == 3
    time.sleep(1.01)
    kvfs("backup", store, "backups", "--keep", "1d", "--full")
    assert len(names(tmp_path)) == 1
    assert "--keep is like" in kvfs("backup", store, "backups", "--keep", "often", ok=False).err


def test_two_backups_do_not_meet(kvfs, tmp_path):
    """A second backup at the same time says that another is running."""
    store = fill(tmp_path / "a.sqlite", sample(50))
    kvfs("backup", store, "backups")
    holder = "import sys,time\nfrom pathlib import Path\nfrom kvfs.data.backups import BackupIndex\n"
    holder += "index = BackupIndex(Path('backups'))\nprint('ready', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert "is running" in kvfs("backup", store, "backups", ok=False).err
        process.kill()


def test_no_backup_there(kvfs, tmp_path):
    """An empty directory has no backup."""
    (tmp_path / "d").mkdir()
    assert "there is no backup" in kvfs("restore-backup", "d", ok=False).err


# The rules

DAYS = st.lists(
    st.tuples(st.integers(0, 60 * 24), st.booleans()), min_size=1, max_size=40, unique_by=lambda x: x[0]
)


def made(hours):
    """Return backups by their age in hours; the oldest is a full one."""
    found = [
        Backup(name_of(NOW - timedelta(hours=age), is_full=full), NOW - timedelta(hours=age), full)
        for age, full in hours
    ]
    found.sort(key=lambda one: one.at)
    first = found[0]
    return [Backup(name_of(first.at, is_full=True), first.at, True), *found[1:]]


@given(DAYS)
def test_what_is_kept_can_be_restored(hours):
    """The chain of each kept backup is kept, and the newest always."""
    found = made(hours)
    stay = kept(found, parse_keep("7d,4w"))
    assert found[-1].name in stay
    for backup in found:
        if backup.name in stay:
            assert {one.name for one in chain_of(found, backup)} <= stay


@given(DAYS)
def test_a_name_tells_what_it_is(hours):
    """Date and kind of a backup can be read from its name."""
    for backup in made(hours):
        assert backup_of(backup.name) == backup


@pytest.mark.parametrize(
    ("rule", "count"),
    [("1d", 1), ("3d", 3), ("7d", 7), ("2w", 2), ("7d,4w", 10), ("1mo", 1), ("1m", 1), ("48h", 48)],
)
def test_how_many_a_rule_keeps(rule, count):
    """A rule keeps the last backup of each period, of hourly ones through 40 days; today belongs to this week too."""
    found = made([(age, True) for age in range(40 * 24)])
    assert len(kept(found, parse_keep(rule))) == count


def test_a_full_one_is_due_after_a_while():
    """A full backup is due once in so long."""
    found = made([(30, True), (6, False)])
    assert is_due([], NOW, timedelta(days=7))
    assert not is_due(found, NOW, timedelta(days=7))
    assert is_due(found, NOW, timedelta(hours=24))
