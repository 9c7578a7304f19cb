"""The bytes of the client's requests, as a server sees them on its socket."""

import traceback
from email import message_from_bytes
from email.policy import HTTP

import pytest
from support.hostile import answering, failure, http
from support.serving import served
from support.tokens import Fixed

from kvfs import __version__
from kvfs.core.errors import KvfsError, UserError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.rest.accounts import only_account
from kvfs.store.rest.client import open_rest
from kvfs.store.rest.odd_keys import OddKeys

TOKEN = "token-that-must-not-leak"
NS = NamespaceId("0123456789abcdef0123456789abcdef")
OK = http(b'{"success":true,"result":null,"errors":[],"messages":[]}')
BYTES = b"\x00\xff\xfe\r\n--x\r\n" + bytes(range(256))
ODD = ["a^b", "a...b", "a\x1fb", "a\nb", "a\x7fb"]


class Token(Fixed):
    """A token that is never renewed."""

    def headers(self):
        return {"authorization": f"Bearer {TOKEN}"}

    def secrets(self):
        return (TOKEN,)


def opened(server):
    return open_rest(base_url=server.url, account="acc", token=TOKEN)


async def test_a_value_with_metadata_arrives_as_a_file_byte_for_byte():
    """A value with metadata goes as a file, because WHATWG's formData() decodes a part without a file name as text."""
    async with answering(OK) as server, opened(server) as store:
        await store.put(NS, Key("k"), Entry(BYTES, b'{"a":1}'))
    kind = next(line for line in server.heads[0].splitlines() if line.lower().startswith("content-type:"))
    body = message_from_bytes(kind.encode() + b"\r\n\r\n" + server.bodies[0], policy=HTTP)
    value, metadata = body.iter_parts()
    assert value.get_param("name", header="content-disposition") == "value"
    assert value.get_filename() == "blob"
    assert b"\r\n\r\n" + BYTES + b"\r\n--" in server.bodies[0]
    assert metadata.get_filename() is None


async def test_every_request_says_which_version_of_kvfs_makes_it():
    """Every request names the version of kvfs, those of the store and the one that finds the account."""
    async with answering(OK) as server, opened(server) as store:
        await store.put(NS, Key("k"), Entry(b"v"))
        await store.list_namespaces()
        with pytest.raises(UserError):
            await only_account(server.url, Token())
    agents = {line for head in server.heads for line in head.lower().splitlines() if "user-agent" in line}
    assert len(server.heads) >= 3
    assert agents == {f"user-agent: kvfs/{__version__}".lower()}


@pytest.mark.parametrize("key", ODD)
async def test_an_odd_key_is_written_read_and_deleted_in_bulk(tmp_path, key):
    """An odd key is written, read and deleted in bulk, because a server finds it in a body and not in a URL."""
    key, entry = Key(key), Entry(b"value", b'{"a":1}')
    async with served(tmp_path, faults="url_keys") as server, server.open_rest() as rest:
        store = OddKeys(rest)
        namespace = (await store.create_namespace("ns")).id
        await store.put(namespace, key, entry)
        found = await store.get(namespace, key)
        assert (found.value, await store.get_metadata(namespace, key)) == (entry.value, entry.metadata)
        await store.delete(namespace, key)
        assert (await store.list_keys(namespace)).keys == ()
        asked = await server.requests()
    assert not set(asked) & {"put_value", "get_value", "get_metadata", "delete_value"}


def accounts(*ids):
    rows = ",".join(f'{{"id":"{one}","name":"Name of {one}"}}' for one in ids)
    return http(f'{{"success":true,"result":[{rows}],"errors":[],"messages":[]}}'.encode())


async def test_the_only_account_of_a_token_is_found():
    """The only account of a token is found with one request."""
    async with answering(accounts("abc")) as server:
        assert await only_account(server.url, Token()) == "abc"
    assert [line.split("?")[0] for line in server.lines] == ["GET /client/v4/accounts"]


async def test_the_accounts_to_choose_from_are_named():
    """Several accounts are named by id and name, with the words to write."""
    async with answering(accounts("abc", "def")) as server:
        with pytest.raises(UserError, match="2 accounts") as caught:
            await only_account(server.url, Token())
    for word in ("cloudflare:ACCOUNT", "abc (Name of abc)", "def (Name of def)"):
        assert word in str(caught.value)


async def test_memberships_tell_the_account_where_accounts_do_not():
    """A token that may not list accounts finds its account by its memberships."""
    row = b'{"id":"m","status":"accepted","account":{"id":"abc","name":"n"}}'
    memberships = http(b'{"success":true,"result":[' + row + b'],"errors":[],"messages":[]}')
    async with answering(accounts(), memberships) as server:
        assert await only_account(server.url, Token()) == "abc"


def page(status, *headers):
    return http(f"<html>Bearer {TOKEN}</html>".encode(), status, *headers, content_type="text/html")


ECHOES = {
    "message": failure(400, 10033, f"Bearer {TOKEN} is bad"),
    "message of a refusal": failure(403, 9109, f"Bearer {TOKEN} is bad"),
    "page": page(502),
    "page of a filter": page(403, f"cf-ray: {TOKEN}"),
    "status line": f"HTTP/1.1 Bearer {TOKEN}\r\n\r\n".encode(),
    "header": f"HTTP/1.1 200 OK\r\n{TOKEN}\r\n\r\n".encode(),
    "encoding": http(b"{}", 200, f"Content-Encoding: {TOKEN}"),
    "length": f"HTTP/1.1 200 OK\r\nContent-Length: {TOKEN}\r\n\r\n".encode(),
    "place": http(b"", 302, f"Location: /{TOKEN}"),
    "expiration": http(b"v", 200, f"Expiration: {TOKEN}", content_type="application/octet-stream"),
    "time to wait": failure(429, 10013, "slow", f"Retry-After: {TOKEN}"),
    "instead of JSON": http(TOKEN.encode()),
    "instead of a list": http(f'{{"success":true,"result":"{TOKEN}","errors":[]}}'.encode()),
    "instead of an envelope": http(f'{{"success":"{TOKEN}"}}'.encode()),
}


@pytest.mark.parametrize("where", ECHOES)
async def test_a_server_that_echoes_the_token_shows_it_to_nobody(where, caplog):
    """A server that echoes the token shows it neither in an error, nor in its cause, nor in the log."""
    caplog.set_level("INFO")
    told = []
    async with answering(ECHOES[where]) as server, opened(server) as store:
        calls = [
            lambda: store.get(NS, Key("k")),
            lambda: store.list_keys(NS),
            lambda: store.bulk_get(NS, [Key("k")]),
            lambda: store.bulk_put(NS, {Key("k"): Entry(b"v")}),
            lambda: only_account(server.url, Token(), 3),
        ]
        for call in calls:
            try:
                await call()
            except KvfsError as exc:
                told += traceback.format_exception(exc)
    assert told
    assert TOKEN not in "".join(told) + caplog.text
