"""`kvfs verify`: every assumption holds at our own server, each mood that breaks one is named, nothing is left."""

import io
import json
import stat
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from support.serving import ACCOUNT, TOKEN, served, served_by_process
from support.wrangler import NEW, dev_server, project

from kvfs.cli import main
from kvfs.config import CloudflareSource, Config
from kvfs.core.errors import UserError
from kvfs.daemon.build import first_pairs, settle_window
from kvfs.host.endpoints import Learned, load_learned, save_learned
from kvfs.verify import scratch, verification
from kvfs.verify.findings import CHECKS
from kvfs.verify.known_differences import KNOWN
from kvfs.verify.verification import verify
from kvfs.verify.wire import Endpoint

PATIENCE = 0.5


@asynccontextmanager
async def at(server):
    """Return the endpoint of a server, and its namespaces' URL."""
    async with server.client() as http:
        yield Endpoint(http, server.namespaces)


async def namespaces(server) -> list[str]:
    await server.set_faults()
    async with server.client() as http:
        return [one["title"] for one in (await http.get(server.namespaces)).json()["result"]]


@pytest.fixture
async def server(tmp_path):
    async with served(tmp_path, faults="") as running:
        yield running


async def test_our_own_server_is_as_kvfs_assumes(server):
    """Our own server passes, within the announced requests and price, and with nothing left behind."""
    heard = []
    async with at(server) as endpoint:
        report = await verify(endpoint, told=heard.append)
    assert report.differences == []
    assert heard == report.findings
    assert len(report.findings) == len(CHECKS) + 3
    assert report.requests <= verification.REQUESTS
    assert report.pair_seconds is not None
    keys = await server.keys()
    assert sum(keys[name] for name in ("put_value", "bulk_put")) <= verification.COUNTS["written"]
    assert (
        sum(keys[name] for name in ("get_value", "bulk_get", "get_metadata")) <= verification.COUNTS["read"]
    )
    assert keys["list_keys"] <= verification.COUNTS["lists"]
    assert sum(keys[name] for name in ("delete_value", "bulk_delete")) <= verification.COUNTS["deleted"]
    assert await namespaces(server) == []


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"fault": "bare_bulk"}, {"bulk get"}),
        ({"fault": "html", "status": 200, "method": "GET", "path": "/values/v%2Ftype"}, {"type of a value"}),
        ({"fault": "code", "code": 10000, "status": 400, "path": "/bulk/delete"}, {"bulk delete"}),
        ({"fault": "code", "code": 10009, "method": "GET", "path": "/metadata/"}, {"metadata of one key"}),
        (
            {"fault": "code", "code": 10012, "method": "PUT", "path": "/values/v%2Fbad"},
            {"metadata that is no JSON"},
        ),
        ({"fault": "endless_cursor"}, {"pages of a listing", "empty listing"}),
        (
            {"fault": "stall", "seconds": 0, "method": "DELETE", "path": "missing"},
            {"delete of a missing key"},
        ),
    ],
)
async def test_what_does_not_hold_is_named(server, rule, named):
    """Only the check that fails is named, and the scratch namespace goes all the same."""
    await server.set_faults(rule)
    async with at(server) as endpoint:
        report = await verify(endpoint, patience=PATIENCE)
    found = {finding.name for finding in report.differences}
    assert found == named
    assert await namespaces(server) == []


@pytest.mark.parametrize(
    "words", ["url_keys", "no_bulk_expiration", "floats", "null_lists", "unknown_fields"]
)
async def test_what_kvfs_copes_with_is_no_difference(server, words):
    """Shapes that the schema allows, and keys that go by bulk, are no differences."""
    async with server.client() as http:
        await http.put(f"{server.root}/_kvfs/faults", json=words)
    async with at(server) as endpoint:
        report = await verify(endpoint, patience=PATIENCE)
    assert report.differences == []


async def test_a_refused_token_ends_it_at_once(server):
    """A refused token ends it at once with the answer, and nothing is tried."""
    await server.set_faults({"fault": "code", "code": 9109})
    async with at(server) as endpoint:
        with pytest.raises(UserError, match="9109"):
            await verify(endpoint)
        assert endpoint.requests == 1


async def test_a_run_that_is_stopped_leaves_no_namespace(server):
    """A run that is stopped in the middle, as by Ctrl-C, leaves no namespace."""
    await server.set_faults({"fault": "latency", "seconds": 2, "path": "/values/"})
    async with at(server) as endpoint:
        with trio.move_on_after(1) as scope:
            await verify(endpoint)
    assert scope.cancelled_caught
    assert await namespaces(server) == []


async def test_a_namespace_whose_creation_is_interrupted_is_removed(server):
    """The answer of an interrupted creation is waited for, because nobody else knows of its namespace."""
    await server.set_faults(
        {"fault": "slow_drip", "seconds": 0.002, "method": "POST", "path": "/namespaces$"}
    )
    async with at(server) as endpoint:
        with trio.move_on_after(0.05) as scope:
            await verify(endpoint)
    assert scope.cancelled_caught
    assert await namespaces(server) == []


async def test_a_creation_whose_answer_is_lost_is_found_and_removed(server):
    """It took effect, and its title is known."""
    await server.set_faults(
        {"fault": "lost_ack", "method": "POST", "path": "/namespaces$", "times": 1},
        {"fault": "latency", "seconds": 5, "path": "/values/|/bulk"},
    )
    async with at(server) as endpoint:
        with trio.move_on_after(1):
            await verify(endpoint)
    assert await namespaces(server) == []


async def test_a_removal_that_fails_is_tried_again(server, monkeypatch):
    """After a 5xx, and after a connection that was killed."""
    monkeypatch.setattr(scratch, "FIRST_PAUSE", 0.01)
    of_namespaces = {"method": "DELETE", "path": "/namespaces/[0-9a-f]+$"}
    await server.set_faults(
        {"fault": "status", "status": 503, "times": 1, **of_namespaces},
        {"fault": "reset", "times": 1, "after": 1, **of_namespaces},
        {"fault": "status", "status": 500, "path": "/values/|/bulk|/keys"},
    )
    left = []
    async with at(server) as endpoint:
        with trio.move_on_after(0.5):
            await verify(endpoint, left=left.append)
    assert left == []
    assert await namespaces(server) == []


async def make(server, title):
    """A namespace."""
    async with server.client() as http:
        return (await http.post(server.namespaces, json={"title": title})).json()["result"]["id"]


async def test_a_later_run_removes_what_an_earlier_one_left(server):
    """By the time in its title: not one that may be under way, nor what holds a key that no run made."""
    old, young = time.time() - 2 * scratch.OLD, time.time() - 60
    titles = [scratch.new_title(old), f"{scratch.new_title(old)}-renamed", scratch.new_title(young), "mine"]
    for title in titles:
        await make(server, title)
    used = scratch.new_title(old)
    async with server.client() as http:
        namespace = await make(server, used)
        await http.put(f"{server.namespaces}/{namespace}/values/precious", content=b"x")
        await http.put(f"{server.namespaces}/{namespace}/values/v%2Fx", content=b"x")
    removed, left = [], []
    async with at(server) as endpoint:
        await verify(endpoint, removed=removed.append, left=left.append)
    assert {one.title for one in removed} == set(titles[:2])
    assert left == [scratch.ScratchNamespace(namespace, used)]
    assert set(await namespaces(server)) == {*titles[2:], used}


async def test_a_namespace_with_more_keys_than_a_page_is_left_alone(server):
    """A key of somebody else may come after a whole page of keys that look like those of a run."""
    used = scratch.new_title(time.time() - 2 * scratch.OLD)
    namespace = await make(server, used)
    async with server.client() as http:
        pairs = [{"key": f"v/{n}", "value": "x"} for n in range(1_000)] + [{"key": "w", "value": "precious"}]
        await http.put(f"{server.namespaces}/{namespace}/bulk", json=pairs)
    removed, left = [], []
    async with at(server) as endpoint:
        await verify(endpoint, removed=removed.append, left=left.append)
    assert removed == []
    assert left == [scratch.ScratchNamespace(namespace, used)]
    assert await namespaces(server) == [used]


def test_a_namespace_that_cannot_be_removed_is_named(cloudflare, monkeypatch, capsys):
    """With the command that removes it."""
    import httpx

    monkeypatch.setattr(scratch, "FIRST_PAUSE", 0.01)
    rules = [{"fault": "status", "status": 500, "method": "DELETE", "path": "/namespaces/[0-9a-f]+$"}]
    httpx.put(f"{cloudflare.root}/_kvfs/faults", json=rules, headers=cloudflare.headers)
    assert main(["verify", "--yes", f"cloudflare:{ACCOUNT}"]) == 0
    [namespace] = httpx.get(cloudflare.namespaces, headers=cloudflare.headers).json()["result"]
    shown = capsys.readouterr().err
    assert f"npx wrangler kv namespace delete --namespace-id {namespace['id']}" in shown


def test_ctrl_c_in_a_terminal_leaves_no_namespace(tmp_path, monkeypatch):
    """After the real signal the real program ends with 130 and has cleaned up."""
    import os
    import signal
    import subprocess
    import sys

    import httpx
    from support.standing import wait_for

    with served_by_process(tmp_path, faults="") as server, httpx.Client(headers=server.headers) as http:
        rule = {"fault": "latency", "seconds": 30, "path": "/values/"}
        http.put(f"{server.root}/_kvfs/faults", json=[rule])
        env = {**os.environ, "CLOUDFLARE_API_BASE_URL": server.url, "CLOUDFLARE_API_TOKEN": TOKEN}
        command = [sys.executable, "-m", "kvfs", "verify", "--yes", f"--state-dir={tmp_path / 'st'}"]
        with subprocess.Popen(
            [*command, f"cloudflare:{ACCOUNT}"], env=env, cwd=Path(__file__).parents[2]
        ) as process:
            wait_for(lambda: http.get(server.namespaces).json()["result"])
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        assert http.get(server.namespaces).json()["result"] == []


@pytest.fixture
def cloudflare(tmp_path, monkeypatch):
    """Yield a server with the whole temperament, but for its patience: staleness of half a second."""
    with served_by_process(tmp_path, faults="cloudflare,stale=500ms,pair_cost=2ms,seed=4") as server:
        monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", server.url)
        monkeypatch.setenv("CLOUDFLARE_API_TOKEN", TOKEN)
        monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "state"))
        yield server


def test_the_whole_temperament_of_the_api_is_as_kvfs_assumes(cloudflare, tmp_path, capsys):
    """The program finds the whole temperament as expected, and writes a JSON report, and a private file for mounts."""
    assert main(["verify", "--yes", "--json", f"cloudflare:{ACCOUNT}"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["wrong"] == 0
    assert {"name", "expected", "seen", "holds", "known"} == set(found["findings"][0])
    assert TOKEN not in shown.out + shown.err
    assert "$0.0" in shown.err
    learned = load_learned(cloudflare.url, tmp_path / "state")
    assert learned.differences == ()
    assert learned.pair_seconds >= 0.002
    (file,) = (tmp_path / "state" / "endpoints").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_asks_before_it_writes_anything(cloudflare, monkeypatch, capsys):
    """Without an answer to its question nothing is written."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["verify", f"cloudflare:{ACCOUNT}"]) != 0
    assert "go on?" in capsys.readouterr().err


def test_a_difference_is_status_1_and_says_what_was_expected(cloudflare, capsys):
    """A difference gives status 1, with expected and seen one below the other."""
    import httpx

    rules = [{"fault": "code", "code": 10012, "method": "DELETE", "path": "missing"}]
    httpx.put(f"{cloudflare.root}/_kvfs/faults", json=rules, headers=cloudflare.headers)
    assert main(["verify", "--yes", f"cloudflare:{ACCOUNT}"]) == 1
    shown = capsys.readouterr().out
    assert "WRONG delete of a missing key: HTTP 400, code 10012\n      expected: succeeds" in shown
    assert "wrong;" in shown


def test_a_profile_and_a_token_command_serve_as_for_a_mount(cloudflare, tmp_path, monkeypatch, capsys):
    """SOURCE and token come from the configuration file, and no requests are made beyond the announced ones."""
    monkeypatch.delenv("CLOUDFLARE_API_TOKEN")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "kvfs" / "config.toml"
    file.parent.mkdir()
    command = f'token-command = "echo {TOKEN}"'
    file.write_text(f'[profile.mine]\nsource = "cloudflare:{ACCOUNT}"\ndirectory = "/mnt"\n{command}\n')
    assert main(["verify", "--yes", "--json", "--profile", "mine"]) == 0
    shown = capsys.readouterr()
    assert f"about {verification.REQUESTS} requests" in shown.err
    assert TOKEN not in shown.out + shown.err
    assert main(["verify", "--yes"]) != 0
    assert "--profile" in capsys.readouterr().err


def test_the_state_directory_of_a_profile_gets_what_was_learned(cloudflare, tmp_path, monkeypatch):
    """The findings about an endpoint go where mounts of the same profile look for them."""
    monkeypatch.delenv("KVFS_STATE_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file, state = tmp_path / "kvfs" / "config.toml", tmp_path / "state of the profile"
    file.parent.mkdir()
    file.write_text(f'[profile.mine]\nsource = "cloudflare:{ACCOUNT}"\nstate-dir = "{state}"\n')
    assert main(["verify", "--yes", "--profile", "mine"]) == 0
    assert len(list((state / "endpoints").glob("*.json"))) == 1


@pytest.mark.parametrize("source", ["local:", "wrangler:"])
def test_a_source_without_an_api_is_refused(tmp_path, monkeypatch, capsys, source):
    """A source without an API is refused, with the kinds that have one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "wrangler.jsonc").write_text('{"name": "x", "kv_namespaces": []}')
    assert main(["verify", "--yes", source]) != 0
    assert "wrangler:http://" in capsys.readouterr().err


def test_the_local_explorer_differs_only_where_kvfs_knows(tmp_path, monkeypatch, capsys):
    """Against the newest wrangler each difference has its way round, with status 0, and no key is left."""
    monkeypatch.setenv("KVFS_STATE_DIR", str(tmp_path / "state"))
    with dev_server(NEW, project(tmp_path / "project")) as dev:
        dev.put("mine", b"stays")
        assert main(["verify", "--yes", "--json", f"wrangler:{dev.origin}"]) == 0
        assert list(dev.listing()) == ["mine"]
        assert not dev.listing(binding="CACHE")
    found = json.loads(capsys.readouterr().out)
    differences = {one["name"] for one in found["findings"] if one["holds"] is False}
    assert {"creating a namespace", "expiration of a put", "bulk get of a binary value"} <= differences
    assert differences <= set(KNOWN)
    assert all(one["known"] for one in found["findings"] if one["holds"] is False)


def test_every_known_difference_is_one_of_a_check():
    """Every known difference names a check that exists."""
    names = {check.name for check in CHECKS}
    assert set(KNOWN) - names == {"creating a namespace"}
    assert len(names) == len(CHECKS)


@pytest.mark.parametrize(
    ("seen", "settle", "expected"), [(0.0, 90, 90), (60, 90, 90), (80, 90, 120), (80, 0, 0)]
)
def test_a_mount_waits_as_long_as_reads_were_stale(tmp_path, seen, settle, expected):
    """A mount waits half as long again as reads were stale, never less than asked for, or not if switched off."""
    save_learned(Learned("https://x.invalid/client/v4", 1.0, seen, None, ()), tmp_path)
    source = CloudflareSource("a", base_url="https://x.invalid/client/v4")
    config = Config(source, tmp_path, settle=settle, state_dir=tmp_path)
    assert settle_window(config) == expected


@pytest.mark.parametrize(
    ("pair_seconds", "expected"), [(None, 1000), (0.02, 500), (0.001, 4000), (1.0, 100), (0.004, 2500)]
)
def test_a_mount_begins_with_bodies_that_are_answered_quickly(tmp_path, pair_seconds, expected):
    """The first body has as many pairs as take ten seconds, within bounds, or the usual number by default."""
    source = CloudflareSource("a", base_url="https://x.invalid/client/v4")
    config = Config(source, tmp_path, state_dir=tmp_path)
    assert first_pairs(config) == 1000
    save_learned(Learned("https://x.invalid/client/v4", 1.0, 0.0, pair_seconds, ()), tmp_path)
    assert first_pairs(config) == expected


def test_what_was_learned_may_be_missing_or_broken(tmp_path):
    """Missing or broken findings count as none."""
    assert load_learned("https://x.invalid", tmp_path) is None
    save_learned(Learned("https://x.invalid", 1.0, 2.0, 0.5, ("a",)), tmp_path)
    assert load_learned("https://x.invalid", tmp_path) == Learned("https://x.invalid", 1.0, 2.0, 0.5, ("a",))
    (file,) = (tmp_path / "endpoints").iterdir()
    file.write_text('{"unknown": 1}')
    assert load_learned("https://x.invalid", tmp_path) is None
