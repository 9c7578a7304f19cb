"""Token files: read for requests and by our own server, under the same conditions."""

import os
import re
import stat
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError

_LONGEST: Final = 4096  # bytes


def usable_token(token: str) -> bool:
    """Return whether a header can hold it."""
    return re.fullmatch(r"[!-~]+", token) is not None


def read_token_file(path: Path, *, forbidden: int = 0o077, is_ours: bool = False) -> str:
    """Return the text of a token file that nobody else can read; `UserError` says what to do about others.

    `is_ours`: it must belong to this user, and must be no link, *because* a link may lead to anybody's file.
    """
    wanted = os.O_NONBLOCK | (os.O_NOFOLLOW if is_ours else 0)  # a pipe would wait for a writer
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | wanted)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"token file {path} is not a regular file")
            if is_ours and status.st_uid != os.geteuid():
                raise UserError(f"token file {path} belongs to another user")
            if status.st_mode & forbidden:
                raise UserError(f"token file {path} can be read by others: chmod 600 {path}")
            return file.read(_LONGEST).decode("ascii", errors="replace")
    except OSError as exc:
        raise UserError(f"token file {path}: {exc.strerror}") from exc
