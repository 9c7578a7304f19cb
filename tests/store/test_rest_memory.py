"""Requests to the REST API leave nothing in memory, whatever became of them."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest
import trio
from support.garbage import nothing_left
from support.serving import ACCOUNT, Served, served_by_process

from kvfs.core.errors import StoreError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.rest.client import RestStore, open_rest
from kvfs.store.retry import Retrying

SIZE = 500_000
KEY = Key("key")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server as a process of its own: what it leaves in memory is not ours."""
    with served_by_process(tmp_path_factory.mktemp("server"), faults="seed=1") as served:
        yield served


@pytest.fixture
async def store(server: Served) -> AsyncIterator[RestStore]:
    """The client of it, with one large value under `KEY`."""
    async with server.open_rest(timeout=5) as rest:
        yield rest


@pytest.fixture
async def namespace(store: RestStore, request: pytest.FixtureRequest) -> NamespaceId:
    """A namespace with one large value under `KEY`."""
    made = (await store.create_namespace(request.node.name)).id
    await store.put(made, KEY, _entry())
    return made


def _entry() -> Entry:
    return Entry(b"v" * SIZE)


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "status", "status": 503},
        {"fault": "reset"},
        {"fault": "lost_ack"},
        {"fault": "truncate"},
        None,
    ],
    ids=lambda fault: str(fault and fault.get("status", fault["fault"])),
)
async def test_a_request_leaves_no_value_in_memory(
    server: Served, store: RestStore, namespace: NamespaceId, fault: dict[str, object] | None
) -> None:
    """A request that failed, or was answered, keeps no value: a line that breaks again and again costs no memory."""
    await server.set_faults(*([fault] if fault else []))
    try:
        with nothing_left(of=SIZE // 20):
            with suppress(StoreError):
                await store.put(namespace, KEY, _entry())
            with suppress(StoreError):
                await store.bulk_put(namespace, {KEY: _entry(), Key("other"): _entry()})
            with suppress(StoreError):
                await store.bulk_get(namespace, [KEY])
            with suppress(StoreError):
                await store.get(namespace, KEY)
    finally:
        await server.set_faults()


async def test_a_request_made_again_leaves_no_value_in_memory(
    server: Served, store: RestStore, namespace: NamespaceId, expect_log: Callable[[str], None]
) -> None:
    """A request that is made again after a failure keeps nothing of its first attempt."""
    expect_log("put failed")
    await server.set_faults({"fault": "status", "status": 503})
    try:
        with nothing_left(of=SIZE // 20), suppress(StoreError):
            await Retrying(store, attempts=2, deadline=5).put(namespace, KEY, _entry())
    finally:
        await server.set_faults()


async def test_an_upload_that_breaks_off_leaves_no_value_in_memory() -> None:
    """A connection that ends in the middle of a body keeps neither the body nor the values it was made of."""

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, hang_up, 0)
        port = listeners[0].socket.getsockname()[1]
        url = f"http://127.0.0.1:{port}/client/v4"
        async with open_rest(base_url=url, account=ACCOUNT, token="t", timeout=5) as store:
            with nothing_left(of=SIZE // 20):
                with pytest.raises(StoreError):
                    await store.put(NamespaceId("n"), KEY, _entry())
                with pytest.raises(StoreError):
                    await store.bulk_put(NamespaceId("n"), {KEY: _entry(), Key("other"): _entry()})
        nursery.cancel_scope.cancel()
