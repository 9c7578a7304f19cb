"""The control socket, both sides over a real one: round trips, hostile lines, and clients that go away."""

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.control import call

from kvfs.core.errors import UserError
from kvfs.host.control import (
    ControlError,
    ControlHandler,
    DaemonEndedError,
    Message,
    NoDaemonError,
    Send,
    connect,
)
from kvfs.host.control_server import CONNECTIONS, REQUEST_BYTES, serve_control

in_thread = trio.to_thread.run_sync


async def status(request: Message, send: Send) -> Message:
    return {"pending": 3, "asked": request}


async def unmount(request: Message, send: Send) -> Message:
    for done in range(3):
        await send({"event": "progress", "done": done, "total": 2})
    return {"left": [], "left_count": 0}


async def refuse(request: Message, send: Send) -> Message:
    raise UserError("the path is not in this mount")


async def crash(request: Message, send: Send) -> Message:
    raise ZeroDivisionError("a bug with a secret")


HANDLERS: dict[str, ControlHandler] = {"status": status, "unmount": unmount, "refuse": refuse, "crash": crash}


@asynccontextmanager
async def serving(path: Path, **more: ControlHandler) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, path, {**HANDLERS, **more})
        yield
        nursery.cancel_scope.cancel()


async def ask(path: Path, request: Message) -> list[Message]:
    return await in_thread(lambda: list(call(path, request, silence=5)))


def raw(path: Path, *chunks: bytes) -> list[bytes]:
    """Return everything the server answers to some bytes, until it closes or a line for each of ours has come."""
    lines = b"".join(chunks).count(b"\n")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(os.fspath(path))
        for chunk in chunks:
            connection.sendall(chunk)
        reader = connection.makefile("rb")
        return [line for line in (reader.readline() for _ in range(max(lines, 1))) if line]


async def test_a_request_gets_its_answer(tmp_path: Path) -> None:
    """The last answer has the event `done` and the value that the handler returned."""
    async with serving(tmp_path / "c" / "s"):
        request = {"request": "status", "name": "ü\udcff"}
        assert await ask(tmp_path / "c" / "s", request) == [{"event": "done", "pending": 3, "asked": request}]


async def test_events_come_before_the_answer(tmp_path: Path) -> None:
    """Progress arrives in order."""
    async with serving(tmp_path / "s"):
        *events, last = await ask(tmp_path / "s", {"request": "unmount"})
    assert [event["done"] for event in events] == [0, 1, 2]
    assert last == {"event": "done", "left": [], "left_count": 0}


async def test_several_requests_may_use_one_connection(tmp_path: Path) -> None:
    """Several requests on one connection are answered one after the other."""

    def twice() -> list[Message]:
        with connect(tmp_path / "s") as client:
            assert client.pid == os.getpid()
            return [*client.ask({"request": "status"}), *client.ask({"request": "status"})]

    async with serving(tmp_path / "s"):
        assert len(await in_thread(twice)) == 2


@pytest.mark.parametrize("first", [b" ", b'{"request": '])
async def test_idle_connections_keep_nobody_waiting(tmp_path: Path, first: bytes) -> None:
    """Connections that ask nothing, or never end their line, are closed when others come.

    The newest of them stay open.
    """
    path = tmp_path / "s"
    async with serving(path):
        idle = [await trio.open_unix_socket(os.fspath(path)) for _ in range(3 * CONNECTIONS)]
        for stream in idle:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(first)
        with trio.fail_after(3):
            [answer] = await ask(path, {"request": "status"})
            assert answer["pending"] == 3
            with suppress(trio.BrokenResourceError):
                assert await idle[0].receive_some() == b""
        with trio.move_on_after(0.05) as patience:
            await idle[-1].receive_some()
        assert patience.cancelled_caught
        for stream in idle:
            await stream.aclose()


async def test_a_refusal_reaches_the_user(tmp_path: Path) -> None:
    """An error that the daemon raises on purpose reaches the user in its own words."""
    async with serving(tmp_path / "s"):
        with pytest.raises(ControlError, match="the path is not in this mount"):
            await ask(tmp_path / "s", {"request": "refuse"})


async def test_a_bug_in_a_handler_is_logged_and_not_told(
    tmp_path: Path, expect_log: Callable[[str], None]
) -> None:
    """The client learns where to look for a bug's traceback, and the daemon goes on."""
    expect_log("ERROR kvfs.host.control_server: a control request failed")
    async with serving(tmp_path / "s"):
        with pytest.raises(ControlError, match="internal error") as caught:
            await ask(tmp_path / "s", {"request": "crash"})
        assert "secret" not in str(caught.value)
        assert await ask(tmp_path / "s", {"request": "status"})


MALFORMED = [
    *(b"", b"{", b"nonsense", b"[]", b"null", b"1", b'"status"', b"{}", b"\xff\xfe\x00"),
    *(b'{"request": 1}', b'{"request": ["status"]}', b'{"request": "no such"}'),
    *(b"[" * 100_000, b'{"a":' * 40_000),
]


@pytest.mark.parametrize("line", MALFORMED, ids=lambda line: repr(line[:20]))
async def test_a_malformed_line_gets_an_error_and_the_next_one_is_served(tmp_path: Path, line: bytes) -> None:
    """No malformed line ends the daemon or the connection."""
    async with serving(tmp_path / "s"):
        answers = await in_thread(raw, tmp_path / "s", line + b"\n", b'{"request": "status"}\n')
    assert [json.loads(answer)["event"] for answer in answers] == ["error", "done"]


async def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    """A client that sends a line without end gets an error and is disconnected, so it cannot fill memory."""
    async with serving(tmp_path / "s"):
        [answer] = await in_thread(raw, tmp_path / "s", b"x" * (REQUEST_BYTES + 1))
        assert json.loads(answer)["kind"] == "malformed"
        assert await ask(tmp_path / "s", {"request": "status"})


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), max_size=5))
def test_no_bytes_end_the_daemon(tmp_path: Path, chunks: list[bytes]) -> None:
    """After any bytes the next client is served."""

    async def scenario() -> None:
        async with serving(tmp_path / "s"):
            await in_thread(send_only, tmp_path / "s", chunks)
            assert await ask(tmp_path / "s", {"request": "status"})

    trio.run(scenario)


def send_only(path: Path, chunks: list[bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(path))
        for chunk in chunks:
            connection.sendall(chunk)


async def test_a_handler_goes_on_when_its_client_has_gone(tmp_path: Path) -> None:
    """Ctrl-C in `kvfs umount` does not stop the daemon from sending."""
    gone, finished = trio.Event(), trio.Event()

    async def slow(request: Message, send: Send) -> Message:
        await gone.wait()
        for number in range(100):
            await send({"event": "progress", "done": number, "total": 100, "filler": "x" * 10_000})
        finished.set()
        return {}

    async with serving(tmp_path / "s", slow=slow):
        await in_thread(send_only, tmp_path / "s", [b'{"request": "slow"}\n'])
        gone.set()
        with trio.fail_after(5):
            await finished.wait()


async def test_the_answer_arrives_although_the_daemon_is_ending(tmp_path: Path) -> None:
    """`unmount` gets its answer, although the daemon that answers is ending."""
    ending = trio.Event()

    async def end(request: Message, send: Send) -> Message:
        ending.set()
        return {"left_count": 0}

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path / "s", {"end": end})

        async def stop() -> None:
            await ending.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        with trio.CancelScope(shield=True):
            assert await ask(tmp_path / "s", {"request": "end"}) == [{"event": "done", "left_count": 0}]


async def test_a_daemon_that_ends_without_an_answer_is_told_from_a_refusal(tmp_path: Path) -> None:
    """A daemon's end without an answer is no refusal, so the command can say that the next mount sends the rest."""

    async def forever(request: Message, send: Send) -> Message:
        await send({"event": "progress", "done": 0, "total": 1})
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()
        return {}

    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path / "s", {"forever": forever})
        with trio.CancelScope(shield=True), pytest.raises(DaemonEndedError):
            await ask(tmp_path / "s", {"request": "forever"})


async def test_a_daemon_that_works_long_says_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that works long says so, and a client waits long for it, and briefly for one that hangs."""
    monkeypatch.setattr("kvfs.host.control_server.ALIVE_SECONDS", 0.01)
    release = trio.Event()

    async def long(request: Message, send: Send) -> Message:
        await release.wait()
        return {}

    async with serving(tmp_path / "s", long=long):
        lines = partial(raw, tmp_path / "s", b'{"request": "long"}\n', b"\n", b"\n")
        answers: list[bytes] = []

        async def collect() -> None:
            answers.extend(await in_thread(lines))
            release.set()

        with trio.fail_after(5):
            await collect()
    assert [json.loads(answer) for answer in answers] == [{"event": "alive"}] * 3


async def test_a_silent_daemon_is_not_waited_for(tmp_path: Path) -> None:
    """A client has its own bound for a silent daemon, because the kernel accepts connections for a stopped process."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.fspath(tmp_path / "s"))
    listening.listen(1)
    with listening, pytest.raises(ControlError, match="does not answer") as caught:
        await in_thread(lambda: list(call(tmp_path / "s", {"request": "status"}, silence=0.05)))
    assert caught.value.kind == "silent"


def test_nobody_listening_is_told(tmp_path: Path) -> None:
    """A socket that is missing, and one that a killed daemon left, are reported as nobody listening."""
    with pytest.raises(NoDaemonError):
        list(call(tmp_path / "missing", {"request": "status"}))
    leave_socket(tmp_path / "left")
    with pytest.raises(NoDaemonError):
        list(call(tmp_path / "left", {"request": "status"}))


async def test_the_socket_of_a_killed_daemon_is_replaced(tmp_path: Path) -> None:
    """The next mount replaces the socket that `kill -9` left, and starts."""
    leave_socket(tmp_path / "s")
    async with serving(tmp_path / "s"):
        assert await ask(tmp_path / "s", {"request": "status"})
    assert not (tmp_path / "s").exists()


async def test_the_socket_of_a_running_daemon_is_respected(tmp_path: Path) -> None:
    """The socket of a daemon that still sends after a plain umount is left alone, and the daemon is named."""
    async with serving(tmp_path / "s"):
        with pytest.RaisesGroup(UserError, flatten_subgroups=True, allow_unwrapped=True) as caught:
            await serve_control(tmp_path / "s", HANDLERS)
        assert str(os.getpid()) in str(caught.value)
        assert await ask(tmp_path / "s", {"request": "status"})


async def test_only_this_user_can_reach_the_socket(tmp_path: Path) -> None:
    """The socket has mode 0600 and its directory 0700."""
    async with serving(tmp_path / "c" / "s"):
        assert (tmp_path / "c" / "s").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_not_served() -> None:
    """Another user is not served even if the modes were opened: the kernel says who connects."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "s")
        async with serving(path):
            os.chmod(folder, 0o711)
            os.chmod(path, 0o666)
            assert await in_thread(ask_as_nobody, path) == b""


def ask_as_nobody(path: Path) -> bytes:
    # perl: every Debian has it, and nobody may run it, which is not so of a Python below /root
    script = """
        $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!";
        $SIG{PIPE} = "IGNORE";
        $s->syswrite("{\\"request\\": \\"status\\"}\\n");
        $s->sysread($answer, 1000);
        print $answer;
    """
    command = ["perl", "-MIO::Socket::UNIX", "-e", script, os.fspath(path)]
    done = subprocess.run(
        command, capture_output=True, check=True, cwd="/", user=65534, group=65534, extra_groups=[]
    )
    return done.stdout


def leave_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen(1)
