"""`kvfs status --watch`: it shows the mounts and keeps up with them, on a terminal and elsewhere."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.shell import Shell
from support.terminal import terminal

pytestmark = pytest.mark.fuse


@contextmanager
def piped(shell: Shell, *words: object) -> Iterator["subprocess.Popen[str]"]:
    """Run the command with its output in a pipe."""
    command = [sys.executable, "-P", "-m", "kvfs", *map(str, words)]
    process = subprocess.Popen(command, env=shell.env, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_terminal_shows_what_a_mount_does_and_lives_on_without_it(shell: Shell) -> None:
    """A change shows, a dead daemon shows, and its successor shows; q ends it and leaves the terminal as it was."""
    shell.ok("mount", "--write-back=3600", shell.local, shell.mnt)
    (shell.mnt / "ns").mkdir()
    command = [sys.executable, "-P", "-m", "kvfs", "status", "--watch", "--interval=0.1", str(shell.mnt)]
    script = [
        "bash",
        "-c",
        'stty -g > before; "$@"; echo "ended with $?"; stty -g > after; read',
        "-",
        *command,
    ]
    with terminal(shell.home, script, cwd=shell.home, **shell.env) as screen:
        screen.wait_for("nothing")
        (shell.mnt / "ns" / "a").write_text("value")
        screen.wait_for("1 change, 5 B")
        os.kill(shell.daemon(), signal.SIGKILL)
        screen.wait_for("dead")
        shell.kvfs("umount", shell.mnt)
        screen.wait_for("is not a kvfs mount")
        shell.ok("mount", "--write-back=3600", shell.local, shell.mnt)
        screen.wait_for("mounted (process")
        screen.type("q")
        screen.wait_for("ended with 0")
        assert "pending" not in screen.screen()
    assert (shell.home / "before").read_text() == (shell.home / "after").read_text()
    shell.ok("umount", shell.mnt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_as_q_does(shell: Shell, number: int) -> None:
    """A signal ends it with status 0 and the terminal as it was."""
    command = [sys.executable, "-P", "-m", "kvfs", "status", "--watch", "--interval=30"]
    run = """bash -c 'echo $$ > pid; exec "$@"' - "$@\""""
    script = f'stty -g > before; {run}; status=$?; stty -g > after; echo "ended with $status"; read'
    with terminal(shell.home, ["bash", "-c", script, "-", *command], cwd=shell.home, **shell.env) as screen:
        screen.wait_for("nothing is mounted")
        os.kill(int((shell.home / "pid").read_text()), number)
        screen.wait_for("ended with 0")
        assert "interrupted" not in screen.screen()
    assert (shell.home / "before").read_text() == (shell.home / "after").read_text()


def test_without_a_terminal_there_is_a_block_per_interval(shell: Shell) -> None:
    """Without a terminal it prints a block per interval, with an empty line between two, until its reader goes."""
    with piped(shell, "status", "--watch", "--interval=0.05") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines == ["nothing is mounted\n", "\n", "nothing is mounted\n", "\n", "nothing is mounted\n"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_programs_get_a_line_of_json_per_interval(shell: Shell) -> None:
    """With `--json` each interval gives one object, like that of `--json` alone."""
    with piped(shell, "status", "--watch", "--json", "--interval=0.05") as process:
        assert process.stdout is not None
        found = [json.loads(line) for line in (process.stdout.readline() for _ in range(3))]
    assert found == [json.loads(shell.ok("status", "--json"))] * 3
