"""Commands and a daemon of another version: each says so in one line, with both versions and the way out."""

from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from kvfs import __version__
from kvfs.cli import conflicts, daemons, rejected, status, through, top
from kvfs.cli.daemons import ask, ask_to_send
from kvfs.cli.exits import Exit
from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.host.control import ControlError, connect
from kvfs.host.control_server import serve_control
from kvfs.host.mounts import FSTYPE, Mount
from kvfs.host.replies import ConflictItem
from kvfs.host.requests import (
    ConflictsRequest,
    ErrorsRequest,
    HistoryRequest,
    KeepRequest,
    PendingListRequest,
    PendingRequest,
    RejectedListRequest,
    RetryRequest,
    StatusRequest,
    SyncRequest,
    ToldRequest,
    TopRequest,
    WhyRequest,
    name_of,
)
from kvfs.store.noting import NotedWrite

in_thread = trio.to_thread.run_sync
METRICS = '# HELP\nkvfs_mount_info{source="local:/x",version="0.0.9"} 1.0\n'


@pytest.fixture
async def serving(tmp_path):
    """Return a function that serves answers by request at a socket, and yields the path of that."""

    @asynccontextmanager
    async def serving(**answers):
        def handler(answer):
            async def handle(request, send):
                for event in answer[:-1] if isinstance(answer, list) else []:
                    await send(event)
                last = answer[-1] if isinstance(answer, list) else answer
                return last(request) if callable(last) else last

            return handle

        async with trio.open_nursery() as nursery:
            handlers = {name: handler(answer) for name, answer in answers.items()}
            await nursery.start(serve_control, tmp_path / "s", handlers)
            yield tmp_path / "s"
            nursery.cancel_scope.cancel()

    return serving


def asked(path, request, how=ask):
    """Ask, as commands do."""
    with connect(path) as client:
        return how(client, request, quiet=True)


ODD = [
    (PendingRequest(), {"items": [{"key": 7}]}),
    (PendingListRequest(), {"items": {"seq": 1}}),
    (RejectedListRequest(), {"items": [{"path": "a"}]}),
    (ConflictsRequest(), {"items": [None]}),
    (KeepRequest("mine", []), {"failed": ["a"]}),
    (RetryRequest(), {"count": None}),
    (WhyRequest(), {"change": {}, "reasons": 5}),
    (SyncRequest(), {"left_count": "many"}),
    (StatusRequest(), {}),
    (StatusRequest(), {"pending": 3}),
    (TopRequest(), {"now": 1.0, "since": 0.0}),
    (TopRequest(), {"callers": [{"pid": "x"}]}),
    (ErrorsRequest(), {}),
    (HistoryRequest(), {"bounds": 7}),
]


@pytest.mark.parametrize(("request_", "answer"), ODD, ids=[type(one).__name__ for one, _ in ODD])
async def test_an_answer_of_another_form_is_one_line_with_both_versions(serving, request_, answer):
    """It is no bug of the command, and the user learns what to do."""
    async with serving(**{name_of(type(request_)): answer, "metrics": {"text": METRICS}}) as path:
        with pytest.raises(ControlError, match=rf"kvfs 0\.0\.9 .* kvfs {__version__} .*unmount it"):
            await in_thread(asked, path, request_)


async def test_a_mount_of_another_version_is_not_called_dead(serving, mounted, tmp_path, monkeypatch):
    """Its daemon lives: the status says why it is not understood, and a look at the callers says so too."""
    monkeypatch.setattr(status, "mount_at", lambda directory: Mount(directory, FSTYPE, "local:/x", "0:99"))
    monkeypatch.setattr(status, "is_stale", lambda directory: True)
    async with serving(status={"state": "mounted"}, top={}, metrics={"text": METRICS}) as path:
        mounted(path)
        found = await in_thread(status.status_of, Path("/mnt"), tmp_path, 1.0)
        assert (found.state, found.report) == ("silent", None)
        assert "kvfs 0.0.9 and this" in found.as_json()["error"]
        with pytest.raises(ControlError, match=r"kvfs 0\.0\.9 .*unmount it"):
            await in_thread(top._View(Path("/mnt"), tmp_path, "pid", "ops").asked)


async def test_progress_of_another_form_is_the_same(serving):
    """A daemon that sends reports its progress in between."""
    async with serving(sync=[{"event": "progress", "done": "half"}, {}]) as path:
        with pytest.raises(ControlError, match=r"of another version .*`int`.*done.*unmount it"):
            await in_thread(asked, path, SyncRequest(), ask_to_send)


async def test_a_request_that_an_older_daemon_does_not_know(serving):
    """Its answer names what it does not know."""
    async with serving(metrics={"text": METRICS}) as path:
        with pytest.raises(ControlError, match=r"0\.0\.9 .*unknown request 'told'.*unmount it"):
            await in_thread(asked, path, ToldRequest())


@pytest.fixture
def mounted(monkeypatch):
    """A command takes the socket for that of a mount."""

    def mounted(path):
        monkeypatch.setattr(daemons, "socket_of", lambda directory, state: path)
        monkeypatch.setattr(rejected, "_mounted_at", lambda text, state: Path("/mnt"))
        return through.Through(Path("/mnt"), "local:/x", (), path.parent)

    return mounted


async def test_what_is_written_stays_written_though_the_mount_cannot_be_told(serving, mounted, capsys):
    """A state directory that cannot be used, or an older daemon, cost a line and not the command."""
    written = {(NamespaceId("n"), Key("a")): NotedWrite(Entry(b"x"), 1.0)}
    async with serving(refresh={}) as path:
        await in_thread(mounted(path).show, written)
        assert "shows what was written later: process" in capsys.readouterr().err
        (path.parent / "told").rmdir()
        (path.parent / "told").touch()
        await in_thread(mounted(path).show, written)
        assert "is in the way: it is not a directory" in capsys.readouterr().err


async def test_thousands_of_numbers_are_settled_in_several_requests(serving, mounted, tmp_path, capsys):
    """A request is a line of bounded length, and an older daemon knows numbers alone."""
    numbers, got = list(range(10**15, 10**15 + 25_000)), []

    def retry(request):
        got.extend(request["seqs"])
        return {"count": len(request["seqs"])}

    async with serving(rejected_retry=retry) as path:
        mounted(path)
        settle = partial(rejected._settle, "retry", "will be sent again", "/mnt", numbers, tmp_path)
        await in_thread(settle)
    assert got == numbers
    assert "25,000 changes will be sent again" in capsys.readouterr().out


async def test_thousands_of_conflicts_are_settled_in_several_requests(
    serving, mounted, tmp_path, monkeypatch, capsys
):
    """Names are long, and a request is a line of bounded length."""
    names, got = ["\U0001f600" * 512 + f"/{number:0500}" for number in range(300)], []

    def keep(request):
        got.extend(request["copies"])
        failed = [{"path": request["copies"][0], "error": "busy"}]
        return {"count": len(request["copies"]) - 1, "failed": failed}

    monkeypatch.setattr(conflicts, "mount_at", lambda directory: True)
    async with serving(conflicts_keep=keep) as path:
        mounted(path)
        meant = {Path("/mnt"): [ConflictItem(name, name, 0.0) for name in names]}
        assert await in_thread(conflicts._settle, "theirs", meant, tmp_path) == Exit.FAILED
    shown = capsys.readouterr()
    assert got == names
    left = shown.err.count("stays open")
    assert left > 1
    assert f"{len(names) - left} conflicts settled" in shown.out


async def test_a_daemon_that_does_less_than_asked_is_noticed(serving, mounted, tmp_path):
    """The command counts the changes that are left, and fails."""
    async with serving(rejected_discard={"count": 1}) as path:
        mounted(path)
        settle = partial(rejected._settle, "discard", "discarded", "/mnt", [1, 2, 3], tmp_path)
        with pytest.raises(UserError, match=r"2 changes .*kvfs rejected list /mnt"):
            await in_thread(settle)
