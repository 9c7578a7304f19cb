"""The official SDK runs the whole round trip against the server, over a real socket."""

import time

import cloudflare
import pytest
import trio
from support.serving import served, served_by_process

EXPIRATION = int(time.time()) + 3600


def round_trip(server):
    """Do every operation of the SDK on namespaces, keys, metadata and values."""
    client = cloudflare.Cloudflare(
        base_url=server.url, api_token=server.token, max_retries=0, _strict_response_validation=True
    )
    account = server.account
    with client:
        kv = client.kv.namespaces
        made = kv.create(account_id=account, title="from the SDK")
        assert made.supports_url_encoding is True
        for number in range(25):
            kv.create(account_id=account, title=f"another {number:02}")
        assert len(list(kv.list(account_id=account))) == 26
        renamed = kv.update(made.id, account_id=account, title="renamed")
        assert renamed.title == "renamed"
        assert kv.get(made.id, account_id=account).title == "renamed"
        with pytest.raises(cloudflare.BadRequestError) as caught:
            kv.create(account_id=account, title="renamed")
        assert caught.value.errors[0].code == 10014
        values(kv, made.id, account)
        bulk(kv, made.id, account)
        kv.delete(made.id, account_id=account)
        with pytest.raises(cloudflare.NotFoundError) as caught:
            kv.get(made.id, account_id=account)
        assert caught.value.errors[0].code == 10013


def values(kv, namespace, account):
    """Do the operations on single values."""
    at = {"account_id": account, "namespace_id": namespace}
    with pytest.raises(cloudflare.BadRequestError) as caught:
        kv.values.update("empty", value=b"", metadata=None, **at)  # it sends an empty part
    assert caught.value.errors[0].code == 10147
    for metadata in ({"a": [1, "\u00e9"]}, [1, 2], 5, True, '"text"'):
        kv.values.update("a/b c\u00e9", value=b"\x00\xff", metadata=metadata, expiration=EXPIRATION, **at)
        found = kv.values.with_raw_response.get("a/b c\u00e9", **at)
        assert found.read() == b"\x00\xff"
        assert found.headers["expiration"] == str(EXPIRATION)
        expected = "text" if metadata == '"text"' else metadata
        assert kv.metadata.get("a/b c\u00e9", **at) == expected
    kv.values.update("plain", value=b"", **at)
    assert kv.values.get("plain", **at).read() == b""
    kv.values.delete("plain", **at)
    kv.values.delete("plain", **at)
    with pytest.raises(cloudflare.NotFoundError) as caught:
        kv.values.get("plain", **at)
    assert caught.value.errors[0].code == 10009


def bulk(kv, namespace, account):
    """Do the bulk operations."""
    at = {"account_id": account}
    pairs = [{"key": f"k/{number:04}", "value": str(number)} for number in range(1200)]
    pairs[0] |= {"metadata": {"a": 1}, "expiration_ttl": 600}
    pairs[1] |= {"value": "/w==", "base64": True}
    done = kv.bulk_update(namespace, body=pairs, **at)
    assert (done.successful_key_count, done.unsuccessful_keys) == (1200, [])
    listed = list(kv.keys.list(namespace, prefix="k/", **at))
    assert [line.name for line in listed] == [pair["key"] for pair in pairs]
    assert listed[0].metadata == {"a": 1}
    assert kv.values.get("k/0001", namespace_id=namespace, **at).read() == b"\xff"
    got = kv.bulk_get(namespace, keys=["k/0002", "k/0003"], **at)
    assert got.values == {"k/0002": "2", "k/0003": "3"}
    got = kv.bulk_get(namespace, keys=["k/0002"], type="json", with_metadata=True, **at)
    assert got.values["k/0002"].value == 2
    gone = kv.bulk_delete(namespace, body=[pair["key"] for pair in pairs], **at)
    assert gone.successful_key_count == 1200
    assert list(kv.keys.list(namespace, prefix="k/", **at)) == []


async def test_the_official_sdk_runs_the_whole_round_trip(tmp_path):
    """The official SDK, which validates strictly, runs the whole round trip."""
    async with served(tmp_path) as server:
        await trio.to_thread.run_sync(round_trip, server)


def test_the_official_sdk_and_a_server_of_its_own_process(tmp_path):
    """The official SDK works with a server in a process of its own, as users run it."""
    with served_by_process(tmp_path) as server:
        round_trip(server)


async def test_a_wrong_token_is_what_the_sdk_calls_authentication(tmp_path):
    """A wrong token gives 401 with code 10000, which the SDK calls authentication."""
    async with served(tmp_path) as server:
        client = cloudflare.Cloudflare(base_url=server.url, api_token="wrong", max_retries=0)
        with client, pytest.raises(cloudflare.AuthenticationError) as caught:
            await trio.to_thread.run_sync(
                lambda: client.kv.namespaces.create(account_id=server.account, title="t")
            )
        assert caught.value.errors[0].code == 10000
