"""Everything that kvfs holds is visible: unmounted sources, a server that is away, pending changes by name."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.mounted import Api
from support.quick import quick
from support.serving import Served, served_by_process
from support.shell import Shell
from support.standing import wait_for
from support.terminal import terminal

from kvfs.cli.exits import Exit
from kvfs.host.mounts import is_stale
from kvfs.host.state import lives

pytestmark = pytest.mark.fuse


def write_three(shell: Shell, source: str) -> None:
    """Mount, write two values and delete one, and kill the daemon so that they stay unsent."""
    shell.ok("mount", "--write-back=3600", source, shell.mnt)
    (shell.mnt / "ns").mkdir(exist_ok=True)
    (shell.mnt / "ns" / "d").mkdir()
    (shell.mnt / "ns" / "k1").write_text("one")
    (shell.mnt / "ns" / "d" / "k2").write_text("two")
    os.setxattr(shell.mnt / "ns" / "d" / "k2", "user.colour", b"red")
    (shell.mnt / "ns" / "old").unlink()
    os.kill(shell.daemon(), signal.SIGKILL)
    shell.ok("umount", shell.mnt)


@pytest.fixture
def outage(shell: Shell, tmp_path: Path) -> str:
    """Yield the name of a source with three kept changes, whose server has gone for good."""
    with served_by_process(tmp_path, faults="") as served:
        shell.env |= {
            "CLOUDFLARE_API_TOKEN": served.token,
            "CLOUDFLARE_ACCOUNT_ID": served.account,
            "CLOUDFLARE_API_BASE_URL": served.url,
        }
        with Api(served) as api:
            api.put(str(api.result("POST", "", json={"title": "ns"})["id"]), "old", b"old")
            write_three(shell, "cloudflare:")
    return f"cloudflare:{served.account}"


def test_status_names_what_is_kept_for_sources_that_are_not_mounted(shell: Shell, outage: str) -> None:
    """Status shows name, count, age and the command that sends the changes, with exit status 3; doctor warns."""
    done = shell.kvfs("status")
    assert done.returncode == Exit.LEFT
    assert f"{outage}: not mounted" in done.stdout
    assert "3 changes" in done.stdout
    assert f"kvfs mount {outage} {shell.mnt}" in done.stdout
    found = json.loads(shell.kvfs("status", "--json").stdout)
    assert found["mounts"] == []
    [one] = found["unmounted"]
    assert (one["source"], one["pending"]["count"]) == (outage, 3)
    assert f"{outage} is not mounted, and 3 changes" in shell.kvfs("doctor").stdout


def test_pending_names_each_change_without_a_mount(shell: Shell, outage: str) -> None:
    """Pending changes have path, kind, size and age, for all sources, or for one by its name or its last mount."""
    items = json.loads(shell.ok("pending", "--json"))
    named = {(item["path"], item["kind"], item["size"]) for item in items}
    assert named == {("ns/k1", "put", 3), ("ns/d/k2", "put", 3), ("ns/old", "delete", 0)}
    assert {item["source"] for item in items} == {outage}
    for words in ([outage], [str(shell.mnt)]):
        said = shell.ok("pending", *words)
        assert "ns/d/k2  put 3 B" in said
        assert "ns/old  delete" in said
    assert outage in shell.fails("pending", "cloudflare:other")


def test_recover_writes_what_is_pending_into_files(shell: Shell, outage: str) -> None:
    """`recover` needs neither server nor token, keeps metadata and deletions in an index, and leaves the journal."""
    del shell.env["CLOUDFLARE_API_TOKEN"]
    out = shell.home / "out"
    assert "wrote 2 values" in shell.ok("recover", outage, out)
    assert (out / "ns" / "k1").read_text() == "one"
    assert (out / "ns" / "d" / "k2").read_text() == "two"
    assert (out / "ns" / "k1").stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in (out / "kvfs-recovered.ndjson").read_text().splitlines()]
    assert {line["path"]: (line["kind"], line["metadata"]) for line in lines} == {
        "ns/k1": ("put", None),
        "ns/d/k2": ("put", {"colour": "red"}),
        "ns/old": ("delete", None),
    }
    assert "not empty" in shell.fails("recover", outage, out)
    assert len(json.loads(shell.ok("pending", "--json"))) == 3


def test_a_mount_starts_while_the_server_is_away(shell: Shell, outage: str, tmp_path: Path) -> None:
    """A mount without its server is marked offline and shows the journal's changes.

    They arrive by themselves when the server is back.
    """
    begun = time.monotonic()
    shell.ok("mount", "--write-back=0.1", "--timeout=3", outage, shell.mnt)
    assert time.monotonic() - begun < 8
    assert shell.status()["state"] == "offline"
    assert (shell.mnt / "ns" / "d" / "k2").read_text() == "two"
    (shell.mnt / "ns" / "k1").write_text("one more")
    assert {one["size"] for one in json.loads(shell.ok("pending", "--json", shell.mnt))} == {8, 3, 0}
    assert shell.kvfs("umount", "--timeout=1", shell.mnt).returncode == Exit.LEFT
    assert "does not answer" in shell.fails("mount", "--require-server", outage, shell.mnt)
    shell.ok("mount", "--write-back=0.1", "--timeout=3", outage, shell.mnt)
    port = shell.env["CLOUDFLARE_API_BASE_URL"].split(":")[2].split("/")[0]
    with served_by_process(tmp_path, faults="", port=int(port)) as served, Api(served) as api:
        deadline = time.monotonic() + 40
        while shell.status()["state"] == "offline" and time.monotonic() < deadline:
            time.sleep(0.2)
        assert shell.status()["state"] == "mounted"
        shell.ok("umount", shell.mnt)
        assert set(api.keys(api.namespace("ns"))) == {"k1", "d/k2"}
    assert shell.ok("status") == "nothing is mounted\n"


def test_a_dead_server_and_a_dead_daemon_lose_nothing(shell: Shell, tmp_path: Path) -> None:
    """Three changes are named, written into files, shown by a mount without the server, and sent when it is back."""
    with served_by_process(tmp_path, faults="", stop=signal.SIGKILL) as served:
        shell.env |= {
            "CLOUDFLARE_API_TOKEN": served.token,
            "CLOUDFLARE_ACCOUNT_ID": served.account,
            "CLOUDFLARE_API_BASE_URL": served.url,
        }
        source = f"cloudflare:{served.account}"
        with Api(served) as api:
            api.put(str(api.result("POST", "", json={"title": "ns"})["id"]), "old", b"old")
        shell.ok("mount", "--write-back=3600", source, shell.mnt)
        (shell.mnt / "ns" / "k1").write_text("one")
        (shell.mnt / "ns" / "k2").write_text("two")
        (shell.mnt / "ns" / "old").unlink()
    daemon = shell.daemon()
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: is_stale(shell.mnt) and not lives(daemon))
    assert quick(shell.env, "umount", shell.mnt).returncode == Exit.OK

    done = quick(shell.env, "status")
    assert done.returncode == Exit.LEFT
    assert f"{source}: not mounted" in done.stdout
    assert "3 changes" in done.stdout
    assert quick(shell.env, "recover", source, tmp_path / "out").returncode == Exit.OK
    assert [(tmp_path / "out" / "ns" / name).read_text() for name in ("k1", "k2")] == ["one", "two"]

    shell.ok("mount", "--write-back=0.1", "--timeout=3", source, shell.mnt)
    assert [(shell.mnt / "ns" / name).read_text() for name in ("k1", "k2")] == ["one", "two"]
    pending = json.loads(quick(shell.env, "pending", "--json", shell.mnt).stdout)
    assert {(one["path"], one["kind"]) for one in pending} == {
        ("ns/k1", "put"), ("ns/k2", "put"), ("ns/old", "delete"),
    }  # fmt: skip

    with served_by_process(tmp_path, faults="", port=served.port) as back, Api(back) as api:
        namespace = api.namespace("ns")
        wait_for(lambda: set(api.keys(namespace)) == {"k1", "k2"}, 40)
        assert [api.get(namespace, key) for key in ("k1", "k2")] == [b"one", b"two"]
        assert quick(shell.env, "umount", shell.mnt).returncode == Exit.OK
    assert quick(shell.env, "status").stdout == "nothing is mounted\n"


def test_a_wrong_answer_fails_at_once_though_the_source_is_known(shell: Shell, server: Served) -> None:
    """A refused token and a missing namespace fail at once, because a server that is there said so."""
    with Api(server) as api:
        namespace = api.result("POST", "", json={"title": "notes"})["id"]
        shell.ok("mount", "cloudflare:/notes", shell.mnt)
        shell.ok("umount", shell.mnt)
        assert "is not accepted" in shell.fails(
            "mount", "cloudflare:/notes", shell.mnt, CLOUDFLARE_API_TOKEN="no"
        )
        api.result("DELETE", f"/{namespace}")
        assert "notes" in shell.fails("mount", "cloudflare:/notes", shell.mnt)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/client/v4", "does not answer"),
        ("http://no-such-host.localhost.invalid/client/v4", "does not answer"),
        ("{root}", "/client/v4"),
        ("{root}/client/v5", "/client/v4"),
    ],
)
def test_a_server_that_is_none_fails_a_first_mount_within_seconds(
    shell: Shell, server: Served, url: str, words: str
) -> None:
    """A refused connection, an unknown host or a wrong base URL fails a first mount within seconds, with the reason."""
    begun = time.monotonic()
    line = shell.fails(
        "mount", "--insecure", "cloudflare:", shell.mnt, CLOUDFLARE_API_BASE_URL=url.format(root=server.root)
    )
    assert time.monotonic() - begun < 7.5, "five seconds, and the start of two interpreters"
    assert words in line


def test_refused_changes_are_decided_without_a_mount(shell: Shell, server: Served) -> None:
    """Refused changes are listed, retried and discarded by the name of the source.

    Wrong numbers are refused before any question.
    """
    with Api(server) as api:
        shell.ok("mount", "--write-back=0", "cloudflare:", shell.mnt)
        (shell.mnt / "ns").mkdir()
        api.set_faults({"fault": "status", "status": 400, "code": 10012, "method": "PUT"})
        (shell.mnt / "ns" / "a").write_text("refused")
        (shell.mnt / "ns" / "b").write_text("refused")
        assert shell.kvfs("sync", shell.mnt).returncode == Exit.LEFT
        assert shell.kvfs("umount", shell.mnt).returncode == Exit.LEFT
        api.set_faults()
        source = f"cloudflare:{server.account}"
        first, second = json.loads(shell.ok("rejected", "list", "--json"))
        assert (first["source"], first["mountpoint"]) == (source, "")
        assert "999999: not in" in shell.fails("rejected", "discard", source, "999999")
        assert "1 change discarded" in shell.ok("rejected", "discard", "--yes", source, second["seq"])
        assert "1 change will be sent" in shell.ok("rejected", "retry", source, "--all")
        assert shell.kvfs("status").returncode == Exit.LEFT
        shell.ok("mount", "cloudflare:", shell.mnt)
        shell.ok("umount", shell.mnt)
        assert set(api.keys(api.namespace("ns"))) == {first["path"].removeprefix("ns/")}


def test_a_log_is_found_by_its_mount(shell: Shell) -> None:
    """A log is found by its mount, also after the mount has ended; `-f` follows new lines."""
    shell.ok("mount", shell.local, shell.mnt)
    assert f"{shell.local} is mounted on {shell.mnt}" in shell.ok("log", shell.mnt)
    command = [sys.executable, "-P", "-m", "kvfs", "log", "-f", "-n", "1", str(shell.mnt)]
    with subprocess.Popen(command, env=shell.env, stdout=subprocess.PIPE, text=True) as following:
        try:
            following.stdout.readline()  # the last line there was: from now on it follows
            os.kill(shell.daemon(), signal.SIGTERM)
            assert "ending the mount" in following.stdout.readline()
        finally:
            following.kill()
    deadline = time.monotonic() + 20
    while os.path.ismount(shell.mnt) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "ending the mount" in shell.ok("log")


def test_what_could_not_be_sent_has_its_reasons_grouped(shell: Shell, server: Served) -> None:
    """Unsent changes are grouped by reason, with their number, the way out and the next try, not listed one a line."""
    with Api(server) as api:
        shell.ok("mount", "--write-back=3600", "cloudflare:", shell.mnt)
        (shell.mnt / "ns").mkdir()
        for name in ("a", "b", "c"):
            (shell.mnt / "ns" / name).write_text("kept")
        api.set_faults({"fault": "status", "status": 503, "method": "PUT"})
        done = shell.kvfs("sync", "--timeout=2", shell.mnt)
        assert done.returncode == Exit.LEFT
        [line] = [line for line in done.stdout.splitlines() if line.startswith("  3 changes: ")]
        assert "HTTP 503" in line
        assert "it is tried again by itself; tried again in" in line
        api.set_faults()
        shell.ok("umount", shell.mnt)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_terminal_shows_within_a_second_how_far_umount_is(
    shell: Shell, server: Served, tmp_path: Path
) -> None:
    """A terminal shows a bar from the first moment, and one line at the end."""
    with Api(server) as api:
        shell.ok("mount", "--write-back=3600", "cloudflare:", shell.mnt)
        (shell.mnt / "ns").mkdir()
        (shell.mnt / "ns" / "a").write_text("slow")
        api.set_faults({"fault": "latency", "seconds": 4, "method": "PUT"})
        command = [sys.executable, "-P", "-m", "kvfs", "umount", str(shell.mnt)]
        plain = {name: shell.env[name] for name in ("PYTHONPATH", "XDG_STATE_HOME", "XDG_DATA_HOME")}
        with terminal(tmp_path, command, cwd=tmp_path, **plain) as screen:
            screen.wait_for("0/1")
            screen.wait_for("4 B left")
            screen.wait_for("sent 1 change in")
            assert screen.wait_end() == 0


def test_why_names_the_last_failure_of_a_path(shell: Shell, server: Served) -> None:
    """`why` shows HTTP status, Cloudflare's code, the way out and the next try; for a path that is fine it says so."""
    with Api(server) as api:
        shell.ok("mount", "--write-back=0", "cloudflare:", shell.mnt)
        (shell.mnt / "ns").mkdir()
        assert "nothing of it waits" in shell.ok("why", shell.mnt / "ns" / "k")
        api.set_faults({"fault": "status", "status": 400, "code": 10012, "method": "PUT"})
        (shell.mnt / "ns" / "k").write_text("refused")
        shell.kvfs("sync", "--timeout=3", shell.mnt)
        said = shell.ok("why", shell.mnt / "ns" / "k")
        assert "ns/k: 7 B rejected" in said
        assert "HTTP status 400, Cloudflare's code 10012" in said
        assert "kvfs rejected list" in said
        api.set_faults()
        shell.ok("rejected", "discard", "--yes", "--all", shell.mnt)
        shell.ok("umount", shell.mnt)


def test_a_namespace_taken_for_an_account_is_told(shell: Shell, server: Served) -> None:
    """`cloudflare:CONFIG` names an account: the refusal shows a namespace's form and a token's permissions."""
    line = shell.fails("mount", "cloudflare:CONFIG", shell.mnt, CLOUDFLARE_API_TOKEN="wrong")
    assert "cloudflare:/CONFIG" in line
    assert "Workers KV Storage: Edit" in line


@pytest.mark.parametrize("words", [["--timeout=2"], ["--timeout=2", "--force"]])
def test_umount_ends_within_what_it_was_told(shell: Shell, server: Served, words: list[str]) -> None:
    """With a sick server and an open file the daemon still ends within the given time, and nothing is lost."""
    with Api(server) as api:
        shell.ok("mount", "--write-back=3600", "cloudflare:", shell.mnt)
        (shell.mnt / "ns").mkdir()
        (shell.mnt / "ns" / "a").write_text("kept")
        api.set_faults({"fault": "status", "status": 503, "method": "PUT"})
        daemon = shell.daemon()
        held = os.open(shell.mnt / "ns" / "a", os.O_RDONLY) if "--force" in words else None
        begun = time.monotonic()
        assert shell.kvfs("umount", *words, shell.mnt).returncode == Exit.LEFT
        assert time.monotonic() - begun < 2 + 1 + 3, "three for the start of an interpreter on a busy machine"
        if held is not None:
            with suppress(OSError):  # ENOTCONN: its daemon is gone
                os.close(held)
        assert not lives(daemon)
        assert not os.path.ismount(shell.mnt)
        api.set_faults()
        shell.ok("mount", "cloudflare:", shell.mnt)
        shell.ok("umount", shell.mnt)
        assert api.get(api.namespace("ns"), "a") == b"kept"
