"""Checks before a mount is tried: each refusal is one line that names the way out."""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from kvfs.cli.output import complain
from kvfs.config import Config, LocalSource
from kvfs.core.errors import UserError
from kvfs.host.mounts import Mount, fusermount, is_stale, mount_at, unmount
from kvfs.host.state import read_record, record_path

DEVICE: Final = Path("/dev/fuse")
MOUNT_HINT: Final = (
    "sudo apt-get install fuse3 libfuse3-dev pkg-config gcc python3-dev,"
    " then pip install '.[mount]' in a clone of kvfs"
)
FUSE_CONF: Final = Path("/etc/fuse.conf")


def check_mountpoint(config: Config) -> None:
    """Refuse a mount point that is missing, not empty or in use; clean up after a dead daemon."""
    directory = config.mountpoint
    mounted = mount_at(directory)
    if mounted is not None:
        _check_mounted(mounted, config)
    try:
        entries = os.listdir(directory)
    except FileNotFoundError:
        raise UserError(f"the mount point {directory} does not exist: mkdir {directory}") from None
    except NotADirectoryError:
        raise UserError(f"the mount point {directory} is not a directory") from None
    except PermissionError:
        raise UserError(f"you may not read the mount point {directory}") from None
    if entries:
        raise UserError(f"the mount point {directory} is not empty: its files would be hidden")
    if not os.access(directory, os.W_OK):
        raise UserError(f"you may not write to the mount point {directory}: use a directory of yours")


def _check_mounted(mounted: Mount, config: Config) -> None:
    directory = mounted.mountpoint
    if not mounted.fstype.startswith("fuse"):
        return  # a directory of its own disk may be mounted over, if it is empty
    if is_stale(directory):
        if not mounted.is_kvfs:
            raise UserError(f"a dead {mounted.fstype} mount is on {directory}: fusermount3 -u {directory}")
        unmount(directory, lazy=True)
        complain(f"cleaned up {directory}: the daemon that served it had died")
        return
    if mounted.is_kvfs:
        record = read_record(record_path(directory, config.state_dir))
        served = f" by process {record.pid}" if record is not None else ""
        raise UserError(
            f"{mounted.source} is already mounted on {directory}{served}: kvfs umount {directory}"
        )
    raise UserError(f"{directory} is a mount point already ({mounted.fstype})")


def check_source_outside(config: Config) -> None:
    """Refuse to keep a store or the state below the mount point: the daemon would wait for itself."""
    places = {"the state directory": config.state_dir}
    if isinstance(config.source, LocalSource):
        places["the store"] = config.source.file
    if config.log_file is not None:
        places["the log"] = config.log_file
    for name, place in places.items():
        if Path(os.path.realpath(place)).is_relative_to(config.mountpoint):
            raise UserError(f"{name} {place} lies below the mount point {config.mountpoint}")


def check_fuse(*, allow_other: bool, device: Path = DEVICE, fuse_conf: Path = FUSE_CONF) -> None:
    """Refuse when FUSE cannot be used here: the device, the helper, the permission for `allow_other`."""
    check_device(device)
    fusermount()
    if allow_other and os.geteuid() != 0 and not user_allow_other(fuse_conf):
        raise UserError(f"--allow-other needs a line “user_allow_other” in {fuse_conf}")


def check_pyfuse3(*, load: bool) -> None:
    """Refuse when the library that speaks FUSE is not installed or, with `load`, cannot be loaded."""
    try:
        if load:
            importlib.import_module("pyfuse3")
        elif find_spec("pyfuse3") is None:
            raise ModuleNotFoundError
    except ImportError as exc:
        reason = "is not installed" if isinstance(exc, ModuleNotFoundError) else f"cannot be loaded ({exc})"
        raise UserError(
            f"pyfuse3 {reason}, and kvfs mount needs it (nothing else does): {MOUNT_HINT}"
        ) from exc


def check_device(device: Path = DEVICE) -> None:
    """Refuse when the device of FUSE cannot be opened."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise UserError(
            f"{device} is missing: sudo modprobe fuse, or give the container --device /dev/fuse"
        ) from None
    except OSError as exc:
        raise UserError(f"cannot open {device} ({exc.strerror}): sudo chmod 666 {device}") from exc


def user_allow_other(fuse_conf: Path) -> bool:
    """Return whether the administrator lets users open their mounts to others."""
    try:
        return "user_allow_other" in (line.strip() for line in fuse_conf.read_text().splitlines())
    except OSError:
        return False
