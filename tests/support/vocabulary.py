"""The words of the examples in tables: the names of `os`, and calls of Linux that it lacks."""

import ast
import ctypes
import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.mounted import REPOSITORY

MiB = 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


def run_code(code: str, names: dict[str, Any]) -> object:
    """Run statements; return the value of the last if it is an expression."""
    body = ast.parse(code).body
    last = body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module(body, []), "example", "exec"), names)
        return None
    exec(compile(ast.Module(body[:-1], []), "example", "exec"), names)
    return eval(compile(ast.Expression(last.value), "example", "eval"), names)


def vocabulary() -> dict[str, Any]:
    """Return the names of `os`, and things that it lacks: locks, flags, a few calls of the C library."""
    names = {name: value for name, value in vars(os).items() if not name.startswith("_")}
    names |= {name: getattr(fcntl, name) for name in dir(fcntl) if name.startswith(("LOCK_", "F_"))}
    names |= {"flock": fcntl.flock, "lockf": fcntl.lockf, "ioctl": fcntl.ioctl, "mmap": mmap.mmap}
    names |= {"FALLOC_FL_KEEP_SIZE": 1, "FALLOC_FL_PUNCH_HOLE": 2, "FS_IOC_GETFLAGS": 0x80086601}
    names |= {"RENAME_NOREPLACE": 1, "RENAME_EXCHANGE": 2, "RENAME_WHITEOUT": 4}
    names |= {"renameat2": _renameat2, "fallocate": _fallocate, "MiB": MiB, "now": lambda: int(time.time())}
    names |= {"content": _content, "save": _save, "key": key_of, "elsewhere": _elsewhere}
    names |= {"watched": _watched}
    return names


def _content(name: str) -> bytes:
    return Path(name).read_bytes()


def _save(name: str, value: bytes) -> None:
    Path(name).write_bytes(value)


def key_of(name: str | Path) -> str:
    return os.getxattr(name, "user.kvfs.key").decode()


def _elsewhere(code: str) -> object:
    """Evaluate an expression in another process; return its result, or the name of its errno."""
    program = (
        "import sys, errno; from support.vocabulary import run_code, vocabulary\n"
        "try: print(repr(run_code(sys.argv[1], vocabulary())))\n"
        "except OSError as exc: print(repr(errno.errorcode[exc.errno]))"
    )
    env = dict(os.environ) | {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", program, code], env=env, capture_output=True, text=True, check=True
    )
    return ast.literal_eval(done.stdout)


def _watched(act: Callable[[], object]) -> list[str]:
    """Return the names that inotify reports in the working directory while something is done."""
    watch = _checked(_libc.inotify_init1(os.O_NONBLOCK))
    try:
        _checked(_libc.inotify_add_watch(watch, b".", 0xFFF))
        act()
        events, names, at = os.read(watch, 65536), set(), 0
        while at < len(events):
            length = int.from_bytes(events[at + 12 : at + 16], sys.byteorder)
            names.add(events[at + 16 : at + 16 + length].rstrip(b"\0").decode())
            at += 16 + length
        return sorted(names - {""})
    except BlockingIOError:
        return []
    finally:
        os.close(watch)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _renameat2(old: str, new: str, flags: int) -> int:
    return _checked(_libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def _fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    return _checked(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))
