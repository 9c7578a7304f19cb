"""TLS connections that fail: each says why, because a user cannot mend an empty reason."""

import ssl
import subprocess
from contextlib import asynccontextmanager, suppress
from functools import partial

import httpx
import pytest
import trio

from kvfs.core.errors import UntrustedError
from kvfs.store.rest.client import open_rest


def openssl(*words):
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def certificate(directory, name, *, days=1):
    """Make a self-signed certificate for `name` (as a subjectAltName) and its key, in one file."""
    file, key = directory / "cert.pem", directory / "key.pem"
    request, extra = directory / "request.pem", directory / "extra"
    extra.write_text(f"subjectAltName={name}\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-subj", "/CN=kvfs test", "-out", request)
    openssl("x509", "-req", "-in", request, "-signkey", key, "-days", days, "-extfile", extra, "-out", file)
    return file, key


async def _greet(stream):
    """Accept a handshake, which comes with the first byte; a client that objects ends it."""
    with suppress(trio.BrokenResourceError):
        await stream.receive_some()


@asynccontextmanager
async def secured(file, key):
    """Yield the URL of a server with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, host="127.0.0.1", ssl_context=context)
        listeners = await nursery.start(serve, _greet, 0)
        yield f"https://127.0.0.1:{listeners[0].transport_listener.socket.getsockname()[1]}/client/v4"
        nursery.cancel_scope.cancel()


async def refusal(url, *, trusted=None):
    """Return the error of a request, where the certificate of the file `trusted` is an authority."""
    transport = None
    if trusted is not None:
        transport = httpx.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=trusted))
    async with open_rest(
        base_url=url, account="acc", token="a-token-0123456789", transport=transport
    ) as store:
        with pytest.raises(UntrustedError) as caught:
            await store.list_namespaces()
    return str(caught.value)


async def test_a_certificate_of_an_unknown_authority_is_named(tmp_path):
    """A certificate of an unknown authority, self-signed or of a company's proxy, is named as such."""
    async with secured(*certificate(tmp_path, "IP:127.0.0.1")) as url:
        said = await refusal(url)
    assert "the certificate of the server is not accepted: self-signed certificate" in said


async def test_a_certificate_for_another_host_is_named(tmp_path):
    """A certificate for another host is named, with the name or address that was asked for."""
    file, key = certificate(tmp_path, "DNS:elsewhere.example")
    async with secured(file, key) as url:
        said = await refusal(url, trusted=file)
    assert "certificate is not valid for '127.0.0.1'" in said


async def test_an_expired_certificate_is_named(tmp_path):
    """An expired certificate is named, though a wrong clock of this machine looks alike."""
    file, key = certificate(tmp_path, "IP:127.0.0.1", days=-1)
    async with secured(file, key) as url:
        said = await refusal(url, trusted=file)
    assert "certificate has expired" in said


async def test_a_server_that_speaks_no_tls_is_named():
    """An https URL for a port of plain http is named as such."""

    async def refuse(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), refuse, 0)
        said = await refusal(f"https://127.0.0.1:{listener.socket.getsockname()[1]}/client/v4")
        nursery.cancel_scope.cancel()
    assert "does the server speak https there?" in said


@pytest.mark.parametrize(
    ("url", "loads"),
    [
        ("http://127.0.0.1:1/client/v4", False),
        ("http://localhost:1/client/v4", False),
        ("https://127.0.0.1:1/client/v4", True),
        ("http://elsewhere.example/client/v4", True),  # a proxy on the way may be reached by TLS
    ],
)
async def test_certificates_are_loaded_where_there_may_be_tls(monkeypatch, url, loads):
    """A client loads certificates where a connection may use TLS, and not for plain HTTP to this machine."""
    loaded, load = [], ssl.SSLContext.load_verify_locations

    def loading(*args, **kwargs):
        loaded.append(args)
        load(*args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", loading)
    async with open_rest(base_url=url, account="acc", token="a-token-0123456789"):
        assert bool(loaded) == loads
