"""Patterns of names that stay on this machine."""

import pytest

from kvfs.core.patterns import LOCAL_PATTERNS, LocalNames

LOCAL = [".a.swp", ".notes.txt.swo", ".x.swpx"[:-1], ".#file", "#file#", "##", "file~", "~", ".~lock.a.odt#"]
LOCAL += [".goutputstream-AB12", ".fuse_hidden0001", ".nfs0000a1", ".DS_Store", "._photo.jpg", ".Trash-1000"]
LOCAL += ["notes.txt.vsctmp", ".two\nlines.swp", "back\nup~"]
LOCAL += ["main.py___jb_tmp___", "main.py___jb_old___", ".subl3f2.tmp", ".tmpAb3dEf", ".main.cpp.kate-swp"]
ORDINARY = [
    "file",
    ".bashrc",
    "a.swp",
    ".swp",
    ".a.swap",
    ".a.SWP",
    "#file",
    "file#",
    "~file",
    "a~b",
    "#",
    "_x",
]
ORDINARY += [
    ".ds_store",
    "x.DS_Store",
    "DS_Store",
    ".DS_Store2",
    "nfs1",
    "Trash-1",
    ".git",
    "4913",
    "",
    "a.#b",
]
ORDINARY += ["x.tmp", "tmp4gq2_x1z", "x.AbCdEf", ".x.AbCdEf", "x.bak", "x.bck", "x.orig", "x___jb_tmp__"]
ORDINARY += [".tmp", ".tmp12345", ".tmp1234567", "x.subl1.tmp", "main.kate-swp"]


@pytest.mark.parametrize("name", LOCAL)
def test_names_nobody_means_to_publish(name: str) -> None:
    """Swap, lock, auto-save and backup files of editors, and files that desktops leave everywhere, stay here."""
    assert LocalNames().matches(name)


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_are_published(name: str) -> None:
    """Ordinary names are published: near misses, other case, and hidden files in general."""
    assert not LocalNames().matches(name)


def test_every_pattern_is_needed() -> None:
    """Without any one pattern one of the names above would be sent."""
    for left_out in LOCAL_PATTERNS:
        rest = LocalNames(pattern for pattern in LOCAL_PATTERNS if pattern != left_out)
        assert not all(rest.matches(name) for name in LOCAL), left_out


def test_the_list_is_an_option() -> None:
    """Other patterns can be given instead, or none at all."""
    mine = LocalNames(["*.[ao]", "cache?"])
    assert mine.matches("lib.a")
    assert mine.matches("cache1")
    assert not mine.matches("file~")
    assert not mine.matches("xcache1")
    nothing = LocalNames([])
    assert not nothing.matches("file~")
    assert not nothing.matches("")
    assert "*.[ao]" in repr(mine)
