"""`kvfs doctor --online`: findings that only the API can give, over a real socket."""

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import pytest
import trio
from support.mounted import KVFS, Api, environment
from support.quick import quick
from support.serving import Served, served_by_process

from kvfs.cli.mount import with_account
from kvfs.config import load_credentials, parse_source
from kvfs.store.sharing import shared_budget


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server whose faults can be set."""
    with served_by_process(tmp_path, faults="") as served:
        yield served


def doctor(tmp_path: Path, served: Served, *words: str, **env: str) -> str:
    """Return what the command prints; its exit status depends on this machine as well."""
    done = subprocess.run(
        [*KVFS, "doctor", "--online", *words],
        env=environment(tmp_path, served) | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_healthy_account_is_described(tmp_path: Path, served: Served) -> None:
    """Permissions to read and to write are reported apart, with clock, latency, and the points that nobody can know."""
    said = doctor(tmp_path, served, "cloudflare:")
    for line in (
        "ok    the credentials may read Workers KV",
        "ok    the credentials may write Workers KV",
        "ok    this machine's clock is right",
        "ok    the credentials are active",
        "ok    a request takes ",
        "note  today's use of the plan is not known",
        "note  kvfs verify SOURCE was not run",
    ):
        assert line in said, said
    with Api(served) as api:
        assert api.titles() == set()


def test_what_verify_learned_is_repeated(tmp_path: Path, served: Served) -> None:
    """The findings of `kvfs verify` are kept for the doctor."""
    env = environment(tmp_path, served)
    subprocess.run(
        [*KVFS, "verify", "cloudflare:", "--yes"], env=env, check=True, capture_output=True, timeout=120
    )
    assert "ago that this API behaves as kvfs assumes" in doctor(tmp_path, served, "cloudflare:")


def test_a_token_that_is_refused_is_said_to_be(tmp_path: Path, served: Served) -> None:
    """A refused token is reported by each check, and the token is not shown."""
    said = doctor(tmp_path, served, "cloudflare:", CLOUDFLARE_API_TOKEN="wrong-token-1")
    assert "FAIL  the credentials may not read Workers KV (HTTP 401, code 10000)" in said, said
    assert "warn  the credentials may not write Workers KV" in said
    assert "wrong-token-1" not in said


def test_the_limit_is_told_where_the_api_tells_it(tmp_path: Path, served: Served) -> None:
    """The limit is taken from the header of the first answer."""
    with Api(served) as api:
        api.set_faults({"fault": "ratelimit"})
    assert "requests are left of the limit" in doctor(tmp_path, served, "cloudflare:")


def test_an_api_that_is_away_is_a_finding(tmp_path: Path, served: Served) -> None:
    """An API that is away is a finding with its reason, without a long wait."""
    said = doctor(tmp_path, served, "cloudflare:", CLOUDFLARE_API_BASE_URL="http://127.0.0.1:1/client/v4")
    assert "FAIL  the API does not answer: list namespaces: ConnectError" in said, said


def test_another_source_has_no_account(tmp_path: Path, served: Served) -> None:
    """A source `local:` has no account, because it is only this machine's."""
    assert "--online asks an account: name cloudflare:[ACCOUNT], not local:" in doctor(
        tmp_path, served, "local:"
    )


def as_mount_does(env: Mapping[str, str]) -> None:
    """Find the account of a source that names none, before the mount begins."""
    with patch.dict(os.environ, env, clear=True):
        source = parse_source("cloudflare:", os.environ)
        with_account(source, load_credentials(source, None, os.environ, None), quiet=True)


@pytest.mark.parametrize(
    "command",
    [
        lambda env: quick(env, "ls", "cloudflare:"),
        lambda env: quick(env, "doctor", "--online", "cloudflare:"),
        as_mount_does,
    ],
    ids=["ls", "doctor", "mount"],
)
def test_requests_that_find_the_account_count_as_its_own(
    tmp_path: Path, served: Served, command: Callable[[Mapping[str, str]], object]
) -> None:
    """Requests that find the account count in its budget on this machine: it says as many as the server has seen."""
    env = environment(tmp_path, served)
    del env["CLOUDFLARE_ACCOUNT_ID"]
    command(env)
    [file] = (tmp_path / "state" / "kvfs" / "requests").iterdir()

    async def used() -> int:
        with shared_budget(file) as budget:
            return budget.statistics().used

    with Api(served) as api:
        asked = api.requests()
    assert asked["accounts"] == 1
    assert trio.run(used) == sum(asked.values())
