"""The question if a file lies in memory, where no sync waits for a disk."""

import os
from pathlib import Path
from typing import Final

_MOUNTINFO: Final = Path("/proc/self/mountinfo")  # see proc(5)
_IN_MEMORY: Final = {b"tmpfs", b"ramfs"}


def is_in_memory(path: Path) -> bool:
    """Return True if the file system of `path`, which must be there, is one of memory."""
    device = path.stat().st_dev
    wanted = b"%d:%d" % (os.major(device), os.minor(device))
    try:
        lines = _MOUNTINFO.read_bytes().splitlines()
    except OSError:
        return False
    return any(
        fields[2] == wanted and fields[fields.index(b"-") + 1] in _IN_MEMORY
        for fields in map(bytes.split, lines)
    )
