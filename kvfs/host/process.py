"""Processes. This one, before anything else: standard descriptors, the encoding of names, the limit of open files.

Belongs here: corrections of anything that a shell, cron or a service manager left out or set low. And facts that the
kernel tells of other processes.
"""

import gc
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

COLLECTED: Final = (30_000, 10, 10)  # containers more than before, and rounds, until it looks at older ones
_STANDARD: Final = (0, 1, 2)


def fill_standard_descriptors() -> None:
    """Open /dev/null for each standard descriptor that is closed. Must run before anything opens a file.

    Otherwise the next pipe or socket takes the number, and whatever is printed goes into it.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)  # the lowest number is free
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def use_utf8_names() -> None:
    """Start this process anew in Python's UTF-8 mode when its locale has another encoding of file names.

    Keys and titles are UTF-8 wherever they come from, and a source must find its journal in every locale.
    Python has the mode on in the C locale; other encodings (ISO 8859-1) get it here. It does not return then.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    encoding = sys.stdout.encoding if sys.stdout is not None else "ascii"
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def collect_rarely() -> None:
    """Let Python look for cycles among new objects after tens of thousands, and not after two thousand.

    What a program imports stays, and so do files that it makes: it would look at them three times.
    """
    gc.set_threshold(*COLLECTED)


def raise_file_limit() -> int:
    """Raise the limit of open files as far as this process may; returns what it is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def process_of(thread: int) -> tuple[int, str] | None:
    """Return the process of a thread and the name of its program; None when it is gone.

    It reads only files that take no lock of the other process's memory, because that may wait for us in a page fault.
    """
    found = _start_of(f"/proc/{thread}/status")
    fields = dict(line.partition(b":\t")[::2] for line in found.split(b"\n")) if found is not None else {}
    try:
        process = int(fields[b"Tgid"])
    except (KeyError, ValueError):
        return None
    return process, command_of(process) or "?"


def command_of(process: int) -> str | None:
    """Return the name of the program of a process, at most 15 bytes; None when it is gone."""
    found = _start_of(f"/proc/{process}/comm")
    return os.fsdecode(found.rstrip(b"\n")) if found is not None else None


def _start_of(path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.read(descriptor, 512)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def import_nothing_below(directory: Path) -> None:
    """Look for no module there from now on, *because* the process that serves a mount would wait for itself.

    A daemon in the foreground may have been started in the directory that it mounts on, and imports a few modules late.
    """
    sys.path[:] = [place for place in sys.path if not Path(os.path.realpath(place)).is_relative_to(directory)]
