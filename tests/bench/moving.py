"""Moving data without a mount: a million keys between embedded stores, and a namespace out and in over the API.

Beside the second are scripts of the official SDK's bulk calls and, where it is installed, of wrangler's bulk commands:
the same server, the same keys, requests counted there.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import trio
from bench.machine import machine, machine_lines
from bench.measuring import peak_memory
from bench.results import write
from bench.tables import markdown, seconds, size, times
from support.mounted import KVFS, Api, environment
from support.moves import fill_store
from support.serving import Served, served_by_process

from kvfs.core.model import Entry, Key
from kvfs.store.embedded.sqlite_store import open_sqlite

LOCAL_KEYS: Final = 1_000_000
API_KEYS: Final = 10_000
MOST_SECONDS: Final = 600.0
MOST_MEMORY: Final = 150 * 1024 * 1024

_EXPORT: Final = """
import json, sys, cloudflare
client = cloudflare.Cloudflare()
at = {"account_id": sys.argv[1], "namespace_id": sys.argv[2]}
names = [key.name for key in client.kv.namespaces.keys.list(limit=1000, **at)]
with open(sys.argv[3], "w") as file:
    for first in range(0, len(names), 100):
        some = names[first : first + 100]
        found = client.kv.namespaces.bulk_get(keys=some, with_metadata=True, **at)
        for key, entry in (found.values or {}).items():
            file.write(json.dumps({"key": key, "value": entry.value, "metadata": entry.metadata}) + "\\n")
"""
_IMPORT: Final = """
import json, sys, cloudflare
client = cloudflare.Cloudflare()
at = {"account_id": sys.argv[1], "namespace_id": sys.argv[2]}
pairs = json.load(open(sys.argv[3]))
for first in range(0, len(pairs), 10_000):
    client.kv.namespaces.bulk_update(body=pairs[first : first + 10_000], **at)
"""
# wrangler has no command that exports: a listing, and a bulk get for each hundred keys.
_WRANGLER_EXPORT: Final = """
import json, subprocess, sys
wrangler, where, out = sys.argv[1], ["--namespace-id", sys.argv[2], "--remote"], sys.argv[3]
def run(*words):
    return subprocess.run([wrangler, "kv", *words, *where], check=True, capture_output=True, text=True).stdout
names = [key["name"] for key in json.loads(run("key", "list"))]
found = {}
for first in range(0, len(names), 100):
    json.dump(names[first : first + 100], open("some.json", "w"))
    said = run("bulk", "get", "some.json")
    found |= json.loads(said[: said.rindex("}") + 1])
json.dump(found, open(out, "w"))
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """One move: seconds, bytes of memory at the peak, requests at the server."""

    what: str
    by: str
    keys: int
    wall: float
    memory: int
    requests: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `scripts/bench moving`."""
    parser.add_argument("--keys", type=int, default=LOCAL_KEYS, help="keys between embedded stores (1000000)")
    parser.add_argument("--api-keys", type=int, default=API_KEYS, help="keys over the API (20000)")
    parser.add_argument(
        "--only",
        choices=("stores", "api"),
        help="measure one half, and keep the other as it was last measured",
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 above 10 minutes or 150 MiB")


def run(words: argparse.Namespace, directory: Path, out: Path) -> int:
    """Measure, print, and write the page."""
    head = machine()
    stores, api = _last(out)
    if words.only != "api":
        stores = list(_between_stores(directory, words.keys))
    if words.only != "stores":
        api = list(_over_the_api(directory, words.api_keys))
    rows = [*stores, *api]
    page = _page(stores, api, machine_lines(head))
    print(page, end="")
    write(out, "moving", {"machine": head, "rows": [asdict(row) for row in rows]}, page)
    ours = [row for row in rows if row.by == "kvfs"]
    is_good = all(row.wall <= MOST_SECONDS and row.memory <= MOST_MEMORY for row in ours)
    return int(words.strict and not is_good)


def _last(out: Path) -> tuple[list[Moved], list[Moved]]:
    """Return the rows of the last results: between stores, and over the API."""
    try:
        rows = [Moved(**row) for row in json.loads((out / "moving.json").read_text())["rows"]]
    except (OSError, ValueError, TypeError):
        return [], []
    return [row for row in rows if not row.requests], [row for row in rows if row.requests]


def entries(count: int) -> Iterator[tuple[Key, Entry]]:
    """Yield entries of a hundred bytes each, a third with metadata, a third with an expiration."""
    ahead = int(time.time()) + 86_400
    for number in range(count):
        metadata = b'{"role":"user","n":%d}' % number if number % 3 == 0 else None
        expiration = ahead + number if number % 3 == 1 else None
        yield Key(f"user/{number % 1000:03}/{number:07}"), Entry(b"x" * 100, metadata, expiration)


def _fill(file: Path, count: int, account: str = "local") -> None:
    async def work() -> None:
        async with open_sqlite(file, account=account) as store:
            batch: dict[Key, Entry] = {}
            for key, entry in entries(count):
                batch[key] = entry
                if len(batch) == 10_000:
                    await fill_store(store, "shop", batch)
                    batch = {}
            await fill_store(store, "shop", batch)

    trio.run(work)


def _between_stores(directory: Path, count: int) -> Iterator[Moved]:
    _fill(directory / "a.sqlite", count)
    env = environment(directory, None)
    for what, words in (
        ("store to store", ("copy", "local:a.sqlite/shop", "local:b.sqlite/shop", "--yes")),
        ("store to NDJSON", ("export", "local:a.sqlite/shop", "x.ndjson.zst")),
        ("NDJSON to store", ("import", "x.ndjson.zst", "local:c.sqlite/shop", "--yes")),
        ("compared, with values", ("diff", "--values", "local:a.sqlite/shop", "local:c.sqlite/shop")),
    ):
        wall, memory = _timed([*KVFS, *words], directory, env)
        yield Moved(what, "kvfs", count, wall, memory, 0)


def _over_the_api(directory: Path, count: int) -> Iterator[Moved]:
    place = directory / "api"
    place.mkdir()
    with served_by_process(place) as served, Api(served) as api:
        _fill(place / "store.sqlite", count, served.account)
        env = environment(place, served) | {"CLOUDFLARE_BASE_URL": served.url}
        number = api.namespace("shop")
        for by, what, command in _api_commands(served, api, number):
            before = sum(api.requests().values())
            wall, memory = _timed(command, place, env)
            yield Moved(what, by, count, wall, memory, sum(api.requests().values()) - before)


def _api_commands(served: Served, api: Api, number: str) -> Iterator[tuple[str, str, list[str]]]:
    def made(title: str) -> str:
        return str(api.result("POST", "", json={"title": title})["id"])

    python = [sys.executable, "-c"]
    yield "kvfs", "namespace to JSON", [*KVFS, "export", "cloudflare:/shop", "shop.json", "--yes"]
    yield "official SDK", "namespace to JSON", [*python, _EXPORT, served.account, number, "sdk.ndjson"]
    yield "kvfs", "JSON to namespace", [*KVFS, "import", "shop.json", "cloudflare:/one", "--yes"]
    yield "official SDK", "JSON to namespace", [*python, _IMPORT, served.account, made("two"), "shop.json"]
    wrangler = os.environ.get("WRANGLER", "")
    if os.access(wrangler, os.X_OK):
        yield "wrangler", "namespace to JSON", [*python, _WRANGLER_EXPORT, wrangler, number, "wrangler.json"]
        words = ["kv", "bulk", "put", "shop.json", f"--namespace-id={made('three')}", "--remote"]
        yield "wrangler", "JSON to namespace", [wrangler, *words]


def _timed(command: Sequence[str], directory: Path, env: dict[str, str]) -> tuple[float, int]:
    """Run a command that must succeed; return its seconds, and its resident memory at the peak."""
    started = time.monotonic()
    peak = 0
    with open(directory / "said", "wb") as said:
        process = subprocess.Popen(command, cwd=directory, env=env, stdout=said, stderr=said)
        # Not by wait4(2): that counts what this process had before the command was started in its place.
        while process.poll() is None:
            peak = max(peak, *map(peak_memory, _family(process.pid)))
            time.sleep(0.02)
    assert process.returncode == 0, (directory / "said").read_text()
    return time.monotonic() - started, peak


def _family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in _family(int(child)))]


def _page(stores: Sequence[Moved], api: Sequence[Moved], machine_text: str) -> str:
    ours = {row.what: row for row in api if row.by == "kvfs"}
    first = markdown(
        ("", "keys", "time", "memory at its peak"),
        [(row.what, f"{row.keys:,}", seconds(row.wall), size(row.memory)) for row in stores],
    )
    second = markdown(
        ("", "by", "time", "of kvfs's", "requests", "of kvfs's", "memory at its peak"),
        [
            (
                f"{row.what}, {row.keys:,} keys",
                row.by,
                seconds(row.wall),
                times(row.wall / ours[row.what].wall),
                f"{row.requests:,}",
                times(row.requests / ours[row.what].requests),
                size(row.memory),
            )
            for row in sorted(api, key=lambda row: row.what, reverse=True)
        ],
    )
    return (
        "# Moving data\n\nMade by `scripts/bench moving`. Each row is a command from its start to its end; its memory\n"
        "is that of its largest process, interpreter included.\n\n"
        f"{machine_text}\n## Between two embedded stores\n\n{first}\n## Over the API\n\n"
        "The same `kvfs serve` for all, a hundred bytes a value, a third with metadata, a third with an expiration.\n\n"
        f"{second}\n"
        "The SDK's are scripts of some ten lines: a listing by the thousand and bulk gets by the hundred, one after\n"
        "the other; bulk writes of 10,000. wrangler has no command that exports, and its bulk get takes a hundred\n"
        "keys: the script starts it for each hundred. Neither script keeps expirations, reads binary values or goes\n"
        "on where it was. The first write of kvfs has 1,000 keys, because the real API needs seconds for them; the\n"
        "SDK's has as many as the API allows.\n"
    )
