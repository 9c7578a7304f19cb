"""Times over a real mount: nanoseconds, before 1970, and an mtime that moves with every change."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served
from support.standing import Counts, run

OLD_NS = -146_577_600_000_000_001  # 1965-05-10, less a nanosecond


def _times(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_atime_ns, found.st_mtime_ns


@pytest.mark.parametrize("ns", [1_100_000_000_700_000_003, OLD_NS, -1, 0])
def test_a_time_is_kept_to_the_nanosecond(tmp_path: Path, ns: int) -> None:
    """Times of files and directories keep their nanoseconds, before 1970 as well, when sent and over a remount."""
    source = f"local:{tmp_path}/store.sqlite"
    with mounted(tmp_path, source) as mount:
        here = mount.path / "ns"
        (here / "d").mkdir(parents=True)
        (here / "f").write_bytes(b"x")
        for name in ("f", "d"):
            os.utime(here / name, ns=(ns + 5, ns))
        mount.sync()
        assert _times(here / "f") == (ns + 5, ns)
        assert _times(here / "d")[1] == ns
    with mounted(tmp_path, source) as mount:
        assert _times(mount.path / "ns/f") == (ns + 5, ns)
        assert _times(mount.path / "ns/d")[1] == ns


def test_tools_carry_old_and_exact_times(tmp_path: Path) -> None:
    """`cp -p`, `rsync -a` and `tar` set times exactly, and a second `rsync -a` copies nothing, by nanoseconds too."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "old").write_bytes(b"x")
    (tree / "exact").write_bytes(b"y")
    os.utime(tree / "old", ns=(OLD_NS, OLD_NS))
    os.utime(tree / "exact", ns=(5, 1_500_000_000_123_456_789))
    os.utime(
        tree, ns=(5, 1_400_000_000_000_000_007)
    )  # rsync leaves a directory's time that is of the same second
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite") as mount:
        here = mount.path / "ns"
        here.mkdir()
        run("cp", "-a", tree, here / "copied")
        run("rsync", "-a", tree, here / "synced")
        for copy in (here / "copied", here / "synced/tree"):
            for name in ("old", "exact"):
                assert _times(copy / name)[1] == _times(tree / name)[1], copy / name
        assert run("rsync", "-ai", "--modify-window=-1", tree, here / "synced") == ""


def test_a_source_changed_in_the_second_of_a_build_is_built_again(tmp_path: Path) -> None:
    """make builds a target again whose source changed in the second of its build, by the order of the times."""
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite") as mount:
        here = mount.path / "ns"
        here.mkdir()
        (here / "Makefile").write_text("out: src\n\tcp src out\n")
        for content in ("a", "b", "c"):
            (here / "src").write_text(content)
            run("make", "-s", cwd=here)
            assert (here / "out").read_text() == content


def _backed_up(mount: Mounted, copy: Path) -> list[str]:
    """Run `rsync -a` of the namespace; return the files it copied."""
    lines = run("rsync", "-ai", f"{mount.path}/ns/", f"{copy}/").splitlines()
    return sorted(line.split()[1] for line in lines if line.startswith(">f"))


def _filled(api: Api, served: Served, count: int) -> str:
    namespace = str(api.result("POST", "", json={"title": "ns"})["id"])
    for number in range(count):
        api.put(namespace, f"k{number:02}", b"old " + b"x" * 4000)
    return namespace


def test_a_change_made_while_nothing_was_mounted_is_backed_up(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """A change made while nothing was mounted is backed up, also of equal size and of a file written here.

    Unchanged files are not.
    """
    namespace, copy = _filled(api, server, 3), tmp_path / "copy"
    with mounted(tmp_path, "cloudflare:", "--settle=0", served=server) as mount:
        (mount.path / "ns/mine").write_bytes(b"mine")
        mount.sync()
        assert _backed_up(mount, copy) == ["k00", "k01", "k02", "mine"]
    api.put(namespace, "k01", b"new " + b"x" * 4000)
    api.put(namespace, "mine", b"MINE")
    with mounted(tmp_path, "cloudflare:", "--settle=0", served=server) as mount:
        assert _backed_up(mount, copy) == ["k01", "mine"]
        assert (copy / "k01").read_bytes()[:3] == b"new"
        assert _backed_up(mount, copy) == []


def test_a_change_the_cache_has_forgotten_is_backed_up(tmp_path: Path, server: Served, api: Api) -> None:
    """A change of a value that was evicted is backed up, and noticing it costs no request more."""
    namespace, copy = _filled(api, server, 40), tmp_path / "copy"
    options = ("--cache-size=16K", "--cache-ttl=1", "--settle=0")
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        assert len(_backed_up(mount, copy)) == 40
        time.sleep(1.1)
        counts = Counts(api)
        assert _backed_up(mount, copy) == []
        unchanged = counts.since()
        api.put(namespace, "k05", b"new " + b"x" * 4000)
        time.sleep(1.1)
        counts = Counts(api)
        copied = _backed_up(mount, copy)
        assert copied == ["k05"]
        assert (
            counts.since().get("bulk_get", 0) <= unchanged.get("bulk_get", 0) + 1
        )  # rsync reads what it copies


def test_an_mtime_is_of_the_moment_a_change_was_found(tmp_path: Path, server: Served, api: Api) -> None:
    """The mtime of another client's change is when it was found, since nobody knows when it was made, and stays."""
    namespace = _filled(api, server, 1)
    with mounted(tmp_path, "cloudflare:", served=server) as mount:
        first = os.stat(mount.path / "ns/k00").st_mtime_ns
    api.put(namespace, "k00", b"new " + b"x" * 4000)
    before = time.time_ns() - 1_000_000
    with mounted(tmp_path, "cloudflare:", served=server) as mount:
        found = os.stat(mount.path / "ns/k00").st_mtime_ns
        assert first < before < found < time.time_ns()
    with mounted(tmp_path, "cloudflare:", served=server) as mount:
        assert os.stat(mount.path / "ns/k00").st_mtime_ns == found
        subprocess.run(["cat", str(mount.path / "ns/k00")], check=True, capture_output=True)
        assert os.stat(mount.path / "ns/k00").st_mtime_ns == found


# --expiration


def _expiring(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, "user.kvfs.expiration")
    except OSError:
        return None


def test_with_attribute_tools_carry_dates_and_expirations_apart(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """`cp -a`, `mv`, `rsync -aX` and `tar` keep a future date as a date, and take an expiration along."""
    namespace = _filled(api, server, 0)
    soon, expires = int(time.time()) + 20, int(time.time()) + 5000
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "ahead").write_bytes(b"x")
    os.utime(tree / "ahead", (soon, soon))
    with mounted(tmp_path, "cloudflare:", "--expiration=attribute", served=server) as mount:
        here = mount.path / "ns"
        (here / "f").write_bytes(b"y")
        os.setxattr(here / "f", "user.kvfs.expiration", b"%d" % expires)
        os.utime(here / "f", (soon, soon))
        run("cp", "-a", here / "f", here / "copied")
        run("rsync", "-aX", here / "f", here / "synced")
        run("tar", "--xattrs", "-cf", tmp_path / "f.tar", "f", cwd=here)
        (here / "untarred").mkdir()
        run("tar", "--xattrs", "--xattrs-include=user.*", "-xf", tmp_path / "f.tar", cwd=here / "untarred")
        for copy in ("f", "copied", "synced", "untarred/f"):
            assert _expiring(here / copy) == b"%d" % expires, copy
            assert int(os.stat(here / copy).st_mtime) == soon, copy
        run("rsync", "-a", f"{tree}/", here)
        run("mv", tree / "ahead", here / "moved")
        for name in ("ahead", "moved"):
            assert _expiring(here / name) is None
            assert int(os.stat(here / name).st_mtime) == soon
        mount.sync()
        assert mount.status()["expirations"] == {"by_mtime": 0}
    keys = api.keys(namespace)
    assert {key for key, info in keys.items() if info.get("expiration") == expires} == {
        "f", "copied", "synced", "untarred/f",
    }  # fmt: skip
    assert all(info.get("expiration") in (None, expires) for info in keys.values())


def test_with_mtime_a_copied_date_that_expires_is_named(tmp_path: Path) -> None:
    """A copied date that makes a key expire is named in the log and by `kvfs status`, with the way out."""
    with mounted(tmp_path, f"local:{tmp_path}/store.sqlite") as mount:
        (mount.path / "ns").mkdir()
        file = tmp_path / "dated"
        file.write_bytes(b"x")
        os.utime(file, (time.time() + 100, time.time() + 100))
        run("mv", file, mount.path / "ns/moved")
        assert "'moved' expires at 20" in mount.log.read_text()
        assert "--expiration=attribute" in mount.log.read_text()
        assert mount.status()["expirations"] == {"by_mtime": 1}
        assert "by an mtime to come" in mount.kvfs("status", str(mount.path)).stdout
