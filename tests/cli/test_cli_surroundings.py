"""The surroundings of a command: names in every script, any locale, closed descriptors, low limits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.mounted import Api
from support.serving import Served
from support.shell import Shell

pytestmark = pytest.mark.fuse

# Python makes UTF-8 of the C locale by itself; with these it takes the locale at its word: ASCII.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_store_below_a_home_with_any_name_is_mounted(shell: Shell) -> None:
    """The default store below /home/jürgen is mounted, and the kernel's table shows its name."""
    home = shell.home / "jürgen"
    home.mkdir()
    given = {"HOME": str(home), "XDG_DATA_HOME": "", "XDG_STATE_HOME": ""}
    assert "jürgen" in shell.ok("mount", "local:", shell.mnt, **given)
    assert str(home) in Path("/proc/self/mountinfo").read_text()
    (shell.mnt / "Übersicht").mkdir()
    (shell.mnt / "Übersicht" / "日本").write_text("値")
    assert "jürgen" in shell.ok("status", **given)
    shell.ok("umount", shell.mnt, **given)


def test_titles_and_prefixes_in_every_script_are_mounted(shell: Shell, server: Served) -> None:
    """Titles and prefixes in every script are mounted, also in an ASCII locale, and their log and journal are found."""
    with Api(server) as api:
        namespace = str(api.result("POST", "", json={"title": "Überschriften"})["id"])
        api.put(namespace, "日本/🗾", b"there")
        for environment in ({}, ASCII):
            for source, file in (("Überschriften", "日本/🗾"), ("Überschriften/日本/", "🗾")):
                shell.ok("mount", f"cloudflare:/{source}", shell.mnt, **environment)
                assert (shell.mnt / file).read_bytes() == b"there"
                shell.ok("umount", shell.mnt, **environment)


def test_a_journal_is_found_in_every_locale(shell: Shell) -> None:
    """A change written in one locale is pending in another, because a source is the same in both."""
    store = f"local:{shell.home}/ü.sqlite"
    mnt = shell.home / "einhängen-ß"
    mnt.mkdir()
    shell.ok("mount", "--write-back=3600", store, mnt)
    (mnt / "ns").mkdir()
    (mnt / "ns" / "a").write_text("kept")
    [record] = shell.state.glob("mounts/*.json")
    os.kill(int(json.loads(record.read_text())["pid"]), signal.SIGKILL)
    assert "cleaned up" in shell.ok("umount", mnt, **ASCII)
    shell.ok("mount", "--write-back=3600", store, mnt, **ASCII)
    assert (mnt / "ns" / "a").read_text() == "kept"
    assert len([*shell.state.glob("sources/*")]) == 1
    shell.ok("umount", mnt)


def test_every_message_can_be_printed_in_an_ascii_locale(shell: Shell) -> None:
    """Quotes and dots of the messages do not end a command with an encoding error."""
    line = shell.fails("mount", f"local:{shell.home}/nö/x", shell.mnt, **ASCII)
    assert "does not exist" in line
    shell.kvfs("doctor", **ASCII)
    assert not (shell.state / "errors.log").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_descriptors_stop_no_command(shell: Shell, closed: str) -> None:
    """With closed descriptors, as in cron jobs and daemons, mount, sync and umount answer 0 at once."""
    for words in (f"mount {shell.local} {shell.mnt}", f"sync {shell.mnt}", "status", f"umount {shell.mnt}"):
        done = subprocess.run(
            ["bash", "-c", f"exec {sys.executable} -P -m kvfs {words} {closed}"],
            env=shell.env, cwd=shell.home, timeout=20, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, words
        assert os.path.ismount(shell.mnt) == (not words.startswith("umount"))


def test_a_mount_raises_its_own_limit_of_open_files(shell: Shell) -> None:
    """A mount raises its soft limit of open files up to the hard one, and works when the hard one is low."""
    script = f"ulimit -Sn 30; ulimit -Hn 60; exec {sys.executable} -P -m kvfs mount {shell.local} {shell.mnt}"
    subprocess.run(["bash", "-c", script], env=shell.env, cwd=shell.home, timeout=30, check=True)
    limits = Path("/proc", str(shell.daemon()), "limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert line.split()[3:5] == ["60", "60"]
    (shell.mnt / "ns").mkdir()
    for number in range(200):
        (shell.mnt / "ns" / str(number)).write_bytes(b"x" * 200_000)
    assert len([*(shell.mnt / "ns").iterdir()]) == 200
    shell.ok("umount", shell.mnt)


def test_line_oriented_output_has_a_line_a_change_whatever_the_key_holds(shell: Shell) -> None:
    """Line breaks, tabs, backslashes and escapes of a key are escaped in `.kvfs/queue`, and can be read back."""
    names = ["a\nb", "t\tb", "back\\slash", "esc\x1b[2J", "nel\x85", "line\u2028sep", "plain", "ü"]
    shell.ok("mount", "--write-back=3600", shell.local, shell.mnt)
    (shell.mnt / "n\ns").mkdir()
    for name in names:
        (shell.mnt / "n\ns" / name).write_text("x")
    lines = (shell.mnt / ".kvfs" / "queue").read_text().split("\n")[:-1]
    assert [line.split("\t")[1:4] for line in lines] == [["pending", "put", "1"]] * len(names)
    shown = [line.split("\t")[4] for line in lines]
    read_back = [text.encode("latin-1", "backslashreplace").decode("unicode_escape") for text in shown]
    assert sorted(read_back) == sorted(f"n\ns/{name}" for name in names)
    shell.ok("umount", shell.mnt)


def test_a_name_with_a_line_break_is_one_line_of_the_log(shell: Shell, server: Served) -> None:
    """A key with a line break cannot write lines of its own into the log or into `.kvfs/errors`."""
    with Api(server) as api:
        shell.ok("mount", "--write-back=0", "--timeout=2", "cloudflare:", shell.mnt)
        (shell.mnt / "ns").mkdir()
        api.set_faults({"fault": "status", "status": 400, "code": 10012, "method": "PUT"})
        (shell.mnt / "ns" / "a\n2026-01-01 ERROR forged").write_text("x")
        shell.kvfs("sync", "--timeout=3", shell.mnt)
        errors = (shell.mnt / ".kvfs" / "errors").read_text()
        [log] = [file.read_text() for file in shell.state.glob("mounts/*.log")]
        for text in (errors, log):
            assert "forged" in text
            assert not [line for line in text.splitlines() if line.startswith("2026-01-01 ERROR")]
        api.set_faults()
        shell.kvfs("umount", shell.mnt)


@pytest.mark.parametrize("mode", [0o1777, 0o755])
def test_a_shared_state_directory_keeps_its_mode(shell: Shell, mode: int) -> None:
    """`kvfs doctor` and `kvfs mount` leave the directory to others; only what is made in it is private."""
    shared = shell.home / "shared"
    shared.mkdir()
    shared.chmod(mode)
    shell.kvfs("doctor", f"--state-dir={shared}")
    shell.ok("mount", f"--state-dir={shared}", shell.local, shell.mnt)
    assert shared.stat().st_mode & 0o7777 == mode
    for path in shared.rglob("*"):
        assert path.lstat().st_mode & 0o077 == 0, path
    shell.ok("umount", f"--state-dir={shared}", shell.mnt)


def test_a_mount_on_the_present_directory_answers_what_it_imports_late(shell: Shell) -> None:
    """A daemon in the foreground that mounts on its working directory gives its metrics: it does not ask itself."""
    shell.mnt.mkdir(exist_ok=True)
    words = [sys.executable, "-m", "kvfs", "mount", "-f", shell.local, str(shell.mnt)]
    with subprocess.Popen(words, cwd=shell.mnt, env=shell.env, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        try:
            assert "is mounted" in daemon.stdout.readline()
            file = str(shell.mnt / ".kvfs" / "metrics")
            reader = subprocess.Popen(["cat", file], stdout=subprocess.PIPE, text=True)
            try:
                text, _ = reader.communicate(timeout=10)
            finally:  # a reader of a mount that hangs can be ended only with its daemon
                daemon.kill()
                reader.wait()
            assert "kvfs_mount_info" in text
        finally:
            daemon.kill()
