"""`wrangler kv bulk put` takes what kvfs exports, and kvfs takes what `wrangler kv bulk get` prints."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.mounted import KVFS, Api, environment
from support.moves import dump_store, fill, sample
from support.serving import Served, served_by_process
from support.wrangler import NEW, OLD, wrangler_command

from kvfs.core.model import Entry, Key
from kvfs.store.embedded.sqlite_store import open_sqlite


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with served_by_process(tmp_path) as ready:
        yield ready


def kvfs(tmp_path: Path, served: Served, *words: str) -> None:
    subprocess.run(
        [*KVFS, *words], env=environment(tmp_path, served), cwd=tmp_path, check=True, capture_output=True
    )


def dumped(tmp_path: Path, served: Served, title: str) -> dict[Key, Entry]:
    async def work() -> dict[Key, Entry]:
        async with open_sqlite(tmp_path / "store.sqlite", account=served.account) as store:
            return await dump_store(store, title)

    return trio.run(work)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_bulk_files_go_both_ways(version: str, tmp_path: Path, served: Served) -> None:
    """A whole export passes wrangler's bulk put, and the output of its bulk get is read with all that it has."""
    command, env = wrangler_command(version)
    env |= environment(tmp_path, served) | {"PATH": env["PATH"], "HOME": str(tmp_path)}

    def wrangler(*words: str) -> str:
        full = [*command, "kv", "bulk", *words, "--namespace-id", namespace, "--remote"]
        done = subprocess.run(
            full, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # wrangler itself takes metadata that is an object only
    odd = [key for key, entry in sample().items() if not (entry.metadata or b"{").startswith(b"{")]
    odd += [key for key, entry in sample().items() if b"ud800" in (entry.metadata or b"")]
    entries = {key: entry for key, entry in sample(30, binaries=2).items() if key not in odd}
    kvfs(tmp_path, served, "export", fill(tmp_path / "a.sqlite", entries), "x.json")
    with Api(served) as api:
        namespace = str(api.result("POST", "", json={"title": "shop"})["id"])
        wrangler("put", "x.json")
        found = dumped(tmp_path, served, "shop")
        assert found.keys() == entries.keys()
        assert all(found[key].value == entries[key].value for key in entries)
        assert all(found[key].expiration == entries[key].expiration for key in entries)
        (tmp_path / "keys.json").write_text(json.dumps(["user/0/000000", "user/1/000001", "empty"]))
        (tmp_path / "got.json").write_text(wrangler("get", "keys.json"))
    kvfs(tmp_path, served, "import", "got.json", "cloudflare:/back")
    values = {key: entry.value for key, entry in dumped(tmp_path, served, "back").items()}
    assert values == {Key("user/0/000000"): b"value 0", Key("user/1/000001"): b"value 1", Key("empty"): b""}
