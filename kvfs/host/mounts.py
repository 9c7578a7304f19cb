"""The kernel's list of mounts: paths, staleness, the processes that keep one busy. Also unmounting.

`errno` is named here, as in `fuse/convert.py`: the kernel's only word for a dead mount is ENOTCONN, and there
is no exception class for it. Asking about a mount never waits for the daemon behind it, except `is_stale`.
"""

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError
from kvfs.host.process import command_of

FSTYPE: Final = "fuse.kvfs"
MOUNTINFO: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo. `device` is "major:minor"; `uid` is a FUSE mount's owner, None for others."""

    mountpoint: Path
    fstype: str
    source: str
    device: str
    uid: int | None = None

    @property
    def is_kvfs(self) -> bool:
        """Return True if kvfs mounted it."""
        return self.fstype == FSTYPE


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that keeps a mount busy, and the reason."""

    pid: int
    command: str
    what: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, {self.what})"


def parse_mountinfo(content: bytes) -> list[Mount]:
    """Return the mounts of a mountinfo file, in order: a later one lies over an earlier one. See proc(5)."""
    mounts = []
    for line in content.splitlines():
        left, separator, right = line.partition(b" - ")
        fields, rest = left.split(b" "), right.split(b" ")
        if not separator or len(fields) < 6 or len(rest) < 2:
            continue
        owner = re.search(rb"(?:^|,)user_id=(\d+)", rest[2]) if len(rest) > 2 else None
        mounts.append(
            Mount(
                mountpoint=Path(os.fsdecode(_unescape(fields[4]))),
                fstype=os.fsdecode(rest[0]),
                source=os.fsdecode(_unescape(rest[1])),
                device=os.fsdecode(fields[2]),
                uid=int(owner[1]) if owner else None,
            )
        )
    return mounts


def _unescape(text: bytes) -> bytes:
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), text)


def current_mounts() -> list[Mount]:
    """Return every mount this process can see."""
    return parse_mountinfo(MOUNTINFO.read_bytes())


def real_mountpoint(directory: Path) -> Path:
    """Return the canonical path of `directory`, without touching what is mounted there, because that may be dead."""
    absolute = Path(os.path.abspath(directory))
    candidate = Path(os.path.realpath(absolute.parent)) / absolute.name
    if mount_at(candidate) is not None:
        return candidate
    return Path(os.path.realpath(candidate))


def mount_at(mountpoint: Path) -> Mount | None:
    """Return the topmost mount exactly at `mountpoint` (canonical), if any."""
    found = [mount for mount in current_mounts() if mount.mountpoint == mountpoint]
    return found[-1] if found else None


def mount_of(path: Path) -> Mount | None:
    """Return the kvfs mount that `path` (absolute, it need not exist) lies in."""
    found = [mount for mount in current_mounts() if path.is_relative_to(mount.mountpoint)]
    deepest = max(found, key=lambda mount: len(mount.mountpoint.parts), default=None)
    return deepest if deepest is not None and deepest.is_kvfs else None


def is_stale(mountpoint: Path) -> bool:
    """Return whether a FUSE mount's daemon has died: "Transport endpoint is not connected"."""
    try:
        os.statvfs(mountpoint)  # never answered from the kernel's caches, as stat is
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def holders(mount: Mount) -> list[Holder]:
    """Return the processes that keep `mount` busy, as far as this user may see, without this one."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            what = next(_uses(Path("/proc", name), mount), None)
            if what is not None:
                found.append(Holder(int(name), command_of(int(name)) or "?", what))
    return found


def _uses(process: Path, mount: Mount) -> Iterator[str]:
    """Yield how a process uses a mount, by its links (reading a link does not touch the mount)."""
    with suppress(OSError):
        for link, what in (("cwd", "working directory"), ("root", "root directory"), ("exe", "program")):
            if _lies_in(os.readlink(process / link), mount):
                yield what
    with suppress(OSError):
        for descriptor in os.listdir(process / "fd"):
            with suppress(FileNotFoundError):
                target = os.readlink(process / "fd" / descriptor)
                if _lies_in(target, mount):
                    yield f"open file {target}"
    with suppress(OSError):
        # 7f…-7f… r--s 00000000 00:2a 17   /path: the kernel pads the device to two digits of hexadecimal
        wanted = b" %02x:%02x " % tuple(int(part) for part in mount.device.split(":"))
        for line in (process / "maps").read_bytes().splitlines():
            if wanted in line:
                yield "mapped file"


def _lies_in(path: str, mount: Mount) -> bool:
    root = os.fspath(mount.mountpoint)
    return path == root or path.startswith(root.rstrip("/") + "/")


def fusermount() -> str:
    """Return the path of fusermount3; `UserError` when it is not installed."""
    found = shutil.which("fusermount3")
    if found is None:
        raise UserError("fusermount3 is missing: install the package fuse3 (sudo apt-get install fuse3)")
    return found


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount, at once from the tree when `lazy`; `UserError` when that fails."""
    command = [fusermount(), "-u", *(["-z"] if lazy else []), "--", os.fspath(mountpoint)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode == 0:
        return
    reason = done.stderr.strip() or f"fusermount3 ended with {done.returncode}"
    if "busy" in reason.lower():
        raise UserError(busy_message(mountpoint))
    raise UserError(f"cannot unmount {mountpoint}: {reason}")


def busy_message(mountpoint: Path) -> str:
    """Return a line that names the processes that keep `mountpoint` busy."""
    mount = mount_at(mountpoint)
    found = holders(mount) if mount is not None else []
    named = ", ".join(str(holder) for holder in found[:5]) or "a process that you may not look into"
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{mountpoint} is busy: used by {named}{more}; end them, or detach it with --lazy"
