"""Where the daemon's log goes: stderr in the foreground, else a 0600 file that never grows without bound."""

import io
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError

LEVELS: Final = ("info", "debug", "warning", "error")  # the first is the default
FILE_BYTES: Final = 5 * 1024 * 1024
FILES_KEPT: Final = 3


class _PrivateFileHandler(RotatingFileHandler):
    """A rotating log that only its owner can read."""

    def _open(self) -> io.TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=_private)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def set_up_logging(level: str, file: Path | None) -> None:
    """Send the log of this process to `file`, or to stderr; called once."""
    handler: logging.Handler
    try:
        if file is None:
            handler = logging.StreamHandler(sys.stderr)
        else:
            handler = _PrivateFileHandler(file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT)
    except OSError as exc:
        raise UserError(f"cannot write the log {file}: {exc.strerror}") from exc
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries
    logging.getLogger("kvfs").setLevel(level.upper())
