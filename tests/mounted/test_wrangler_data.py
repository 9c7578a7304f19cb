"""Data of a Workers project, moved and listed without a mount."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounted import KVFS, Api, environment
from support.serving import Served, served_by_process
from support.wrangler import ACCOUNT, NEW, PREVIEW, dev_server, project

BINARY = bytes(range(256))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A project with two bindings, an environment and a preview_id."""
    return project(tmp_path / "project")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Yield the account in production."""
    with served_by_process(tmp_path, faults="") as served:
        yield served


def made(api: Api, title: str) -> str:
    """Return the id of a new namespace."""
    return str(api.result("POST", "", json={"title": title})["id"])


def kvfs(place: Path, tmp_path: Path, *words: str, served: Served | None = None) -> str:
    """Return the output of a command in the project."""
    env = environment(tmp_path, served)
    done = subprocess.run(
        [*KVFS, *words], cwd=place, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_production_comes_home_with_expirations(place: Path, tmp_path: Path, served: Served) -> None:
    """One binding names production and the local store: it is copied, compared, sampled, and made into fixtures."""
    with Api(served) as api:
        namespace = made(api, "production")
        file = place / "wrangler.jsonc"
        file.write_text(file.read_text().replace("a" * 32, namespace).replace(ACCOUNT, served.account))
        expires = int(time.time()) + 3600
        seed = tmp_path / "seed.json"
        entries = [{"key": f"k{number:02}", "value": str(number)} for number in range(30)]
        entries.append({"key": "text", "value": "x", "metadata": {"a": 1}, "expiration": expires})
        entries.append({"key": "bin", "value": "AP8=", "base64": True})
        seed.write_text(json.dumps(entries))
        kvfs(place, tmp_path, "import", str(seed), "cloudflare:@CONFIG", "--yes", served=served)
    kvfs(place, tmp_path, "copy", "cloudflare:@CONFIG", "wrangler:@CONFIG", "--yes", served=served)
    assert (
        kvfs(place, tmp_path, "diff", "--values", "cloudflare:@CONFIG", "wrangler:@CONFIG", served=served)
        == ""
    )
    kvfs(
        place, tmp_path, "copy", "--sample=5", "cloudflare:@CONFIG", "wrangler:@CACHE", "--yes", served=served
    )
    sample = kvfs(place, tmp_path, "ls", "wrangler:@CACHE").split()
    assert len(sample) == 5
    kvfs(place, tmp_path, "copy", "--sample=5", "cloudflare:@CONFIG", "sample.ndjson", "--yes", served=served)
    assert (
        sorted(json.loads(line)["key"] for line in (place / "sample.ndjson").read_text().splitlines())
        == sample
    )
    kvfs(place, tmp_path, "copy", "wrangler:@CONFIG", "fixtures/", "--yes")
    assert (place / "fixtures" / "bin").read_bytes() == b"\x00\xff"
    with dev_server(NEW, place) as dev:
        assert dev.get("bin")[0] == b"\x00\xff"
        assert dev.get("text") == (b"x", '{"a":1}')
        assert dev.listing()["text"]["expiration"] == expires
        kvfs(place, tmp_path, "put", "wrangler:@CONFIG/k00", "changed")
        assert dev.get("k00")[0] == b"changed"
        assert kvfs(place, tmp_path, "cat", "wrangler:@CONFIG/k00") == "changed"


def test_namespaces_lists_bindings_of_the_project(place: Path, tmp_path: Path) -> None:
    """Without a source `namespaces` lists the bindings of the project; titles need a source."""
    rows = [json.loads(line) for line in kvfs(place, tmp_path, "namespaces", "--json").splitlines()]
    assert {row["id"]: row["bindings"] for row in rows} == {
        "a" * 32: ["CONFIG"],
        PREVIEW: ["CONFIG (preview)"],
        "c" * 32: ["CACHE"],
        "d" * 32: ["CONFIG@staging"],
    }
    assert "CONFIG@staging" in kvfs(place, tmp_path, "namespaces")


def test_namespaces_of_an_account_are_shown_with_their_bindings(
    place: Path, tmp_path: Path, served: Served
) -> None:
    """Namespaces of an account are shown with their bindings, and those that no binding names are shown too."""
    with Api(served) as api:
        named, other = made(api, "named"), made(api, "other")
    file = place / "wrangler.jsonc"
    file.write_text(file.read_text().replace("c" * 32, named))
    rows = [
        json.loads(line)
        for line in kvfs(place, tmp_path, "namespaces", "cloudflare:", "--json", served=served).splitlines()
    ]
    assert rows == [
        {"id": named, "title": "named", "bindings": ["CACHE"]},
        {"id": other, "title": "other", "bindings": []},
    ]


def test_namespaces_outside_a_project_says_what_to_name(tmp_path: Path) -> None:
    """Outside a project the message says what to name."""
    done = subprocess.run(
        [*KVFS, "namespaces"],
        cwd="/",
        env=environment(tmp_path, None),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "kvfs namespaces cloudflare:" in done.stderr
