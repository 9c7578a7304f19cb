"""A strict server: it refuses ids and credentials as the real API refuses them."""

import httpx
import pytest
from support.serving import ACCOUNT, TOKEN, served


@pytest.fixture
async def strict(tmp_path):
    async with served(tmp_path, strict=True) as running:
        yield running


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 400, 9106),
        ({"authorization": "Basic abc"}, 400, 6003),
        ({"authorization": "Bearer"}, 400, 6003),
        ({"authorization": "Bearer short"}, 400, 6003),
        ({"authorization": TOKEN}, 400, 6003),
        ({"authorization": "Bearer another-token-0123456789"}, 401, 10000),
        ({"x-auth-key": "wrong", "x-auth-email": "ada@example.org"}, 403, 9103),
        ({"x-auth-key": TOKEN}, 403, 9103),
    ],
)
async def test_wrong_credentials_are_told_apart(strict, headers, status, code):
    """Missing, malformed and unknown credentials are told apart, and a malformed header has its reason in the chain."""
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        answer = await client.get(strict.namespaces)
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert [cause["code"] for cause in error.get("error_chain", [])] == ([6111] if code == 6003 else [])
    assert TOKEN not in answer.text


@pytest.mark.parametrize("account", ["local", "x", ACCOUNT[:-1], ACCOUNT + "0", ACCOUNT.upper()])
@pytest.mark.parametrize("path", ["", "/storage/kv/namespaces", "/tokens/verify"])
async def test_a_malformed_account_leads_nowhere(strict, account, path):
    """A malformed account gives 400 with 7003 and the path; a server that is not strict takes any name."""
    async with strict.client() as client:
        answer = await client.get(f"{strict.url}/accounts/{account}{path}")
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["code"]) == (400, 7003)
    assert error["message"].startswith(f"Could not route to /client/v4/accounts/{account}{path}, perhaps")


async def test_a_malformed_namespace_is_no_uuid(strict):
    """A malformed namespace gives 400 with 10011."""
    async with strict.client() as client:
        answer = await client.get(f"{strict.namespaces}/my-namespace/keys")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 10011)


async def test_the_account_that_is_listed_is_one_that_it_takes(strict):
    """The listed account is one that the server takes, so clients that find it by themselves can go on."""
    async with strict.client() as client:
        (account,) = (await client.get(f"{strict.url}/accounts")).json()["result"]
        answer = await client.get(f"{strict.url}/accounts/{account['id']}/storage/kv/namespaces")
    assert answer.status_code == 200
