"""Power cuts: the next boot finds only what a real ext4 had brought to its disk at that moment."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support.mounted import Api, Mounted, mounted
from support.serving import Served

from kvfs.core.errors import JournalError
from kvfs.core.model import Change
from kvfs.journal.journal import Journal

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems"),
]

LARGE = b"\0\xff" * 400_000  # goes to the spool
Shown = dict[str, bytes | None]


def formatted(image: Path) -> Path:
    """Return an empty ext4 file system."""
    with image.open("wb") as file:
        file.truncate(24 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    return image


@contextmanager
def attached(image: Path, path: Path) -> Iterator[None]:
    """Attach the file system in `image` at `path`."""
    path.mkdir(exist_ok=True)
    # commit=600: nothing reaches the disk by itself while the test runs, only what is forced
    options = "loop,commit=600"
    done = subprocess.run(["mount", "-o", options, image, path], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device here: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def cut(image: Path, number: int) -> Path:
    """Copy the disk as it is now, without what waits in memory."""
    copy = image.with_name(f"cut{number}")
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)
    return copy


def found_after(copy: Path) -> Shown:
    """Return the content of the journal on such a disk, key by key."""
    subprocess.run(["e2fsck", "-fy", copy], check=False, capture_output=True)
    place = copy.with_suffix(".mnt")
    with attached(copy, place):
        (path,) = place.glob("kvfs/sources/*/journal.sqlite")
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            ((source,),) = connection.execute("SELECT value FROM meta WHERE name = 'source'").fetchall()
        with Journal.open(path, source=source, now=lambda: 0.0) as journal:
            rows = journal._transactions.index.all()
            return {row.key: None if row.is_tombstone else _value(journal, row) for row in rows}


def _value(journal: Journal, row: Change) -> bytes | None:
    """Return the content, or None for one that did not survive, which its digest shows."""
    try:
        return journal.value(row)
    except JournalError:
        return None


def steps(mount: Mounted) -> Iterator[Shown]:
    """Do one close after the other; yield the state that the journal must have once each has returned."""
    ns = mount.path / "ns"
    shown: Shown = {}
    (ns / "small").write_bytes(b"1")
    shown["small"] = b"1"
    yield dict(shown)
    (ns / "large").write_bytes(LARGE)
    shown["large"] = LARGE
    yield dict(shown)
    (ns / "small").rename(ns / "renamed")  # these two are forced out with the next close
    shown["renamed"] = shown.pop("small")
    (ns / "at the server").unlink()
    shown["at the server"] = None
    with (ns / "large").open("ab") as file:
        file.write(b"more")
    shown["large"] = LARGE + b"more"
    yield dict(shown)


@pytest.mark.parametrize("size", [7, 700_000])
def test_a_file_kept_on_this_machine_is_on_its_disk_after_fsync(
    tmp_path: Path, server: Served, size: int
) -> None:
    """A local file, an editor's swap file for instance, is on the disk after fsync, also without --durable-close."""
    image = formatted(tmp_path / "image")
    with Api(server) as api, attached(image, tmp_path / "state"):
        api.result("POST", "", json={"title": "ns"})
        with mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
            os.sync()
            with (mount.path / "ns/.notes.swp").open("w") as swap:
                swap.write("u" * size)
                swap.flush()
                os.fsync(swap.fileno())
                copy = cut(image, 0)
            mount.kill()
    assert found_after(copy) == {".notes.swp": b"u" * size}


@pytest.mark.parametrize("durable", [True, False])
def test_what_was_closed_survives_power_loss_if_asked_for(
    tmp_path: Path, server: Served, durable: bool
) -> None:
    """With --durable-close nothing that returned is missing after a power cut; without it, something is."""
    image = formatted(tmp_path / "image")
    options = ["--write-back=600", "--settle=0", *(["--durable-close"] if durable else [])]
    cuts: list[tuple[Path, Shown]] = []
    with Api(server) as api, attached(image, tmp_path / "state"):
        api.result("POST", "", json={"title": "ns"})
        api.put(api.namespace("ns"), "at the server", b"2")
        with mounted(tmp_path, "cloudflare:", *options, served=server) as mount:
            os.sync()
            for number, shown in enumerate(steps(mount)):
                cuts.append((cut(image, number), shown))
            mount.kill()
    missing = []
    for copy, shown in cuts:
        found = found_after(copy)
        missing += [key for key, value in shown.items() if key not in found or found[key] != value]
    assert bool(missing) is not durable, missing
