"""Finding a running `wrangler dev` by the state directory that it uses, on this machine.

workerd keeps `metadata.sqlite` of each kind of state open, and SQLite holds a POSIX read lock on an open file in WAL
mode. `F_GETLK` names the process that holds it, and that process answers the local explorer's API on one of its
ports. kvfs never opens these files with SQLite, because closing one would give up locks of its own.
"""

import fcntl
import os
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from kvfs.store.miniflare import layout

_SHARED_FIRST: Final = 0x40000002  # the bytes that a reader of an SQLite database locks
_SHARED_SIZE: Final = 510
_FLOCK: Final = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, pid


def owner_of(state: Path) -> int | None:
    """Return the process that uses the state directory, or None; 0 for one in another container.

    Only known on Linux: elsewhere the answer is None.
    """
    if sys.platform != "linux":
        return None
    for file in (layout.kv_directory(state) / layout.OBJECTS).glob("metadata.sqlite"):
        with suppress(OSError):
            owner = _lock_holder(file)
            if owner is not None:
                return owner
    return None


def route_of(state: Path, origin: str = "") -> str:
    """Return the way that writes to a state directory take now; `origin` is where its dev server is known to answer."""
    owner = owner_of(state)
    if owner is None:
        return f"no wrangler dev runs: the files in {state} are used"
    at = f" at {origin}" if origin else ""
    return f"wrangler dev (process {owner}) is written through{at}, and read from {state}"


def _lock_holder(file: Path) -> int | None:
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if answer[0] == fcntl.F_UNLCK else max(int(answer[4]), 0)


def origins_of(pid: int) -> Iterator[str]:
    """Return `http://127.0.0.1:PORT` for each port on which a process of this user listens. Blocks for a moment."""
    sockets = set(_sockets(Path(f"/proc/{pid}/fd")))
    for table, host in (("tcp", "127.0.0.1"), ("tcp6", "[::1]")):
        for address, port, inode in _listening(Path(f"/proc/{pid}/net/{table}")):
            if inode in sockets:
                any_address = set(address) == {"0"}
                yield f"http://{'127.0.0.1' if any_address else host}:{port}"


def _sockets(descriptors: Path) -> Iterator[str]:
    with suppress(OSError):
        for entry in descriptors.iterdir():
            with suppress(OSError):
                found = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
                if found:
                    yield found[1]


def _listening(table: Path) -> Iterator[tuple[str, int, str]]:
    """Yield address in hex, port and inode of each listening socket."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split()
        if words[3] == "0A":
            address, _, port = words[1].partition(":")
            yield address, int(port, 16), words[9]
