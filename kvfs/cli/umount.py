"""`kvfs umount`: send what is pending, take the mount away, and wait until the daemon has ended.

Plain `umount` and `fusermount3 -u` return at once and leave the daemon sending in the background; this waits.
"""

import os
import select
import signal
from math import inf
from pathlib import Path

import click

from kvfs.cli.daemons import ask_to_send, daemon_of, find_record, report_left
from kvfs.cli.exits import Exit
from kvfs.cli.options import QUIET, STATE_DIR, STOP, flag, path
from kvfs.cli.output import complain, say
from kvfs.cli.waiting import Waiting
from kvfs.core.errors import UserError
from kvfs.host.control import SILENCE_SECONDS, Client, ControlError, DaemonEndedError, NoDaemonError
from kvfs.host.mounts import Mount, is_stale, mount_at, real_mountpoint, unmount
from kvfs.host.requests import UnmountRequest
from kvfs.host.state import forget, lives, record_path

END_SECONDS = 5.0  # for a daemon that has said its last word, or was killed
FORCED_SECONDS = 60.0  # for --force without --timeout: open files must not keep it for ever
GRACE_SECONDS = 0.5
TERM_SECONDS = 0.5
FORCED_SILENCE = 6.0  # a living daemon says so every five seconds
KEPT = "stay in the journal and go with the next mount"


@click.command()
@click.argument("directory", metavar="DIR", type=path)
@STOP
@flag("--lazy", "Detach a busy mount too; open files stay usable until they are closed.")
@flag("--force", "Kill a daemon that does not answer; the journal is kept.")
@QUIET
@STATE_DIR
def umount(directory: Path, timeout: float | None, lazy: bool, force: bool, quiet: bool, state: Path) -> int:
    """Send what is pending and end the mount on DIR.

    The exit status is 3 if some changes could not be sent. They are listed, and kept for the next mount.
    """
    mountpoint = real_mountpoint(directory)
    os.chdir("/")  # started inside the mount, this process would keep it busy
    mount = mount_at(mountpoint)
    request = UnmountRequest(timeout, lazy or force)
    try:
        with daemon_of(mountpoint, state) as client:
            try:
                within = (FORCED_SECONDS if timeout is None else timeout) + GRACE_SECONDS
                bounds = (FORCED_SILENCE, within) if force else (SILENCE_SECONDS, inf)
                return _end(client, mountpoint, request, bounds, quiet=quiet)
            except ControlError as exc:
                if exc.kind != "silent" or not force:
                    raise
                status = _kill(client, mountpoint)
    except NoDaemonError:
        status = _clean_up(mount, mountpoint, lazy=lazy or force)
    _forget(mountpoint, state)
    return status


def _forget(mountpoint: Path, state_dir: Path) -> None:
    """Remove the record of a daemon that did not live to do so."""
    record = find_record(mountpoint, state_dir)
    if record is not None and not lives(record.pid):
        forget(record, record_path(mountpoint, state_dir))
        Path(record.socket).unlink(missing_ok=True)


def _end(
    client: Client, mountpoint: Path, request: UnmountRequest, bounds: tuple[float, float], *, quiet: bool
) -> int:
    """End the mount. `bounds` are the seconds that the daemon may say nothing, and until it must have answered."""
    silence, within = bounds
    process = os.pidfd_open(client.pid)  # before asking: a number may be used again later
    try:
        answer = ask_to_send(client, request, silence=silence, within=within, quiet=quiet)
        status = report_left(answer, mountpoint, kept=f"they {KEPT}")
        with Waiting(f"waiting until process {client.pid} has ended", quiet=quiet):
            _wait_for_end(process, client.pid)
    except DaemonEndedError:
        complain(f"the daemon ended before it said whether anything is left: changes {KEPT}")
        status = Exit.LEFT
    except KeyboardInterrupt:
        complain("the daemon goes on in the background: it sends what is pending, then ends")
        raise
    finally:
        os.close(process)
    _wait_until_gone(mountpoint)
    return status


def _wait_for_end(process: int, pid: int) -> None:
    """Wait for the end of a daemon that has given its last answer, and kill it if it hangs: the journal is safe."""
    if select.select([process], [], [], END_SECONDS)[0]:
        return
    signal.pidfd_send_signal(process, signal.SIGKILL)
    select.select([process], [], [], END_SECONDS)
    complain(f"process {pid} did not end by itself and was killed; the journal is kept")


def _wait_until_gone(mountpoint: Path) -> None:
    mount = mount_at(mountpoint)
    if mount is not None and mount.is_kvfs:
        unmount(mountpoint, lazy=True)  # only a daemon that died leaves its mount behind


def _kill(client: Client, mountpoint: Path) -> int:
    """Kill a daemon that does not answer: the journal has everything acknowledged."""
    process = os.pidfd_open(client.pid)
    try:
        for number, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, END_SECONDS)):
            signal.pidfd_send_signal(process, number)
            if select.select([process], [], [], patience)[0]:
                break
    finally:
        os.close(process)
    _wait_until_gone(mountpoint)
    complain(f"process {client.pid} did not answer and was ended: changes {KEPT}")
    return Exit.LEFT


def _clean_up(mount: Mount | None, mountpoint: Path, *, lazy: bool) -> int:
    """End a mount whose daemon cannot be reached: dead, somebody else's, or of another state directory."""
    if mount is None or not mount.is_kvfs:
        raise UserError(f"{mountpoint} is not a kvfs mount")
    if is_stale(mountpoint):
        unmount(mountpoint, lazy=True)
        say(f"cleaned up {mountpoint}: its daemon had died; what was pending goes with the next mount")
        return Exit.OK
    if os.geteuid() not in (0, mount.uid):
        raise UserError(f"{mountpoint} was mounted by uid {mount.uid}: kvfs umount it as that user")
    unmount(mountpoint, lazy=lazy)
    say(f"unmounted {mountpoint}; its daemon sends what is pending in the background")
    return Exit.OK
