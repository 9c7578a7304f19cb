"""Undo through a real mount: `kvfs history` and `kvfs restore`, after programs that overwrite and delete."""

import json
import os
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served
from support.standing import Namespace, Standing

from kvfs.cli.exits import Exit
from kvfs.core.limits import EXPIRATION_SECONDS

pytestmark = pytest.mark.fuse

OPTIONS = ("--write-back=0.1",)


@dataclass
class Here:
    """A namespace of its own for a test."""

    mount: Mounted
    name: str

    @property
    def path(self) -> Path:
        return self.mount.path / self.name

    def shell(self, script: str) -> str:
        return self.mount.shell(f"cd {self.name}; {script}")

    def history(self, path: str = "") -> list[dict[str, object]]:
        return history(self.mount, f"{self.name}/{path}")

    def restore(self, path: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.mount.kvfs("restore", str(self.path / path), *words)


@pytest.fixture
def here(world: Standing, space: Namespace) -> Here:
    """An empty namespace."""
    return Here(world.mount, space.path.name)


def history(mount: Mounted, path: str) -> list[dict[str, object]]:
    return list(json.loads(mount.kvfs("history", "--json", str(mount.path / path)).stdout))


def test_a_directory_comes_back_whole_after_rm_r(here: Here) -> None:
    """A restored directory has content, metadata, expiration, mode and time.

    Existing files are left alone, unless a time is named.
    """
    here.shell(
        "mkdir -p d/e; echo one > d/one; echo two > d/e/two; head -c 200000 /dev/urandom > d/large;"
        "setfattr -n user.a -v 1 d/one; chmod 750 d/one; touch -d '2026-01-01 12:00' d/one;"
        "touch -d '+1 hour' d/e/two; setfattr -n user.b -v x d/e/two"
    )
    look = "cd d; sha256sum one e/two large; stat -c '%n %a %Y' one e/two large; getfattr -d one e/two"
    before = here.shell(look)
    moment = datetime.now().isoformat()
    here.shell("rm -r d")
    assert sorted((one["how"], one["size"]) for one in here.history("d")) == [
        ("delete", 4),
        ("delete", 4),
        ("delete", 200_000),
    ]
    here.shell("mkdir d; echo new > d/one")
    done = here.restore("d")
    assert "exists and is left as it is" in done.stderr
    assert "restored" in done.stdout
    assert here.shell("cat d/one d/e/two") == "new\ntwo\n"
    here.restore("d", "--yes", "--at", moment)
    assert here.shell(look) == before


PROGRAMS = {
    "echo new > f": "write",
    "echo more >> f": "write",
    "truncate -s 1 f": "write",
    "sed -i s/old/new/ f": "replace",
    "cp --remove-destination /etc/hostname f": "delete",
    "cp /etc/hostname f": "write",
    "mv g f": "replace",
    "rm f": "delete",
    "python3 -c \"import os; open('t','w').write('new'); os.replace('t', 'f')\"": "replace",
}


def test_what_programs_do_can_be_undone(here: Here) -> None:
    """Each program leaves one version of the earlier content, which `kvfs restore` writes back."""
    here.shell(f"for n in $(seq {len(PROGRAMS)}); do mkdir $n; echo old > $n/f; echo other > $n/g; done")
    moment = datetime.now().isoformat()
    here.shell("\n".join(f"(cd {number}; {program})" for number, program in enumerate(PROGRAMS, 1)))
    found = {one["path"]: (one["how"], one["size"], one["kept"]) for one in here.history()}
    for number, how in enumerate(PROGRAMS.values(), 1):
        assert found[f"{here.name}/{number}/f"] == (how, 4, True), number
    here.restore(".", "--yes", "--at", moment)
    assert here.shell("cat */f") == "old\n" * len(PROGRAMS)


def test_a_restore_can_be_restored(here: Here) -> None:
    """A restore can be undone, because the replaced content goes into the history first."""
    here.shell("echo one > f; setfattr -n user.n -v 1 f; echo two > f; setfattr -n user.n -v 2 f")
    expiration = int(here.shell("echo short > t; touch -d '+61 seconds' t; stat -c %Y t; rm t"))
    for expected in ("one", "two", "one"):
        here.restore("f")
        assert here.shell("cat f").strip() == expected
    assert os.getxattr(here.path / "f", "user.n") == b"1"
    here.history()
    while time.time() <= expiration - EXPIRATION_SECONDS:  # a second at most: then KV takes it no more
        time.sleep(0.02)
    assert "has passed; it is restored without one" in here.restore("t").stderr
    assert here.shell("cat t").strip() == "short"


def test_a_branch_that_git_deleted_comes_back(here: Here) -> None:
    """After a restore of a branch that git deleted the repository in the mount works as before."""
    here.shell(
        "git init -q r; cd r; git config user.email a@b; git config user.name a;"
        "echo 1 > f; git add f; git commit -qm one; git branch b; git branch -qD b"
    )
    here.restore("r/.git/refs/heads/b")
    assert "one" in here.shell("cd r; git log --oneline b; git status --short")


def test_what_was_not_on_this_machine_is_said_not_to_be_kept(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """A value that was not on this machine is reported as not kept, before and after.

    Reading it makes it kept, and only that costs a request.
    """
    namespace = str(api.result("POST", "", json={"title": "ns"})["id"])
    pairs = [{"key": n, "value": f"value {n}", "metadata": {"n": n}} for n in ("a", "d/b", "d/c")]
    api.bulk_put(namespace, pairs)
    options = ("--write-back=3600", "--sizes=known")  # `rm` asks for sizes, which makes others read
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        directory = mount.path / "ns"
        mount.shell("find ns; cat ns/a")
        assert "1 of 3 files would be kept" in mount.kvfs("history", str(directory)).stdout
        assert "would not be kept" in mount.kvfs("history", str(directory / "d" / "b")).stdout
        assert "now: it would be kept" in mount.kvfs("history", str(directory / "a")).stdout
        before = mount.status()["requests"]
        mount.shell("rm ns/a ns/d/b; echo new > ns/d/c")
        assert mount.status()["requests"] == before
        assert [(one["how"], one["kept"], one["metadata"]) for one in history(mount, "ns")] == [
            ("delete", True, {"n": "a"}),
            ("delete", False, {"n": "d/b"}),
            ("write", False, {"n": "d/c"}),
        ]
        done = mount.kvfs("restore", str(directory / "d" / "b"), check=False)
        assert done.returncode == Exit.FAILED
        assert "is not kept: the value was not on this machine" in done.stderr
        done = mount.kvfs("restore", str(directory), check=False)
        assert (done.returncode, (directory / "a").read_text()) == (Exit.LEFT, "value a")
        assert "1 file is not restored" in done.stderr
        mount.shell("rm ns/a")
        mount.kvfs("history", str(directory))  # all that it shows is on the disk
        mount.kill()
    with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
        mount.kvfs("restore", str(mount.path / "ns" / "a"))
        assert (mount.path / "ns" / "a").read_text() == "value a"
        assert os.getxattr(mount.path / "ns" / "a", "user.n") == b"a"


def test_a_source_that_is_not_mounted(tmp_path: Path) -> None:
    """The history of an unmounted source is shown by name and restored to ordinary files.

    A restore into it says what to do.
    """
    with mounted(tmp_path, "local:", "--write-back=0.1") as mount:
        mount.shell("mkdir -p ns/d; echo old > ns/f; rm ns/f; echo x > ns/d/x; rm -r ns")
    assert "deleted" in mount.kvfs("history", f"{mount.source}/ns/f").stdout
    target = tmp_path / "out"
    mount.kvfs("restore", f"{mount.source}/ns", "--to", str(target))
    assert (target / "f").read_text() == "old\n"
    assert (target / "d" / "x").read_text() == "x\n"
    done = mount.kvfs("restore", f"{mount.source}/ns/f", check=False)
    assert done.returncode == Exit.FAILED
    assert "is not mounted: kvfs mount" in done.stderr
    mount.kvfs("history", "--clear", "--yes", mount.source)
    assert "nothing was overwritten or deleted" in mount.kvfs("history", f"{mount.source}/ns").stdout


def test_no_history_is_kept_when_nobody_wants_it(tmp_path: Path) -> None:
    """With `--history 0` nothing is kept, also for a mount that had a history.

    A wrong bound is refused with the limits.
    """
    with mounted(tmp_path, "local:", "--history=0") as mount:
        mount.shell("mkdir ns; echo old > ns/f; rm ns/f")
        assert "keeps no history (--history 0)" in mount.kvfs("history", str(mount.path / "ns" / "f")).stdout
        assert not list(mount.state.rglob("history"))
    done = subprocess.run(
        [*mount.kvfs("--version").args[:3], "mount", "local:", str(mount.path), "--history", "1K"],
        env=mount.env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == Exit.USAGE
    assert "the size is from 64K to 1T" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems of a given size")
def test_a_full_disk_costs_history_and_nothing_else(tmp_path: Path) -> None:
    """A full disk costs only history, as the status says; changes and deletions go on."""
    (tmp_path / "state").mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "kvfs-test", tmp_path / "state"], check=True
    )
    try:
        with mounted(tmp_path, "local:", "--write-back=0.1", "--history=1d,1M") as mount:
            mount.shell("mkdir ns; for n in $(seq 40); do head -c 300000 /dev/urandom > ns/$n; done")
            mount.sync()
            mount.shell("rm ns/1? ns/2?")
            assert len(history(mount, "ns")) >= 1
            size = sum(one.stat().st_size for one in mount.state.rglob("history/*/*") if one.is_file())
            assert 500_000 < size <= 1_100_000
            ballast = tmp_path / "state" / "ballast"
            subprocess.run(f"cat /dev/zero > {ballast}", shell=True, stderr=subprocess.DEVNULL)
            mount.shell("head -c 100000 /dev/urandom > ns/works; rm ns/40")  # kept versions make room
            ballast.unlink()
            with ballast.open("wb") as file:
                free = os.statvfs(tmp_path / "state")
                file.write(bytes((free.f_bavail - 250) * free.f_frsize))
            mount.shell("rm ns/3?; echo still > ns/works; cat ns/works")
            mount.kvfs("history", str(mount.path / "ns"))
            assert mount.status()["history"]["lost"] > 0
            assert "versions are not kept" in mount.kvfs("status", str(mount.path)).stdout
            mount.sync()
    finally:
        subprocess.run(["umount", tmp_path / "state"], check=True)


def test_a_restore_into_another_mount_keeps_metadata_and_expiration(here: Here, tmp_path: Path) -> None:
    """It is a kvfs mount as well; where nobody can be asked about what is there, `--yes` is named, with status 2."""
    here.shell("echo old > f; setfattr -n user.a -v 1 f; touch -d '+1 hour' f; rm f")
    with mounted(tmp_path, "local:", "--write-back=0.1") as other:
        (other.path / "ns").mkdir()
        target = other.path / "ns" / "f"
        here.restore("f", "--to", str(target))
        assert target.read_text() == "old\n"
        assert os.getxattr(target, "user.a") == b"1"
        assert int(os.getxattr(target, "user.kvfs.ttl")) > 3000
        source = str(here.path / "f")
        done = here.mount.kvfs("restore", source, "--to", str(target), check=False)
        assert done.returncode == Exit.USAGE
        assert "--yes" in done.stderr
