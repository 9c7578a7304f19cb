"""Memory of a copy: the peak of its process, Python included, stays within 150 MiB, however large the values."""

import os
import subprocess
import sys

import pytest
import trio
from support.mounted import environment
from support.moves import dump, fill, fill_store
from support.serving import served_by_process

from kvfs.core.model import Entry, Key
from kvfs.store.embedded.sqlite_store import open_sqlite

MOST = 150 * 1024  # KiB
VALUE = 25 * 1024 * 1024
RUN = """
import sys
from pathlib import Path
from kvfs.cli import main
status = main(sys.argv[1:])
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
sys.exit(status)
"""
LARGE = {
    Key("binary"): Entry(bytes(range(256)) * (VALUE // 256)),
    Key("emoji"): Entry("🙂".encode() + b"x" * (VALUE - 4)),  # as one str: four bytes a character
    Key("some"): Entry(b"\xff" * (7 * 1024 * 1024)),
}


def peak(tmp_path, *words, **env):
    """Run a command in a process of its own; return its resident memory at the peak, in KiB."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words],
        env={**os.environ, **env, "KVFS_STATE_DIR": str(tmp_path / "state")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def test_large_texts_come_over_the_api_in_little_memory(tmp_path):
    """A bulk get of 25 MiB with one emoji, which as one `str` would take a hundred, comes in little memory."""
    entries = {Key("emoji"): LARGE[Key("emoji")], Key("more"): Entry(b"y" * VALUE)}

    async def work():
        async with open_sqlite(tmp_path / "store.sqlite", account="0123456789abcdef" * 2) as store:
            for key, entry in entries.items():
                await fill_store(store, "shop", {key: entry})

    trio.run(work)
    with served_by_process(tmp_path) as served:
        env = environment(tmp_path, served)
        assert peak(tmp_path, "export", "cloudflare:/shop", "x.tar", **env) < MOST
    assert peak(tmp_path, "import", "x.tar", f"local:{tmp_path}/b.sqlite/shop") < MOST
    assert dump(tmp_path / "b.sqlite") == entries


@pytest.mark.parametrize("name", ["x.json", "x.ndjson", "x.tar", "d"])
def test_large_values_pass_through_little_memory(name, tmp_path):
    """Large values pass out of a store and into one in little memory, in every form, and arrive unchanged."""
    store = fill(tmp_path / "a.sqlite", LARGE)
    assert peak(tmp_path, "export", store, name) < MOST
    assert peak(tmp_path, "import", name, f"local:{tmp_path}/b.sqlite/shop") < MOST
    assert dump(tmp_path / "b.sqlite") == LARGE
