"""The `kv` commands of two versions of wrangler, every one against `kvfs serve`, over a real socket."""

import json
import subprocess

import httpx
import pytest
from support.serving import ACCOUNT, TOKEN, served_by_process
from support.wrangler import NEW, OLD, wrangler_command

FIXTURES = [
    {"key": "a", "value": "1", "metadata": {"n": 1}},
    {"key": "b", "value": "AP8=", "base64": True, "expiration_ttl": 3600},
]


class Wrangler:
    """Runs a version in an empty directory, with the server as its API."""

    def __init__(self, version, place, server):
        command, env = wrangler_command(version)
        home = {"HOME": str(place), "XDG_CONFIG_HOME": str(place / "config")}
        api = {
            "CLOUDFLARE_API_BASE_URL": server.url,
            "CLOUDFLARE_API_TOKEN": TOKEN,
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        }
        self._command, self._env, self._place = command, env | home | api, place

    def kv(self, *words, status=0, **variables) -> str:
        """Return the output of `wrangler kv …`; its status must be as given."""
        done = subprocess.run(
            [*self._command, "kv", *words],
            cwd=self._place,
            env=self._env | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout.decode("utf-8", "surrogateescape")


def json_of(output: str):
    """Return the JSON in an output that may have lines around it."""
    start = min(place for place in (output.find("["), output.find("{")) if place >= 0)
    return json.JSONDecoder().raw_decode(output[start:])[0]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("version", [OLD, NEW])
def test_every_kv_command_does_what_it_says(tmp_path, version):
    """Every kv command works: namespaces, single keys, bulk; text, files, binary, metadata, TTL; by id and by title."""
    place = tmp_path / "project"
    place.mkdir()
    (place / "binary").write_bytes(b"\x00\xff\xfe")
    (place / "pairs.json").write_text(json.dumps(FIXTURES))
    (place / "keys.json").write_text('["a", "a/b"]')
    with served_by_process(tmp_path) as server:
        wrangler = Wrangler(version, place, server)
        wrangler.kv("namespace", "create", "one")
        (made,) = json_of(wrangler.kv("namespace", "list"))
        assert made["title"].endswith("one")
        url = f"{server.namespaces}/{made['id']}"
        at = (f"--namespace-id={made['id']}", "--remote")
        wrangler.kv("namespace", "rename", f"--namespace-id={made['id']}", "--new-name=two")
        wrangler.kv("key", "put", "a/b", "text", '--metadata={"n":1}', "--ttl=3600", *at)
        wrangler.kv("key", "put", "binary", "--path=binary", *at)
        listed = {row["name"]: row for row in json_of(wrangler.kv("key", "list", *at))}
        assert listed["a/b"]["metadata"] == {"n": 1}
        assert "expiration" in listed["a/b"]
        assert set(listed) == {"a/b", "binary"}
        assert [row["name"] for row in json_of(wrangler.kv("key", "list", "--prefix=a/", *at))] == ["a/b"]
        assert wrangler.kv("key", "get", "a/b", "--text", *at).strip() == "text"
        assert wrangler.kv("key", "get", "binary", *at).encode("utf-8", "surrogateescape") == b"\x00\xff\xfe"
        wrangler.kv("key", "get", "missing", *at, status=1)
        wrangler.kv("bulk", "put", "pairs.json", *at)
        assert json_of(wrangler.kv("bulk", "get", "keys.json", *at))["a"] == "1"
        assert httpx.get(f"{url}/values/b", headers=server.headers).content == b"\x00\xff"
        wrangler.kv("key", "delete", "b", *at)
        wrangler.kv("bulk", "delete", "keys.json", "--force", *at)
        rows = httpx.get(f"{url}/keys", headers=server.headers).json()["result"]
        assert [row["name"] for row in rows] == ["binary"]
        wrangler.kv("namespace", "delete", f"--namespace-id={made['id']}", "-y")
        assert httpx.get(server.namespaces, headers=server.headers).json()["result"] == []
        wrangler.kv("namespace", "list", CLOUDFLARE_API_TOKEN="wrong", status=1)
