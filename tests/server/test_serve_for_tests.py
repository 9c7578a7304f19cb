"""`kvfs serve` in a shell: the background with its exports, a temporary store, seeds."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import trio
from support.standing import wait_for

from kvfs.core.errors import UserError
from kvfs.core.model import Entry
from kvfs.server.seeding import Seed, read_seed

ROOT = Path(__file__).parents[2]
KVFS = [sys.executable, "-m", "kvfs"]


def environment(place: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("KVFS_", "CLOUDFLARE_"))
    }
    kept |= {f"XDG_{name}_HOME": str(place / name) for name in ("STATE", "DATA", "CONFIG", "CACHE")}
    return {**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(place)}


@contextmanager
def in_background(place: Path, *options: str):
    """Start a server as `eval` in a shell does; return its variables, and the seconds that it took."""
    script = 'eval "$("$@")" && env'
    command = ["bash", "-c", script, "bash", *KVFS, "serve", "--print-env", "--listen=127.0.0.1:0", *options]
    began = time.monotonic()
    done = subprocess.run(
        command, env=environment(place), cwd=place, capture_output=True, text=True, timeout=30
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    found = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    pid = int(found["KVFS_SERVE_PID"])
    try:
        yield found, seconds
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(
            lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
        )


def client_of(found: dict[str, str]) -> httpx.Client:
    account = f"/accounts/{found['CLOUDFLARE_ACCOUNT_ID']}/storage/kv"
    headers = {"authorization": f"Bearer {found['CLOUDFLARE_API_TOKEN']}"}
    return httpx.Client(base_url=found["CLOUDFLARE_API_BASE_URL"] + account, headers=headers, trust_env=False)


def test_eval_leaves_a_server_in_the_background(tmp_path):
    """After `eval` the shell goes on at once, with everything a client needs; the log is a private file."""
    with in_background(tmp_path) as (found, seconds):
        assert seconds < 10  # a second where nobody else works on the machine
        assert found["CLOUDFLARE_BASE_URL"] == found["CLOUDFLARE_API_BASE_URL"]
        with client_of(found) as http:
            assert http.get("/namespaces").json()["result"] == []
        log = tmp_path / "STATE" / "kvfs" / "serve.log"
        assert log.stat().st_mode & 0o777 == 0o600
        assert "GET /client/v4/accounts/local/storage/kv/namespaces 200" in log.read_text()
        assert found["CLOUDFLARE_API_TOKEN"] not in log.read_text()


def test_an_error_before_it_is_ready_reaches_the_shell(tmp_path):
    """An error before it is ready goes to stderr with a status, and gives eval nothing."""
    command = [*KVFS, "serve", "--print-env", "--faults=nonsense", "--listen=127.0.0.1:0"]
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such fault" in done.stderr


def test_an_ephemeral_server_leaves_nothing(tmp_path):
    """An ephemeral server has store and token in a temporary directory, which goes with it."""
    with in_background(tmp_path, "--ephemeral", "--strict") as (found, _), client_of(found) as http:
        assert http.post("/namespaces", json={"title": "t"}).status_code == 200
        assert list(tmp_path.glob("kvfs-*/store.sqlite"))
    assert not list(tmp_path.glob("kvfs-*"))
    assert not (tmp_path / "DATA").exists()


def test_an_ephemeral_server_with_a_store_is_refused(tmp_path):
    """An ephemeral server with a store is refused, because only one of the two can be meant."""
    command = [*KVFS, "serve", "--ephemeral", f"--store={tmp_path / 's'}"]
    done = subprocess.run(
        command, env=environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert "--store" in done.stderr


def test_seeds_are_there_before_the_first_request(tmp_path):
    """A directory, a bulk file and NDJSON are seeded, each into a namespace of its own or of a title."""
    (tmp_path / "files" / "a").mkdir(parents=True)
    (tmp_path / "files" / "a" / "b").write_bytes(b"\x00\xff")
    pairs = [
        {"key": "k", "value": "v", "metadata": {"n": 1}, "expiration": 9999999999},
        {"key": "x/y", "value": "AP8", "base64": True},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    (tmp_path / "lines.ndjson").write_text("\n".join(map(json.dumps, pairs)) + "\n\n")
    seeds = ["--seed=files", "--seed=CONFIG=pairs.json", "--seed=lines.ndjson"]
    with in_background(tmp_path, "--ephemeral", *seeds) as (found, _), client_of(found) as http:
        ids = {one["title"]: one["id"] for one in http.get("/namespaces").json()["result"]}
        assert sorted(ids) == ["CONFIG", "files", "lines"]
        assert http.get(f"/namespaces/{ids['files']}/values/a%2Fb").content == b"\x00\xff"
        for title in ("CONFIG", "lines"):
            rows = http.get(f"/namespaces/{ids[title]}/keys").json()["result"]
            assert rows == [{"name": "k", "expiration": 9999999999, "metadata": {"n": 1}}, {"name": "x/y"}]
            assert http.get(f"/namespaces/{ids[title]}/values/x%2Fy").content == b"\x00\xff"


async def sown(file: Path, now: float = 0.0) -> list:
    return [pair async for pair in read_seed(file, now)]


async def test_what_has_expired_is_not_sown(tmp_path):
    """An expired entry is not seeded, and a time to live counts from now."""
    file = tmp_path / "seed.json"
    file.write_text(
        '[{"key":"old","value":"","expiration":5},{"key":"new","value":"","expiration_ttl":60},{"key":"on","value":""}]'
    )
    assert [(key, entry.expiration) for key, entry in await sown(file, 1000.0)] == [
        ("new", 1060),
        ("on", None),
    ]


async def test_what_a_copy_has_written_is_read_whole(tmp_path):
    """A copy's output is seeded whole: a directory with its manifest, an archive, a compressed file."""
    pairs = [
        {"key": "a/b", "value": "v", "metadata": {"n": 1.50}, "expiration": 9999999999},
        {"key": "..x", "value": "AP8=", "base64": True},
        {"key": "a", "value": "both"},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    expected = sorted(await sown(tmp_path / "pairs.json", time.time()))
    assert len(expected) == 3
    for name in ("directory/", "pairs.tar", "pairs.ndjson.gz"):
        copy = [*KVFS, "copy", "pairs.json", name]
        await trio.run_process(copy, env=environment(tmp_path), cwd=tmp_path, capture_stdout=True)
        assert sorted(await sown(tmp_path / name, time.time())) == expected, name


async def test_what_wrangler_prints_is_a_seed(tmp_path):
    """The output of `wrangler kv bulk get` is seeded, as `kvfs import` reads it."""
    file = tmp_path / "seed.json"
    file.write_text('{"k": {"value": "v", "metadata": {"n": 1}}}')
    assert await sown(file) == [("k", Entry(b"v", b'{"n":1}'))]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("seed.json", "7", r"seed\.json: "),
        ("seed.json", '[{"key":"","value":""}]', "cannot be a key"),
        ("seed.json", '[{"key":"k","value":"!","base64":true}]', "base64"),
        ("seed.json", '[{"key":"k","value":"","metadata":"%s"}]' % ("x" * 1024), "Metadata length"),
        ("seed.json", '[{"key":"k","value":"","expiration_ttl":59}]', "less than 60 seconds"),
        ("seed.ndjson", '{"key":"k","value":""}\nnonsense\n', r"seed\.ndjson: line 2: "),
        ("seed.csv", "k,v", r"\.ndjson"),
    ],
)
async def test_a_bad_seed_names_the_place(tmp_path, name, content, words):
    """A bad seed is reported with file, line (where there are lines), and reason."""
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        await sown(Seed.parse(str(file)).place)


def test_a_seed_has_a_title_and_a_place(tmp_path):
    """A seed has its own title, or that of its file, and a missing place is an error at once."""
    file = tmp_path / "my.config.json"
    file.write_text("[]")
    assert Seed.parse(str(file)) == Seed("my", file)
    assert Seed.parse(f"other={file}") == Seed("other", file)
    with pytest.raises(UserError, match="does not exist"):
        Seed.parse(f"other={tmp_path / 'missing'}")
    with pytest.raises(UserError, match="TITLE="):
        Seed.parse(f"={file}")
