"""The history on the disk: bounds, contents that are kept once, torn files, a disk without room."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.history import contents, large_files, versions

from kvfs.core.digest import digest
from kvfs.core.model import How, Key, NamespaceId
from kvfs.history import shelf as shelf_module
from kvfs.history.allowance import Bounds
from kvfs.history.shelf import INLINE_BYTES, Shelf
from kvfs.history.version import LARGE, SAME_CONTENT, Version
from kvfs.history.version_segment import VERSIONS, VersionSegment, segments

NS = NamespaceId("n" * 32)
MIB = 1024 * 1024
PLENTY = Bounds(3600.0, 64 * MIB)


def opened(path: Path, bounds: Bounds = PLENTY, now: float = 0.0) -> Shelf:
    shelf = Shelf(path / "history", bounds, digest)
    shelf.open(now)
    return shelf


def add(shelf: Shelf, at: float, *values: bytes | Path | None, how: How = How.WRITE) -> None:
    noted = [(Version(at, NS, Key(f"k{n}"), how, size=-1), value) for n, value in enumerate(values)]
    for version, value in noted:
        if isinstance(value, Path):
            version.size, version.digest = value.stat().st_size, digest(value.read_bytes())
        elif value is None:
            version.why = "away"
    shelf.add(noted, {NS: "ns"}, at)


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    """Every version is read back: small and large contents, none, and the directory name of its namespace."""
    shelf = opened(tmp_path)
    large = os.urandom(INLINE_BYTES + 1)
    add(shelf, 1, b"small", large, None, b"")
    found = contents(shelf.directory)
    assert found == [
        ("k0", "write", b"small"),
        ("k1", "write", large),
        ("k2", "write", "away"),
        ("k3", "write", b""),
    ]
    assert next(segments(shelf.directory)[0].batches()).titles == {NS: "ns"}
    assert shelf.totals().versions == 4
    assert shelf.totals().kept == 3


def test_the_same_content_is_kept_once(tmp_path: Path) -> None:
    """Equal contents are kept once: small ones within a segment, a large one as one file with several names."""
    shelf = opened(tmp_path)
    large = os.urandom(INLINE_BYTES + 1)
    for at in range(5):
        add(shelf, at, b"x" * 1000, large)
    shelf.close()
    again = opened(tmp_path)
    add(again, 9, large)
    assert again.size < 1000 + len(large) + 5000
    assert len({path.stat().st_ino for path in large_files(again.directory)}) == 1
    assert [content for _, _, content in contents(again.directory)] == [b"x" * 1000, large] * 5 + [large]


def test_a_file_that_is_handed_over_is_not_copied(tmp_path: Path) -> None:
    """A file that is handed over is not copied: it gets another name, and none is left behind."""
    shelf = opened(tmp_path)
    value = os.urandom(INLINE_BYTES + 1)
    for number in range(2):
        file = shelf.directory / "incoming" / str(number)
        file.write_bytes(value)
        inode = file.stat().st_ino
        add(shelf, number, file)
        assert not file.exists()
        assert number or large_files(shelf.directory)[0].stat().st_ino == inode
    assert [content for _, _, content in contents(shelf.directory)] == [value, value]


def test_of_changed_attributes_the_content_is_not_kept_again(tmp_path: Path) -> None:
    """A version of changed attributes keeps the content's digest only: the next version or the file has the content."""
    shelf = opened(tmp_path)
    add(shelf, 1, b"x" * 10_000, how=How.ATTRIBUTES)
    (found,) = versions(shelf.directory)
    assert (found.offset, found.digest) == (SAME_CONTENT, digest(b"x" * 10_000))
    assert shelf.size < 1000


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(0, 40_000), min_size=1, max_size=60))
def test_the_bytes_stay_within_the_bound(tmp_path_factory, sizes: list[int]) -> None:
    """After any additions the bytes stay within the bound: the newest versions stay, the oldest go."""
    path = tmp_path_factory.mktemp("shelf")
    shelf = opened(path, Bounds(1e9, 300_000))
    for at, size in enumerate(sizes):
        add(shelf, at, os.urandom(size))
        assert shelf.size <= 300_000
    on_disk = sum(file.stat().st_size for file in shelf.directory.rglob("*") if file.is_file())
    assert on_disk <= 300_000 + 200 * len(segments(shelf.directory))  # summaries
    left = [version.at for version in versions(shelf.directory)]
    assert left == [float(at) for at in range(len(sizes))][len(sizes) - len(left) :]
    assert len(left) >= min(len(sizes), 5)


def test_what_is_added_at_once_is_trimmed_as_if_it_came_singly(tmp_path: Path) -> None:
    """A deleted directory that is larger than the bound keeps its newest files, as if each came singly."""
    shelf = opened(tmp_path, Bounds(3600.0, 4 * MIB))
    values = [os.urandom(200_000) for _ in range(60)]
    add(shelf, 1, *values)
    found = [content for _, _, content in contents(shelf.directory)]
    assert found == values[60 - len(found) :]
    assert 16 <= len(found) <= 20


def test_what_is_too_old_goes_also_when_nothing_is_added(tmp_path: Path) -> None:
    """Versions that are too old go by segments, which take a sixteenth of the age, also when nothing is added."""
    shelf = opened(tmp_path, Bounds(1600.0, 64 * MIB))
    for at in range(0, 1600, 50):
        add(shelf, at, b"%d" % at)
    shelf.trim(1700)
    ages = [1700 - version.at for version in versions(shelf.directory)]
    assert 1500 < max(ages) < 1600 + 150
    shelf.trim(1e9)
    assert versions(shelf.directory) == []
    assert shelf.totals().oldest is None


def test_a_value_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    """A value larger than the bound is not kept, and removes nothing else."""
    shelf = opened(tmp_path, Bounds(3600.0, 100_000))
    add(shelf, 1, b"small")
    add(shelf, 2, bytes(200_000))
    assert contents(shelf.directory) == [("k0", "write", b"small"), ("k0", "write", LARGE)]


def test_a_torn_file_costs_what_it_tore(tmp_path: Path) -> None:
    """After a kill or a power cut the whole records before the torn one count, and later ones are written on."""
    shelf = opened(tmp_path)
    add(shelf, 1, b"one")
    add(shelf, 2, b"two")
    file = segments(shelf.directory)[0].path / VERSIONS
    for cut in (1, 9, file.stat().st_size // 2 + 3):
        os.truncate(file, file.stat().st_size - cut)
        assert [content for _, _, content in contents(shelf.directory)] in ([b"one"], [])
    again = opened(tmp_path)
    add(again, 3, b"three")
    assert [content for _, _, content in contents(shelf.directory)][-1] == b"three"


def test_a_disk_that_fills_up_costs_history_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log
) -> None:
    """On a full disk the oldest history goes until there is room.

    Without any, new versions are lost and counted, and nothing is raised.
    """
    expect_log("is not kept: the disk of the state directory is nearly full")
    shelf = opened(tmp_path, Bounds(3600.0, MIB))
    for at in range(40):
        add(shelf, at, os.urandom(20_000))
    free = os.statvfs(tmp_path)
    limit = min(shelf_module._MOST_FREE, free.f_blocks * free.f_frsize // 10)

    def nearly_full(path: Path) -> os.statvfs_result:
        """Leave as much room as history must leave, but for what history itself takes."""
        values = list(free)
        values[4] = (limit + 500_000 - shelf.size) // free.f_frsize
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    add(shelf, 50, b"new")
    assert 0 < shelf.size < 500_000
    assert versions(shelf.directory)[-1].at == 50
    limit -= 600_000
    add(shelf, 51, b"newer")
    assert (shelf.lost, shelf.size) == (1, 0)


def test_a_write_that_fails_leaves_the_history_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expect_log
) -> None:
    """On a disk with no byte more half a batch is taken back, and later versions are kept when there is room."""
    expect_log("is not kept: .*No space left")
    shelf = opened(tmp_path)
    add(shelf, 1, b"one")
    real, is_full = os.writev, [True]

    def writev(file: int, pieces: list[memoryview]) -> int:
        if is_full[0] and sum(map(len, pieces)) < 4000:
            raise OSError(28, "No space left on device")
        return real(file, pieces)

    monkeypatch.setattr(os, "writev", writev)
    add(shelf, 2, b"x" * 5000)  # its content fits, what names it does not
    is_full[0] = False
    assert shelf.lost == 1
    add(shelf, 3, b"three")
    assert [content for _, _, content in contents(shelf.directory)][-1] == b"three"


def test_history_gives_way_to_who_needs_the_room_more(tmp_path: Path) -> None:
    """History gives way to a caller that needs the room more: half of it at a time, at once."""
    shelf = opened(tmp_path, Bounds(3600.0, MIB))
    for at in range(40):
        add(shelf, at, os.urandom(20_000))
    before = shelf.size
    assert shelf.give_way()
    assert shelf.size < 0.6 * before
    while shelf.give_way():
        pass
    assert shelf.size == 0


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    """Directories have mode 0700 and files 0600, with any umask."""
    before = os.umask(0)
    try:
        shelf = opened(tmp_path)
        add(shelf, 1, b"small", os.urandom(INLINE_BYTES + 1))
        shelf.close()
    finally:
        os.umask(before)
    for path in [shelf.directory, *shelf.directory.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_thousands_of_segments_go_without_measuring_the_others_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of segments, one for each short mount, go without delaying a mount when their time has come."""
    count = 40
    for number in range(count):
        shelf = opened(tmp_path, now=number)
        add(shelf, number, b"x")
        shelf.close()
    measured: list[VersionSegment] = []
    measure = VersionSegment.measure

    def noted(segment: VersionSegment, seen: set[int]) -> None:
        measured.append(segment)
        measure(segment, seen)

    monkeypatch.setattr(VersionSegment, "measure", noted)
    assert opened(tmp_path, now=2 * PLENTY.seconds).totals().versions == 0
    assert len(measured) == count
