"""The pytest plugin in another project: only the wheel is installed, in a fresh environment."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing.md"

PROJECT = '''
"""Tests of a project that uses the fixtures in every way the page names."""

import os
import subprocess
import sys

import cloudflare
import httpx
import pytest


def test_the_official_sdk_finds_the_server_by_its_environment(kv_server, kv_namespace, monkeypatch):
    for name, value in kv_server.env.items():
        monkeypatch.setenv(name, value)
    with cloudflare.Cloudflare(max_retries=0) as client:
        at = {"account_id": kv_server.account, "namespace_id": kv_namespace.id}
        client.kv.namespaces.values.update("k", value=b"\\x00\\xff", **at)
        assert client.kv.namespaces.values.get("k", **at).read() == b"\\x00\\xff"
    assert kv_namespace.get("k") == b"\\x00\\xff"
    assert kv_server.billed_keys == {"put_value": 1, "get_value": 1}


def test_a_program_finds_it_too(kv_server):
    code = "import cloudflare; print([n.title for n in cloudflare.Cloudflare().kv.namespaces.list(account_id='%s')])"
    kv_server.create_namespace("mine")
    command = [sys.executable, "-c", code % kv_server.account]
    done = subprocess.run(command, env={**os.environ, **kv_server.env}, capture_output=True, text=True, check=True)
    assert done.stdout == "['mine']\\n"


def test_faults_are_set(kv_server):
    kv_server.set_faults("code=10026:403")
    headers = {"authorization": f"Bearer {kv_server.token}"}
    assert httpx.get(kv_server.namespaces_url, headers=headers).status_code == 403


def test_faults_and_counts_do_not_outlive_a_test(kv_server, kv_namespace):
    assert kv_server.requests == {}
    answer = httpx.get(kv_server.namespaces_url, headers={"authorization": f"Bearer {kv_server.token}"})
    assert [one["title"] for one in answer.json()["result"]] == ["test"]
    assert kv_server.requests == {"list_namespaces": 1}


def test_what_a_test_prepares_is_neither_counted_nor_disturbed(kv_server, kv_namespace):
    with kv_server.faults("reset"):
        kv_namespace.put({"a": "1", "b/c": "2"}, metadata={"n": 1}, expiration_ttl=600)
        assert kv_namespace.get("b/c") == b"2"
        assert kv_namespace.get("missing") is None
        assert kv_namespace.keys()["a"]["metadata"] == {"n": 1}
        with pytest.raises(httpx.TransportError):
            httpx.get(kv_namespace.url)
    assert kv_server.requests == {"get_namespace": 1}
    assert kv_server.billed_keys == {}
    with pytest.raises(ValueError, match="expiration"):
        kv_namespace.put({"a": "1"}, expiration_ttl=5)


def test_a_wrong_word_is_answered_with_those_there_are(kv_server):
    with pytest.raises(ValueError, match="rate_budget.*stale"):
        kv_server.set_faults("nonsense")
    with pytest.raises(ValueError, match="firewall"):
        kv_server.set_faults([{"fault": "nonsense"}])


def test_the_token_is_not_in_a_traceback(kv_server):
    assert kv_server.token not in repr(kv_server)
'''


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """Yield an environment with the wheel and, beside it, our libraries."""
    place = tmp_path_factory.mktemp("environment")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", place, ROOT], check=True)
    (wheel,) = place.glob("kvfs-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (libraries,) = (place / "venv" / "lib").glob("python*/site-packages")
    (libraries / "zz.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run_tests(python: Path, project: Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-config", project]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120)


def test_the_fixtures_work_with_httpx_and_the_official_sdk(python, tmp_path):
    """The fixtures work in the process of a test and in one of its own, and faults and counts end with the test."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_project.py").write_text(PROJECT)
    done = run_tests(python, tmp_path)
    assert "7 passed" in done.stdout, done.stdout + done.stderr


def test_the_example_of_the_page_runs(python, tmp_path):
    """The page's example runs as it is printed, with three tests that pass."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    example = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "test_example.py").write_text(example)
    done = run_tests(python, tmp_path)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_careless_program_fails_the_tests_of_the_page(python, tmp_path):
    """Code that neither waits nor tries again fails two of the page's tests."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    example = PAGE.read_text().partition("```python\n")[2].partition("```")[0]
    careless = example.replace("for _ in range(3):", "for _ in range(1):")
    (tmp_path / "test_example.py").write_text(careless)
    done = run_tests(python, tmp_path)
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
