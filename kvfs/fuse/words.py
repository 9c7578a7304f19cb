"""A call of the kernel in words for the log: what was asked of which path."""

import inspect
from collections.abc import Callable
from typing import Any

from kvfs.vfs.file.handles import DirectoryHandle, FileHandle
from kvfs.vfs.filesystem import FileSystem

_INODES = ("inode", "parent")
_SAID = {"setattr": "change of attributes", "getattr": "stat", "lookup": "lookup", "flush": "close"}


def words(fs: FileSystem, handler: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return `fsync of 'ns/dir/file'`, `rename of 'a' to 'b'`. It never raises, because a log must not end a mount."""
    name = handler.__name__
    try:
        paths = [repr(path) for path in _paths(fs, handler, args)]
    except Exception:
        paths = []
    said = _SAID.get(name, name)
    return f"{said} of {' to '.join(paths)}" if paths else said


def _paths(fs: FileSystem, handler: Callable[..., Any], args: tuple[Any, ...]) -> list[str]:
    """Return the files that the arguments of a handler name, in order."""
    found: list[str] = []
    directory = ""
    for name, value in zip(list(inspect.signature(handler).parameters)[1:], args, strict=False):
        if name == "fh":
            found += [path for path in _of_handle(fs, value) if path not in found]
        elif isinstance(value, bytes) and name.startswith(("name", "new_name")) and directory:
            text = value.decode(errors="replace")
            found.append(text if directory == "." else f"{directory}/{text}")
        elif isinstance(value, bytes) and name == "name":  # the name of an attribute
            found[-1:] = [f"{path} ({value.decode(errors='replace')})" for path in found[-1:]]
        elif isinstance(value, int) and any(word in name for word in _INODES):
            path = fs.paths.of_node(fs.inodes.get(value))
            if "parent" in name:
                directory = path
            else:
                found.append(path)
    return found


def _of_handle(fs: FileSystem, value: object) -> list[str]:
    handle = fs.handles.get(value) if isinstance(value, int) else None
    if isinstance(handle, FileHandle):
        return [fs.paths.of_node(handle.node)]
    if isinstance(handle, DirectoryHandle):
        return [fs.paths.of_node(fs.inodes.get(handle.ino))]
    return []
