"""Sources that overlap one which is mounted already, in every spelling, over real mounts."""

from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import ACCOUNT, Served

pytestmark = pytest.mark.fuse


def refused(mount: Mounted, source: str, *words: str) -> bool:
    """Whether a second mount is refused, with the name of the first; one that is not is ended again."""
    directory = mount.path.parent / "second"
    directory.mkdir(exist_ok=True)
    done = mount.kvfs("mount", *words, source, str(directory), check=False)
    if done.returncode == 0:
        mount.kvfs("umount", str(directory))
        return False
    assert f"already mounted at {mount.path} as {mount.source}" in done.stderr.replace(f":{ACCOUNT}", ":")
    return True


def test_a_namespace_is_mounted_once_however_it_is_written(tmp_path: Path, server: Served, api: Api) -> None:
    """By title, by id, by a prefix, within the account; another namespace, or one to read only, is no matter."""
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
    """What is below it or above it is refused."""
    ids = api.result("POST", "", json={"title": "shop"})["id"]
    with mounted(tmp_path, f"cloudflare:/{ids}/pre", served=server) as mount:
        assert refused(mount, "cloudflare:/shop/pre/deeper")
        assert refused(mount, "cloudflare:/shop")
        assert not refused(mount, "cloudflare:/shop/prefix")


def test_a_source_is_mounted_a_second_time_to_read_only(tmp_path: Path) -> None:
    """With a journal of its own; to write it is refused, by whatever way the file is named."""
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


def test_a_source_has_the_changes_of_the_mount_that_can_write(tmp_path: Path) -> None:
    """Named by its source, wherever it is mounted to read only besides; and when neither is mounted any more."""
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
