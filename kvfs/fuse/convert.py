"""Ours → the kernel's: attributes and errors. The one place that knows errno."""

import errno
import stat
from typing import Any, Final

import pyfuse3

from kvfs.core import errors
from kvfs.vfs.filesystem import Usage
from kvfs.vfs.view.types import Attr

BLOCK: Final = 4096
CAPACITY: Final = 1 << 50  # bytes shown as the size: paid accounts have no limit
FILES: Final = 1 << 40
_DIRECTORY: Final = stat.S_IFDIR
_FILE: Final = stat.S_IFREG
FILE_BLOCK: Final = 128 * 1024  # the buffer size of cp and cat
DIRECTORY_BLOCK: Final = 1024 * 1024  # glibc sizes getdents by it: thousands of entries a call

ERRNO: Final[dict[type[errors.KvfsError], int]] = {
    errors.NotFoundError: errno.ENOENT,
    errors.ExistsError: errno.EEXIST,
    errors.NotEmptyError: errno.ENOTEMPTY,
    errors.NotADirectoryError_: errno.ENOTDIR,
    errors.IsADirectoryError_: errno.EISDIR,
    errors.NameTooLongError: errno.ENAMETOOLONG,
    errors.NameNotTextError: errno.EILSEQ,
    errors.InvalidError: errno.EINVAL,
    errors.FileTooBigError: errno.EFBIG,
    errors.NoSpaceError: errno.ENOSPC,
    errors.NoAttributeError: errno.ENODATA,
    errors.NotSupportedError: errno.ENOTSUP,
    errors.NotPermittedError: errno.EPERM,
    errors.CrossDeviceError: errno.EXDEV,
    errors.StaleError: errno.ESTALE,
    errors.BadHandleError: errno.EBADF,
    errors.TimedOutError: errno.ETIMEDOUT,
    errors.QuotaError: errno.EDQUOT,
    errors.AccountError: errno.EDQUOT,
    errors.DeniedError: errno.EACCES,
    errors.FixedNamespacesError: errno.EPERM,
    errors.NamespaceNotFoundError: errno.ENOENT,
    errors.TitleExistsError: errno.EEXIST,
    errors.RejectedError: errno.EIO,
    errors.UnavailableError: errno.EIO,
    errors.JournalFullError: errno.ENOSPC,
    errors.KvfsError: errno.EIO,
}
"""The nearest class in an error's ancestry counts."""


def errno_of(error: errors.KvfsError) -> int:
    """Return the errno of an error."""
    for kind in type(error).__mro__:
        if kind in ERRNO:
            return ERRNO[kind]
    return errno.EIO


def name_of(number: int) -> str:
    """Return an errno's name, for the log."""
    return errno.errorcode.get(number, str(number))


NOT_SUPPORTED: Final = errno.ENOTSUP
INPUT_OUTPUT: Final = errno.EIO
READ_ONLY: Final = errno.EROFS
NOT_PERMITTED: Final = errno.EPERM
INVALID: Final = errno.EINVAL


def attributes(attr: Attr, uid: int, gid: int) -> pyfuse3.EntryAttributes:
    """Return stat(2) as pyfuse3 wants it. The caller must not change it: a directory's is made once for its stream."""
    if attr.told is not None:
        return attr.told  # type: ignore[return-value]  # a cast would be a call
    entry = pyfuse3.EntryAttributes()  # of generation 0
    entry.st_ino = attr.ino  # InodeT would be a call, and so would ModeT
    entry.entry_timeout = attr.entry_timeout
    entry.attr_timeout = attr.attr_timeout
    if attr.is_directory:
        entry.st_mode = _DIRECTORY | attr.mode
        entry.st_blksize = DIRECTORY_BLOCK
        attr.told = entry
    else:
        entry.st_mode = _FILE | attr.mode
        entry.st_blksize = FILE_BLOCK
    entry.st_nlink = attr.links
    entry.st_uid = uid
    entry.st_gid = gid
    if attr.size:
        resize(entry, attr.size)
    entry.st_atime_ns = attr.atime_ns
    entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    return entry


def retold(attr: Attr, uid: int, gid: int, *, is_changed: bool) -> pyfuse3.EntryAttributes:
    """Return `attributes` of an `Attr` that is told more than once: made once, and brought up to date if it changed.

    Only number, size and time-outs may have changed.
    """
    entry: Any = attr.told  # a cast would be a call
    if entry is None:
        attr.told = entry = attributes(attr, uid, gid)
    elif is_changed:
        entry.st_ino = attr.ino
        entry.entry_timeout, entry.attr_timeout = attr.entry_timeout, attr.attr_timeout
        if entry.st_size != attr.size:
            resize(entry, attr.size)
    made: pyfuse3.EntryAttributes = entry
    return made


def resize(entry: pyfuse3.EntryAttributes, size: int) -> None:
    """Set another size, in bytes, and what follows from it."""
    entry.st_size = size
    entry.st_blocks = (size + 511) // 512


def absent(timeout: float) -> pyfuse3.EntryAttributes:
    """Return a negative answer that the kernel may remember for so many seconds."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = timeout
    entry.attr_timeout = timeout
    return entry


def usage(known: Usage) -> pyfuse3.StatvfsData:
    """Return the figures of df: keys and bytes that are known, of more than anybody will use."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK
    data.f_blocks = CAPACITY // BLOCK
    data.f_bfree = data.f_bavail = max(1, (CAPACITY - known.bytes) // BLOCK)
    data.f_files = FILES
    data.f_ffree = data.f_favail = max(1, FILES - known.keys)
    data.f_namemax = 255
    return data
