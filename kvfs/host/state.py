"""The state of kvfs on this machine: its directories, their owners and modes, the mounts served from it.

$XDG_STATE_HOME/kvfs/               0700, as everything below
    sources/<hash of source>/       the journal of one source
    mounts/<hash of directory>.json which process serves the directory: `MountRecord`
                              .sock its control socket
           <directory>.log          its log, when it runs in the background
    kinds/<hash of account>.json    which values are binary: `host/kinds_file.py`
    requests/<hash of account>      how many requests this user's processes made of late: `requests_path`
    told/                           what commands wrote beside a mount, until it has read that: `host/told.py`
    errors.log                      tracebacks that no terminal should see
"""

import hashlib
import json
import os
import re
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import platformdirs

from kvfs.core.errors import UserError

T = TypeVar("T")

SYSTEM_DIR: Final = Path("/var/lib/kvfs")
"""State and store of mounts that root makes at boot, without a home."""

_HALF: Final = re.compile(
    r"\.(json|ndjson|last|namespaces)[a-z0-9_]{8}$"
)  # behind a name mkstemp puts so many
_LOG_NAME: Final = 120  # bytes of a directory's name in that of its log

SOCKET_PATH_BYTES: Final = 107  # unix(7): sun_path holds 108 with its NUL


@dataclass(frozen=True, slots=True)
class MountRecord:
    """One mount of this user: the process that serves `mountpoint`. `since` is epoch seconds, paths are absolute.

    `born` is when the process started, in the kernel's ticks. The other fields say which keys it has: see `claims`.
    """

    mountpoint: str
    source: str
    pid: int
    socket: str
    since: float
    born: int = 0
    journal: str = ""
    store: str = ""
    namespace: str = ""
    prefix: str = ""
    is_read_only: bool = False


def default_state_dir() -> Path:
    """Return $KVFS_STATE_DIR, or $XDG_STATE_HOME/kvfs; for root without a home `SYSTEM_DIR`."""
    if chosen := os.environ.get("KVFS_STATE_DIR"):
        return Path(os.path.abspath(chosen))
    if _is_system():
        return SYSTEM_DIR
    return Path(platformdirs.user_state_path("kvfs", appauthor=False)).absolute()


def _is_system() -> bool:
    """Return True for root without a home, as mount(8) and systemd call it."""
    variables = ("HOME", "XDG_STATE_HOME", "XDG_DATA_HOME")
    return os.geteuid() == 0 and not any(os.environ.get(name) for name in variables)


def default_data_dir() -> Path:
    """Return $XDG_DATA_HOME/kvfs: the embedded store of a bare `local:`."""
    if _is_system():
        return SYSTEM_DIR
    return Path(platformdirs.user_data_path("kvfs", appauthor=False)).absolute()


def state_name(text: str) -> str:
    """Return a file name that stands for `text`, in every locale."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def record_path(mountpoint: Path, state_dir: Path | None = None) -> Path:
    """Return the file that keeps the `MountRecord` of `mountpoint`."""
    return (state_dir or default_state_dir()) / "mounts" / f"{state_name(os.fspath(mountpoint))}.json"


def log_path(mountpoint: Path, state_dir: Path | None = None) -> Path:
    """Return the log file of a mount in the background, unless it was told another.

    A name that does not stand for one directory alone has a hash behind it.
    """
    text = os.fspath(mountpoint).strip("/")
    name = (
        re.sub(r"[^\w.]", "-", text).encode(errors="replace")[-_LOG_NAME:].decode(errors="ignore").lstrip(".")
    )
    is_plain = name == text.replace("/", "-") and "-" not in text and name
    rest = "" if is_plain else f"~{state_name(os.fspath(mountpoint))[:8]}"
    return record_path(mountpoint, state_dir).with_name(f"{name}{rest}.log")


def control_path(mountpoint: Path, state_dir: Path | None = None) -> Path:
    """Return `STATE/mounts/<hash>.sock`, or a shorter place when that is more than a socket address can hold."""
    path = record_path(mountpoint, state_dir).with_suffix(".sock")
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    # The state directory takes part in the name, or two of them would share the short place.
    name = state_name(os.fspath(path)) + ".sock"
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", "")) / "kvfs" / name
    if runtime.is_absolute() and len(os.fsencode(runtime)) <= SOCKET_PATH_BYTES:
        return runtime
    return Path("/tmp") / f"kvfs-{os.geteuid()}" / name


def requests_path(base_url: str, account: str) -> Path:
    """Return the file in which this user's processes count the requests of an account together.

    It is not in the directory of `--state-dir`, because mounts of several state directories share the account, and
    for root it is in `SYSTEM_DIR`, because mounts made at boot do.
    """
    chosen = os.environ.get("KVFS_STATE_DIR") or os.environ.get("XDG_STATE_HOME")
    state = SYSTEM_DIR if os.geteuid() == 0 and not chosen else default_state_dir()
    with suppress(UserError):  # the user of the file reports that it cannot be used
        private_directory(state)
        private_directory(state / "requests")
    return state / "requests" / state_name(f"{base_url}\n{account}")


def private_directory(path: Path) -> Path:
    """Make `path` (0700) if need be, and refuse one that somebody else controls; returns it.

    An existing directory keeps its mode, because it may serve others too, as /tmp does. What kvfs makes in it is
    private by itself. No directory above may be another user's: he could put his own in its place.
    """
    _check_above(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except FileExistsError as exc:
        raise UserError(f"{path} is in the way: it is not a directory") from exc
    except OSError as exc:
        raise UserError(f"cannot make the directory {path}: {exc.strerror}") from exc
    if stat.S_ISLNK(status.st_mode):
        raise UserError(f"{path} is a symbolic link: kvfs keeps its state in real directories only")
    _check_owner(path, status.st_uid)
    return path


def _check_above(path: Path) -> None:
    """Refuse a directory or symbolic link above `path` that belongs to another user, by name."""
    for above in (path.absolute(), Path(os.path.realpath(path.parent), path.name)):
        for parent in above.parents:
            try:
                _check_owner(parent, parent.lstat().st_uid)
            except FileNotFoundError:
                continue  # to be made
            except OSError as exc:
                raise UserError(f"cannot make the directory {path}: {parent}: {exc.strerror}") from exc


def _check_owner(path: Path, owner: int) -> None:
    if owner in (0, os.geteuid()) or owner == _nobody():
        return
    raise UserError(
        f"{path} belongs to uid {owner}, not to you (uid {os.geteuid()}):"
        " choose another with --state-dir or KVFS_STATE_DIR"
    )


def _nobody() -> int | None:
    """Return the number of root in a user namespace that does not map it (unprivileged container), else None."""
    try:
        covered = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
        if covered >= 2**32 - 1:
            return None
        return int(Path("/proc/sys/fs/overflowuid").read_text())
    except (OSError, ValueError, IndexError):
        return None


def write_record(record: object, path: Path) -> None:
    """Keep a record in `path`, as JSON. Raises OSError."""
    write_whole(path, json.dumps(msgspec.to_builtins(record)).encode())


def forget(record: MountRecord, path: Path) -> None:
    """Remove `record`; a later mount of the directory may have its own there, which stays."""
    found = read_record(path)
    if found is not None and (found.pid, found.since) == (record.pid, record.since):
        path.unlink(missing_ok=True)


def lives(pid: int) -> bool:
    """Return whether there is such a process; one that has ended and was not reaped yet is none."""
    return birth(pid) != 0


def birth(pid: int) -> int:
    """Return the start of a process in ticks since the machine's own; 0 for one that is not there."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def private_opener(name: str, flags: int) -> int:
    """Open a file for `open`, so that only this user can read it."""
    return os.open(name, flags | os.O_CLOEXEC, 0o600)


def write_whole(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the file `path` as a whole: nobody sees half of it. It gets `mode`, whatever the umask is."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
        Path(name).replace(path)
    except BaseException as exc:
        Path(name).unlink(missing_ok=True)
        if isinstance(exc, OSError) and exc.filename is None:  # on a full disk, for instance: name the file
            exc.filename = os.fspath(path)
        raise


def is_half(path: Path) -> bool:
    """Return whether `write_whole` made the file, and a kill kept it from its name."""
    return _HALF.search(path.name) is not None


def read_record(path: Path) -> MountRecord | None:
    """Return the record of a mount in `path`; None when there is none, or none that makes sense."""
    return read_as(MountRecord, path)


def read_as(kind: type[T], path: Path) -> T | None:
    """Return the value that a file of JSON holds; None when there is none, or none that makes sense."""
    try:  # with Python's parser, because a path may hold bytes that are no UTF-8
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except (OSError, ValueError, RecursionError):
        return None


def records(state_dir: Path) -> list[MountRecord]:
    """Return the mounts that were recorded and not taken back, by mount point; some may have died since."""
    found = (read_record(path) for path in (state_dir / "mounts").glob("*.json"))
    return sorted((record for record in found if record is not None), key=lambda record: record.mountpoint)
