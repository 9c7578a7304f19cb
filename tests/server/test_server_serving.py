"""Starting and stopping a server: the token file, the address, signals, and requests under way at the end."""

import os
import signal
import socket
import stat
import subprocess

import pytest
import trio
import trio.testing
from support.serving import TOKEN, served, served_by_process

from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key
from kvfs.server.serving import ServeOptions, Serving, serving
from kvfs.server.tokens import load_or_create_token
from kvfs.store.rest.client import open_rest


def test_a_token_is_made_once_and_only_for_its_owner(tmp_path):
    """The token file is made once with mode 0600 in a 0700 directory, and used from then on."""
    path = tmp_path / "state" / "kvfs" / "token"
    token = load_or_create_token(path)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create_token(path) == token
    assert os.listdir(path.parent) == ["token"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_token_file_that_others_can_read_is_refused(tmp_path, mode):
    """A token file that others can read is refused with the way out, and without the token."""
    path = tmp_path / "token"
    path.write_text("secret-token")
    path.chmod(mode)
    with pytest.raises(UserError, match="chmod 600") as caught:
        load_or_create_token(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n", "two words", "t\u00f6ken", "a\nb"])
def test_a_token_file_without_a_token_is_refused(tmp_path, content):
    """A token file without a token is refused, because an empty token would let everybody in."""
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(UserError, match="no usable token"):
        load_or_create_token(path)


def test_a_token_file_that_is_a_link_or_no_file_is_refused(tmp_path):
    """A token file that is a link or no file is refused, because a link may lead to anybody's file."""
    real = tmp_path / "real"
    real.write_text("token")
    real.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(real)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (link, dangling, fifo, tmp_path):
        with pytest.raises(UserError):
            load_or_create_token(path)
    assert not (tmp_path / "nowhere").exists()


def test_the_token_is_in_no_repr():
    """The token is in the repr neither of the options nor of the running server."""
    assert TOKEN not in repr(ServeOptions(store="x", token=TOKEN))
    assert TOKEN not in repr(Serving("u", "h", 1, TOKEN))


async def test_the_server_makes_its_token_and_says_where(tmp_path):
    """The server makes its token and says where, and the file's token opens it."""
    options = ServeOptions(tmp_path / "s", port=0, token_file=tmp_path / "token")
    async with serving(options) as ready:
        assert ready.token_file == tmp_path / "token"
        token = ready.token_file.read_text().strip()
        async with open_rest(base_url=ready.url, account="a", token=token) as store:
            assert await store.list_namespaces() == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
async def test_other_machines_are_let_in_only_when_asked_for(tmp_path, host):
    """By default only loopback is served, and names are not guessed."""
    with pytest.raises(UserError):
        async with serving(ServeOptions(tmp_path / "s", host=host, port=0, token=TOKEN)):
            pass


async def test_any_address_is_possible_on_demand(tmp_path):
    """`allow_any_host` allows any address."""
    options = ServeOptions(tmp_path / "s", host="0.0.0.0", port=0, token=TOKEN, allow_any_host=True)
    async with serving(options) as ready:
        assert ready.host == "0.0.0.0"


async def test_a_port_in_use_is_a_clear_error(tmp_path):
    """A port in use is refused with the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}"):
            async with serving(ServeOptions(tmp_path / "s", port=port, token=TOKEN)):
                pass


async def serve(options, *, task_status):
    async with serving(options) as ready:
        task_status.started(ready)
        await trio.sleep_forever()


async def test_a_cancelled_server_frees_its_port(tmp_path):
    """A server says its address when it is ready, and its port is free again after a cancellation."""
    options = ServeOptions(tmp_path / "s", port=0, token=TOKEN)
    async with trio.open_nursery() as nursery:
        ready = await nursery.start(serve, options)
        async with open_rest(base_url=ready.url, account="a", token=TOKEN) as store:
            await store.create_namespace("t")
        nursery.cancel_scope.cancel()
    with socket.create_server(("127.0.0.1", ready.port)):
        pass


async def test_a_request_under_way_is_answered_before_the_end(tmp_path):
    """Leaving the context waits for a request under way to be answered."""
    answered = []

    async def ask(server):
        async with server.open_rest() as store:
            answered.append(await store.create_namespace("t"))

    async with trio.open_nursery() as nursery, served(tmp_path, faults="latency=300ms") as server:
        nursery.start_soon(ask, server)
        await trio.testing.wait_all_tasks_blocked(0.1)  # the server holds the request back
        assert answered == []
    assert len(answered) == 1


async def test_cancelling_lets_requests_under_way_end_too(tmp_path):
    """After a cancellation only a request that outlasts the grace is cut off."""
    options = ServeOptions(tmp_path / "s", port=0, token=TOKEN, faults="latency=300ms")
    answered = []

    async def ask(url):
        async with open_rest(base_url=url, account="a", token=TOKEN) as store:
            answered.append(await store.create_namespace("t"))

    async with trio.open_nursery() as clients, trio.open_nursery() as servers:
        ready = await servers.start(serve, options)
        clients.start_soon(ask, ready.url)
        await trio.testing.wait_all_tasks_blocked(0.1)
        servers.cancel_scope.cancel()
    assert len(answered) == 1


def test_a_process_ends_on_a_signal_and_keeps_what_it_took(tmp_path):
    """A process ends on a signal, and a second one on the same file answers with all that the first accepted."""

    async def write(server):
        async with server.open_rest() as store:
            namespace = (await store.create_namespace("t")).id
            await store.put(namespace, Key("k"), Entry(b"v"))
            return namespace

    async def read(server, namespace):
        async with server.open_rest() as store:
            return (await store.get(namespace, Key("k"))).value

    with served_by_process(tmp_path) as server:
        namespace = trio.run(write, server)
        command_line = subprocess.run(
            ["ps", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=True
        ).stdout
        assert server.token not in command_line
    with served_by_process(tmp_path, stop=signal.SIGINT) as server:
        assert trio.run(read, server, namespace) == b"v"
