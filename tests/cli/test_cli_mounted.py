"""The command line against real mounts: how they start, what they say, how they end."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.mounted import Api
from support.serving import Served
from support.shell import Shell

from kvfs.cli.exits import Exit
from kvfs.host.mounts import mount_at

pytestmark = pytest.mark.fuse


def test_a_mount_returns_when_it_can_be_used_and_ends_when_all_is_sent(shell: Shell) -> None:
    """A mount returns when it can be used and ends when all is sent: its whole life in four commands."""
    said = shell.ok("mount", shell.local, shell.mnt)
    assert said == f"{shell.local} is mounted on {shell.mnt}\n"
    (shell.mnt / "notes").mkdir()
    (shell.mnt / "notes" / "a").write_text("value")
    daemon = shell.daemon()
    assert shell.ok("umount", shell.mnt) == ""
    assert mount_at(shell.mnt) is None
    assert not Path("/proc", str(daemon)).exists() or "Z" in Path("/proc", str(daemon), "stat").read_text()
    assert shell.ok("status") == "nothing is mounted\n"
    shell.ok("mount", shell.local, shell.mnt)
    assert (shell.mnt / "notes" / "a").read_text() == "value"
    shell.ok("umount", shell.mnt)


def test_relative_names_mean_the_directory_of_the_shell(shell: Shell) -> None:
    """Relative names mean the directory of the shell, although the daemon works in another one."""
    shell.ok("mount", "local:store.sqlite", "mnt")
    assert (shell.home / "store.sqlite").exists()
    assert os.readlink(f"/proc/{shell.daemon()}/cwd") == "/"
    shell.ok("umount", "mnt")


def test_what_a_daemon_leaves_on_the_disk_is_private(shell: Shell) -> None:
    """Files of a daemon have mode 0600 and directories 0700, with any umask."""
    before = os.umask(0)
    try:
        shell.ok("mount", shell.local, shell.mnt)
    finally:
        os.umask(before)
    (shell.mnt / "notes").mkdir()
    for path in [shell.state, *shell.state.rglob("*"), shell.home / "store.sqlite"]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    shell.ok("umount", shell.mnt)


def test_a_mount_point_in_use_is_refused(shell: Shell) -> None:
    """A mount point in use is refused with the name of the source mounted there, and its process."""
    shell.ok("mount", shell.local, shell.mnt)
    line = shell.fails("mount", "local:other.sqlite", shell.mnt)
    assert f"{shell.local} is already mounted on {shell.mnt} by process {shell.daemon()}" in line
    shell.ok("umount", shell.mnt)


def test_a_source_in_use_is_refused(shell: Shell) -> None:
    """A second daemon on one journal would lose data: it is refused, and the first is named."""
    shell.ok("mount", shell.local, shell.mnt)
    (shell.home / "second").mkdir()
    line = shell.fails("mount", shell.local, shell.home / "second")
    assert f"{shell.local} is served by process {shell.daemon()} already, mounted at {shell.mnt}" in line
    assert f"kvfs umount {shell.mnt}" in line
    shell.ok("umount", shell.mnt)


@pytest.mark.parametrize("command", ["mount", "umount"])
def test_a_dead_mount_is_cleaned_up(shell: Shell, command: str) -> None:
    """The next mount on a dead one goes on, and umount cleans it up. All closed files are still there."""
    shell.ok("mount", shell.local, shell.mnt)
    (shell.mnt / "notes").mkdir()
    (shell.mnt / "notes" / "a").write_text("kept")
    os.kill(shell.daemon(), signal.SIGKILL)
    assert shell.kvfs("status").returncode == Exit.FAILED
    if command == "umount":
        assert "cleaned up" in shell.ok("umount", shell.mnt)
        left = shell.kvfs("status")
        assert (left.returncode, left.stdout.splitlines()[0]) == (Exit.LEFT, "nothing is mounted")
        assert "1 change" in left.stdout
    done = shell.kvfs("mount", shell.local, shell.mnt)
    assert done.returncode == 0, done
    assert ("cleaned up" in done.stderr) == (command == "mount")
    assert (shell.mnt / "notes" / "a").read_text() == "kept"
    shell.ok("umount", shell.mnt)


def test_a_busy_mount_names_who_uses_it(shell: Shell) -> None:
    """A busy mount stays mounted with nothing lost, and its users are named; --lazy detaches it all the same."""
    shell.ok("mount", shell.local, shell.mnt)
    with subprocess.Popen(["sleep", "60"], cwd=shell.mnt) as inside:
        line = shell.fails("umount", shell.mnt)
        assert f"sleep (pid {inside.pid}, working directory)" in line
        assert mount_at(shell.mnt) is not None
        inside.kill()
    shell.ok("umount", shell.mnt)


def test_umount_can_be_called_from_inside(shell: Shell) -> None:
    """The umount command itself does not keep the mount busy, though a shell that stays inside does."""
    shell.ok("mount", shell.local, shell.mnt)
    done = shell.kvfs("umount", ".", cwd=shell.mnt)
    assert done.returncode == 0, done


def test_a_daemon_that_hangs_can_be_ended(shell: Shell) -> None:
    """Without --force umount says that the daemon does not answer.

    With it, the daemon ends and the journal keeps everything.
    """
    shell.ok("mount", shell.local, shell.mnt)
    (shell.mnt / "notes").mkdir()
    (shell.mnt / "notes" / "a").write_text("kept")
    os.kill(shell.daemon(), signal.SIGSTOP)
    line = shell.fails("umount", "--force", shell.mnt, status=Exit.LEFT)
    assert "did not answer and was ended" in line
    assert mount_at(shell.mnt) is None
    shell.ok("mount", shell.local, shell.mnt)
    assert (shell.mnt / "notes" / "a").read_text() == "kept"
    shell.ok("umount", shell.mnt)


def test_ctrl_c_ends_a_mount_in_the_foreground(shell: Shell) -> None:
    """A mount in the foreground says when it is ready, and after Ctrl-C everything written is in the store."""
    command = [sys.executable, "-P", "-m", "kvfs", "mount", "-f", shell.local, str(shell.mnt)]
    with subprocess.Popen(
        command, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == f"{shell.local} is mounted on {shell.mnt}; Ctrl-C ends it\n"
        (shell.mnt / "notes").mkdir()
        daemon.send_signal(signal.SIGINT)
        _, log = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, log
    assert "Traceback" not in log
    assert mount_at(shell.mnt) is None


def test_a_daemon_does_not_load_modules_from_where_it_was_started(shell: Shell) -> None:
    """A daemon loads no modules from the directory where it was started, which may be somebody else's."""
    trap = shell.home / "trap"
    trap.mkdir()
    for name in ("kvfs", "trio", "pyfuse3", "logging"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')\n")
    assert shell.kvfs("mount", shell.local, shell.mnt, cwd=trap).returncode == 0
    shell.ok("umount", shell.mnt)


def test_a_wrong_token_is_found_before_the_mount(shell: Shell, server: Served) -> None:
    """A wrong token gives one line, before anything is mounted or recorded, and the token is shown nowhere."""
    secret = "wrong-token-4711"
    line = shell.fails("mount", "cloudflare:", shell.mnt, CLOUDFLARE_API_TOKEN=secret)
    assert re.search("token|authenticat", line, re.IGNORECASE)
    assert mount_at(shell.mnt) is None
    assert list(shell.state.glob("mounts/*.json")) == []
    assert secret not in line


def test_an_unknown_namespace_is_found_before_the_mount(shell: Shell, server: Served) -> None:
    """The message about an unknown namespace names it, before anything is mounted."""
    assert "nowhere" in shell.fails("mount", f"cloudflare:{server.account}/nowhere", shell.mnt)
    assert mount_at(shell.mnt) is None


def test_a_server_that_cannot_be_reached_is_named_before_the_mount(shell: Shell, server: Served) -> None:
    """A server that cannot be reached is named within the bound of a request, before anything is mounted."""
    line = shell.fails(
        *("mount", "--timeout=2", "cloudflare:", shell.mnt),
        CLOUDFLARE_API_BASE_URL="http://127.0.0.1:9/client/v4",
    )
    assert re.search("answer|reach|connect", line, re.IGNORECASE)
    assert mount_at(shell.mnt) is None


def test_the_token_is_in_no_argument_and_in_no_log(shell: Shell, server: Served) -> None:
    """The token is neither in the arguments that `ps` shows nor in the state directory."""
    file = shell.home / "token"
    file.touch(mode=0o600)
    file.write_text(server.token)
    shell.ok(
        "mount", "--token-file", file, "--log-level=debug", "cloudflare:", shell.mnt, CLOUDFLARE_API_TOKEN=""
    )
    (shell.mnt / "notes").mkdir()
    arguments = Path("/proc", str(shell.daemon()), "cmdline").read_bytes()
    shell.ok("umount", shell.mnt)
    assert server.token.encode() not in arguments
    for path in shell.state.rglob("*"):
        assert not path.is_file() or server.token.encode() not in path.read_bytes(), path


def test_what_cannot_be_sent_is_listed_and_sent_by_the_next_mount(shell: Shell, server: Served) -> None:
    """Changes that cannot be sent give exit status 3 and their paths, and the next mount sends them."""
    with Api(server) as api:
        shell.ok("mount", "cloudflare:", shell.mnt)
        (shell.mnt / "notes").mkdir()
        api.set_faults({"fault": "status", "status": 503, "method": "PUT"})
        (shell.mnt / "notes" / "a").write_text("kept")
        for command in ("sync", "umount"):
            done = shell.kvfs(command, "--timeout=0.5", shell.mnt)
            assert done.returncode == Exit.LEFT, done
            assert "1 change of" in done.stderr
            assert "notes/a" in done.stdout
        api.set_faults()
        shell.ok("mount", "cloudflare:", shell.mnt)
        shell.ok("umount", shell.mnt)
        assert api.get(api.namespace("notes"), "a") == b"kept"


def test_the_status_is_documented(shell: Shell, server: Served) -> None:
    """Every name at the top of a mount's JSON is in docs/status.md, and what that shows is there."""
    page = (Path(__file__).parents[2] / "docs" / "status.md").read_text()
    shell.ok("mount", "cloudflare:", shell.mnt)
    (shell.mnt / "notes").mkdir()
    (shell.mnt / "notes" / "a").write_text("x")
    found = shell.status()
    shown = shell.ok("status", shell.mnt)
    shell.ok("umount", shell.mnt)
    assert found["state"] == "mounted"
    assert found["mountpoint"] == str(shell.mnt)
    assert found["pending"]["count"] == 1
    [example] = json.loads(page.partition("```json\n")[2].partition("```")[0])["mounts"]
    assert set(example) <= set(found)
    for name, part in found.items():
        assert f"`{name}`" in page
        if isinstance(part, dict) and name in example and name != "requests":
            assert set(example[name]) <= set(part), name
    for word in ("source", "mounted (process", "1 change", "server     answers", "requests"):
        assert word in shown


def test_refused_changes_wait_for_the_user(shell: Shell, server: Served) -> None:
    """Refused changes are listed with number and reason, retried on request, discarded on request.

    A number that is named twice counts once.
    """
    with Api(server) as api:
        shell.ok("mount", "--write-back=0", "cloudflare:", shell.mnt)
        (shell.mnt / "notes").mkdir()
        assert shell.ok("rejected", "list", shell.mnt) == "nothing is refused\n"
        api.set_faults({"fault": "status", "status": 400, "code": 10012, "method": "PUT"})
        (shell.mnt / "notes" / "a").write_text("refused")
        (shell.mnt / "notes" / "b").write_text("refused")
        assert shell.kvfs("sync", shell.mnt).returncode == Exit.LEFT
        [first, second] = json.loads(shell.ok("rejected", "list", "--json", shell.mnt))
        assert {first["path"], second["path"]} == {"notes/a", "notes/b"}
        assert "2 by the server" in shell.ok("status", shell.mnt)
        api.set_faults()
        twice = (first["seq"], first["seq"])
        assert "1 change will be sent" in shell.ok("rejected", "retry", shell.mnt, *twice)
        assert "not in" in shell.fails("rejected", "retry", shell.mnt, "999999")
        assert "1 change discarded" in shell.ok("rejected", "discard", "--yes", "--all", shell.mnt)
        shell.ok("umount", shell.mnt)
        assert set(api.keys(api.namespace("notes"))) == {first["path"].removeprefix("notes/")}


def test_refresh_shows_what_others_changed(shell: Shell, server: Served) -> None:
    """After `kvfs refresh` the changes of other clients show before the cache time is over."""
    with Api(server) as api:
        namespace = api.result("POST", "", json={"title": "notes"})["id"]
        api.put(namespace, "a", b"old")
        shell.ok("mount", "cloudflare:", shell.mnt)
        assert (shell.mnt / "notes" / "a").read_bytes() == b"old"
        api.put(namespace, "a", b"new value")
        assert shell.ok("refresh", shell.mnt / "notes" / "a") == ""
        assert (shell.mnt / "notes" / "a").read_bytes() == b"new value"
        api.put(namespace, "b", b"more")
        shell.ok("refresh", shell.mnt)
        assert sorted(os.listdir(shell.mnt / "notes")) == ["a", "b"]
        shell.ok("umount", shell.mnt)


def test_serve_says_where_it_is_and_makes_a_token(shell: Shell) -> None:
    """The line of `kvfs serve` has everything that a mount needs."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "kvfs",
        "serve",
        "--store",
        "served.sqlite",
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(
        command, env=shell.env, cwd=shell.home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        said = re.search(r"at (http://\S+/client/v4) \(token in (.*)\)", process.stdout.readline())
        assert said is not None
        token = Path(said[2])
        assert token == shell.state / "serve-token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        shell.ok("mount", "--token-file", token, "cloudflare:a", shell.mnt, CLOUDFLARE_API_BASE_URL=said[1])
        (shell.mnt / "notes").mkdir()
        shell.ok("umount", shell.mnt)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
