"""Overlapping sources: a second mount of keys that are mounted already, in every spelling, over real mounts."""

import os
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import ACCOUNT, Served

pytestmark = pytest.mark.fuse


def refused(mount: Mounted, source: str, *words: str) -> bool:
    """Return True if a second mount is refused with the name of the first; end it again if it is not."""
    directory = mount.path.parent / "second"
    directory.mkdir(exist_ok=True)
    done = mount.kvfs("mount", *words, source, str(directory), check=False)
    if done.returncode == 0:
        mount.kvfs("umount", str(directory))
        return False
    assert f"already mounted at {mount.path} as {mount.source}" in done.stderr.replace(f":{ACCOUNT}", ":")
    return True


def test_a_namespace_is_mounted_once_however_it_is_written(tmp_path: Path, server: Served, api: Api) -> None:
    """A namespace is mounted once, by title, by id, by a prefix, or within the account.

    Another one, or a read-only mount, is allowed.
    """
    ids = {title: api.result("POST", "", json={"title": title})["id"] for title in ("shop", "other")}
    with mounted(tmp_path, "cloudflare:/shop", served=server) as mount:
        for source in (
            f"cloudflare:/{ids['shop']}",
            f"cloudflare:{ACCOUNT}/{ids['shop']}/pre",
            "cloudflare:",
        ):
            assert refused(mount, source), source
        assert not refused(mount, "cloudflare:/other")
        assert not refused(mount, f"cloudflare:/{ids['shop']}", "--read-only")


def test_a_prefix_is_mounted_once_and_beside_others(tmp_path: Path, server: Served, api: Api) -> None:
    """A prefix below or above a mounted one is refused, and one beside it is mounted."""
    ids = api.result("POST", "", json={"title": "shop"})["id"]
    with mounted(tmp_path, f"cloudflare:/{ids}/pre", served=server) as mount:
        assert refused(mount, "cloudflare:/shop/pre/deeper")
        assert refused(mount, "cloudflare:/shop")
        assert not refused(mount, "cloudflare:/shop/prefix")


def test_a_source_is_mounted_a_second_time_to_read_only(tmp_path: Path) -> None:
    """A second mount to read only has a journal of its own; one to write is refused, however the file is named."""
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    with mounted(tmp_path, f"local:{tmp_path}/data/store.sqlite", "--write-back=600") as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns" / "a").write_text("a")
        mount.sync()
        second = tmp_path / "second"
        second.mkdir()
        done = mount.kvfs("mount", f"local:{tmp_path}/link/store.sqlite", str(second), check=False)
        assert done.returncode == 1
        assert f"mounted at {mount.path}" in done.stderr
        mount.kvfs("mount", "--read-only", f"local:{tmp_path}/link/store.sqlite", str(second))
        assert (second / "ns" / "a").read_text() == "a"
        with pytest.raises(OSError, match="Read-only"):
            (second / "ns" / "b").write_text("b")
        mount.kvfs("umount", str(second))
        (mount.path / "ns" / "a").write_text("b")


def test_a_mount_to_read_only_keeps_no_other_out(tmp_path: Path) -> None:
    """The one that can write may come later. Modes and times that were kept of the source are shown by both."""
    source = f"local:{tmp_path}/data/store.sqlite"
    (tmp_path / "data").mkdir()
    second = tmp_path / "second"
    second.mkdir()
    with mounted(tmp_path, source) as mount:
        (mount.path / "ns").mkdir()
        (mount.path / "ns" / "a").write_text("a")
        os.chmod(mount.path / "ns" / "a", 0o751)
        os.utime(mount.path / "ns" / "a", (1, 1))
    mount.kvfs("mount", "--read-only", source, str(second))
    try:
        with mounted(tmp_path, source, "--write-back=0.1") as mount:
            (mount.path / "ns" / "b").write_text("b")
            assert (second / "ns" / "a").read_text() == "a"
            found = (second / "ns" / "a").stat()
            assert (found.st_mode & 0o777, found.st_mtime) == (0o751, 1)
            mount.sync()
            mount.kvfs("refresh", str(second))
            assert (second / "ns" / "b").read_text() == "b"
            assert mount.kvfs("history", str(second / "ns" / "a")).stdout
    finally:
        mount.kvfs("umount", str(second))


def test_a_source_has_the_changes_of_the_mount_that_can_write(tmp_path: Path) -> None:
    """A source stands for the changes of its writable mount, beside a read-only one, and after both ended."""
    second = tmp_path / "1st of all"
    second.mkdir()
    (tmp_path / "data").mkdir()
    with mounted(tmp_path, f"local:{tmp_path}/data/store.sqlite", "--write-back=600") as mount:
        (mount.path / "ns").mkdir()
        mount.kvfs("mount", "--read-only", mount.source, str(second))
        (mount.path / "ns" / "a").write_text("a")
        assert "ns/a  put 1 B" in mount.kvfs("pending", mount.source).stdout
        mount.sync()
        (mount.path / "ns" / "a").unlink()
        assert "restored" in mount.kvfs("restore", f"{mount.source}/ns/a").stdout
        mount.kvfs("umount", str(second))
    assert mount.kvfs("pending", mount.source).stdout == "nothing is pending\n"
