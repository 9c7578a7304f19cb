"""Large namespaces and much data over a real mount: the quantities that must not grow, at sizes the suite can afford.

`scripts/bench scale` measures the same with a million keys.
"""

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.filling import PER_DIRECTORY, fill
from bench.measuring import cpu_seconds, peak_memory
from support.mounted import Api, Mounted, mounted
from support.serving import ACCOUNT, Served, served_by_process
from support.standing import Counts, wait_for

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

KEYS = 50_000
LARGE = 25 * 1024 * 1024
MIB = 1024 * 1024
NOISE = 4 * MIB  # an allocator may keep so much to itself
# Fewer files than the sender sends at once. A thousand bytes each are 150 MiB for 100,000, with an empty mount; the
# allocator's noise comes on top.
PENDING = 9_000
BYTES_A_CHANGE = 1_200
BYTES_A_KEY = 250  # so that a million stay below 300 MiB, with the 50 of an empty mount


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with a namespace of many keys, and one of large values."""
    directory = tmp_path_factory.mktemp("server")
    fill(directory / "store.sqlite", ACCOUNT, "big", KEYS)
    fill(directory / "store.sqlite", ACCOUNT, "large", 10, value=b"\xff" * LARGE)
    with served_by_process(directory, faults="seed=1") as served:
        yield served


def _resident(mount: Mounted) -> int:
    return int(Path(f"/proc/{mount.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _find(mount: Mounted) -> int:
    found = subprocess.run(["find", "big"], cwd=mount.path, stdout=subprocess.PIPE, check=True)
    return found.stdout.count(b"\n")


def test_many_keys_cost_nothing_before_they_are_listed_and_little_afterwards(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """A mount lists nothing at its start; find costs its pages.

    Memory is a few hundred bytes a key, also the second time.
    """
    counts = Counts(api)
    with mounted(tmp_path, "cloudflare:", "--cache-ttl=600", served=server) as mount:
        assert counts.since() == {"list_namespaces": 1}
        before = _resident(mount)
        assert before < 100 * MIB
        counts = Counts(api)
        assert _find(mount) == KEYS + KEYS // PER_DIRECTORY + 1
        assert counts.since() == {"list_keys": KEYS // 1000}
        assert _resident(mount) - before < KEYS * BYTES_A_KEY + NOISE
        assert _find(mount) == KEYS + KEYS // PER_DIRECTORY + 1
        assert _resident(mount) - before < KEYS * BYTES_A_KEY + NOISE
        listed, begun = counts.since(), cpu_seconds(mount.process.pid)
        for number in range(10):
            assert len(os.listdir(mount.path / f"big/d{4 * number:04}")) == PER_DIRECTORY
        assert (cpu_seconds(mount.process.pid) - begun) / 10 < 0.05
        (mount.path / "big/d0007/f123.txt").stat()
        assert counts.since() == listed | {"bulk_get": 1}


def test_the_first_entry_of_a_huge_directory_comes_with_the_first_page(
    tmp_path: Path, server: Served, api: Api
) -> None:
    """The first entry of a huge directory is shown before the second page is answered."""
    with mounted(tmp_path, "cloudflare:", "--separator=", served=server) as mount:
        counts = Counts(api)
        api.set_faults({"fault": "stall", "path": "/keys", "after": 1, "seconds": 20})
        try:
            found: list[str] = []

            def look() -> None:
                with os.scandir(mount.path / "big") as entries:
                    found.extend(next(entries).name for _ in range(900))

            reader = threading.Thread(target=look)
            reader.start()
            wait_for(lambda: len(found) == 900)
        finally:
            api.set_faults()
            reader.join()
        assert counts.since()["list_keys"] <= 2


def test_memory_is_bounded_by_the_cache_size_however_much_is_read(tmp_path: Path, server: Served) -> None:
    """Reading 500 MiB through a cache of 16 MiB takes that, an empty mount, and at most seven values under way."""
    with mounted(tmp_path, "cloudflare:", "--cache-size=16M", served=server) as mount:
        for number in (*range(10), *range(10)):
            with (mount.path / f"large/d0000/f{number:03}.txt").open("rb") as file:
                assert sum(len(part) for part in iter(lambda file=file: file.read(MIB), b"")) == LARGE
        assert peak_memory(mount.process.pid) < (16 + 50 + 7 * 25) * MIB
        assert mount.status()["cache"]["bytes"] <= 26 * MIB  # one value that is larger is held alone


def test_memory_does_not_grow_with_what_waits_to_be_sent(tmp_path: Path, server: Served, api: Api) -> None:
    """480 MB of pending values are in the journal, not in memory, and sending takes the memory of one batch."""
    count, size = 1200, 400_000
    with mounted(tmp_path, "cloudflare:", "--cache-size=8M", "--write-back=600", served=server) as mount:
        (mount.path / "pending").mkdir()
        counts = Counts(api)
        for number in range(count):
            (mount.path / f"pending/{number:03}").write_bytes(b"%08d" % number * (size // 8))
        mount.sync()
        assert counts.writes() <= 20
        assert peak_memory(mount.process.pid) < 380 * MIB < count * size
        mount.shell("rm -r pending/*")
        mount.sync()
        (mount.path / "pending").rmdir()


def test_small_files_that_wait_take_a_thousand_bytes_each(tmp_path: Path, server: Served) -> None:
    """A small file that waits to be sent takes about a thousand bytes of memory, its content not counted apart."""
    with mounted(tmp_path, "cloudflare:", "--write-back=600", served=server) as mount:
        (mount.path / "small").mkdir()
        before = _resident(mount)
        for number in range(PENDING):
            (mount.path / f"small/{number:06}").write_bytes(b"%0100d" % number)
        assert mount.status()["pending"]["count"] == PENDING
        assert _resident(mount) - before < PENDING * BYTES_A_CHANGE
        mount.shell("rm -r small/*")
        mount.sync()
        (mount.path / "small").rmdir()
