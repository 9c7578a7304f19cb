"""The costs of the data commands: their requests, counted at the server, and their announcement beforehand."""

import configparser
import os
import shlex
import subprocess
from collections import Counter

import pytest
import trio
from support.mounted import KVFS, Api, environment
from support.moves import dump, fill, fill_store
from support.serving import served_by_process

from kvfs.core.model import Entry, Key
from kvfs.store.embedded.sqlite_store import open_sqlite

ENTRIES = {Key(f"user/{n:03}"): Entry(b"v", b'{"role":"admin"}' if n % 50 == 0 else None) for n in range(250)}
ENTRIES |= {Key("logo"): Entry(b"\xff" * 5000)}


class Room:
    """A server with one namespace, and commands that talk to it."""

    def __init__(self, directory, served):
        self.directory, self.api = directory, Api(served)
        self._env = environment(directory, served)

    def run(self, *words):
        """Run a command; return its result and the requests that it cost, without those for the names of namespaces."""
        before = Counter(self.api.requests())
        done = subprocess.run(
            [*KVFS, *words],
            env=self._env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        spent = Counter(self.api.requests()) - before
        del spent["list_namespaces"]
        return done, spent


@pytest.fixture
def room(tmp_path):
    async def work():
        async with open_sqlite(tmp_path / "store.sqlite", account="0123456789abcdef" * 2) as store:
            await fill_store(store, "shop", ENTRIES)
            await fill_store(store, "copy", ENTRIES)

    trio.run(work)
    with served_by_process(tmp_path) as served:
        found = Room(tmp_path, served)
        with found.api:
            yield found


def test_listings_answer_what_they_can(room):
    """ls, find by metadata and diff read no value; --values, --binary and --larger do."""
    for words in (
        ("ls", "-lR", "cloudflare:/shop"),
        ("find", "cloudflare:/shop", "--meta", "role=admin"),
    ):
        assert room.run(*words)[1] == Counter(list_keys=1), words
    done, spent = room.run("diff", "cloudflare:/shop", "cloudflare:/copy")
    assert (done.returncode, spent) == (0, Counter(list_keys=2))
    done, spent = room.run("find", "cloudflare:/shop", "--binary")
    assert done.stdout == "logo\n"
    assert spent["get_value"] == 1
    done, spent = room.run("find", "cloudflare:/shop", "--larger", "1K")
    assert done.stdout == "logo\n"
    assert spent == Counter(list_keys=1, bulk_get=3, get_value=1), "which one is binary was known by then"


def test_du_says_its_price_before_it_reads(room):
    """`du` prints keys, requests and dollars on stderr before it reads, and the counts on stdout."""
    done, spent = room.run("du", "cloudflare:/shop")
    assert done.returncode == 0
    assert done.stderr.startswith("kvfs: 251 keys to copy")
    assert "$0.0001 at list price" in done.stderr
    assert done.stdout.startswith("251 keys, 5.1 KiB; 1 binary, 5 with metadata")
    assert spent["list_keys"] == 1


def test_the_timer_backs_up_what_its_file_names(tmp_path):
    """`kvfs install` puts service and timer in place; what the service runs is a backup of the file's variables."""
    store = fill(tmp_path / "a.sqlite", {Key("k"): Entry(b"v")})
    env = environment(tmp_path, None) | {"HOME": str(tmp_path / "home")}
    subprocess.run(
        [*KVFS, "install", "--root", str(tmp_path / "root")], env=env, check=True, capture_output=True
    )
    units = {path.name: path for path in (tmp_path / "root").rglob("kvfs-backup@.*")}
    timer, service = (configparser.ConfigParser(strict=False, interpolation=None) for _ in range(2))
    timer.optionxform = service.optionxform = str
    timer.read(units["kvfs-backup@.timer"])
    service.read(units["kvfs-backup@.service"])
    assert timer["Timer"]["OnCalendar"] == "daily"
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert service["Service"]["EnvironmentFile"] == "/etc/kvfs/backup-%i.env"
    command = shlex.split(service["Service"]["ExecStart"])
    assert command[-1] == "backup"
    env |= {
        "KVFS_BACKUP_SOURCE": store,
        "KVFS_BACKUP_DIR": str(tmp_path / "backups"),
        "KVFS_BACKUP_KEEP": "7d,4w",
    }
    subprocess.run([*KVFS, *command[-1:]], env=env, cwd=os.sep, check=True, capture_output=True)
    subprocess.run(
        [*KVFS, "restore-backup", str(tmp_path / "backups"), f"local:{tmp_path}/b.sqlite/shop"],
        env=env, check=True, capture_output=True,
    )  # fmt: skip
    assert dump(tmp_path / "b.sqlite") == {Key("k"): Entry(b"v")}
