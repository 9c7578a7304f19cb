"""Connections end when their clients end them, and a server without descriptors waits for one."""

import http.client
import os
import socket
from contextlib import ExitStack

import pytest
from support.serving import served_by_process
from support.standing import wait_for


def descriptors(server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def ask(server) -> int:
    """Send one request on a connection of its own, which the client closes; return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(
            "GET", f"/client/v4/accounts/{server.account}/storage/kv/namespaces", headers=server.headers
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_a_closed_connection_leaves_nothing_open(tmp_path):
    """Closed connections leave no descriptor, though more clients than descriptors come, one after the other."""
    with served_by_process(tmp_path, descriptors=64) as server:
        before = descriptors(server)
        for _ in range(150):
            assert ask(server) == 200
            socket.create_connection(("127.0.0.1", server.port), 5).close()
        wait_for(lambda: descriptors(server) <= before + 5)


def test_without_descriptors_it_waits_says_so_once_and_goes_on(tmp_path):
    """A server whose clients hold all descriptors waits, says so once, and answers the next when they leave."""
    with served_by_process(tmp_path, descriptors=64) as server:
        ask(server)
        with ExitStack() as stack:
            for _ in range(80):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            wait_for(lambda: descriptors(server) == 64)
            late = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            late.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            late.settimeout(0.5)
            with pytest.raises(TimeoutError):
                late.recv(1)
        assert ask(server) == 200
        said = [line for line in server.log.read_text().splitlines() if "descriptors" in line]
    assert len(said) == 1
    assert "all 64 file descriptors are in use" in said[0]
