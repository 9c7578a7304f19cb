"""A server per test, in this process, on a socket of its own."""

import pytest
from support.serving import served


@pytest.fixture
async def server(tmp_path):
    async with served(tmp_path, faults="") as running:
        yield running


@pytest.fixture
async def store(server):
    async with server.open_rest() as client:
        yield client


@pytest.fixture
async def namespace(store):
    return (await store.create_namespace("the namespace")).id


@pytest.fixture
async def http(server):
    async with server.client() as client:
        yield client


@pytest.fixture
def base(server, namespace):
    """The URL of the namespace."""
    return f"{server.namespaces}/{namespace}"
