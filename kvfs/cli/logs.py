"""The destination of the daemon's log: stderr in the foreground, else a 0600 file of bounded size."""

import io
import json
import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from kvfs.core.errors import UserError
from kvfs.core.text import one_line
from kvfs.host.state import private_opener

FILE_BYTES: Final = 5 * 1024 * 1024
FILES_KEPT: Final = 3


class _PrivateFileHandler(RotatingFileHandler):
    """A rotating log that only its owner can read."""

    def _open(self) -> io.TextIOWrapper:
        return open(
            self.baseFilename, "a", encoding="utf-8", errors="backslashreplace", opener=private_opener
        )

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop a line that the disk has no room for, without any other effect."""


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (epoch seconds), level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _OneLine(logging.Formatter):
    """Formats a message as one line, whatever names it holds; only a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message)
        return super().formatMessage(record)


def set_up_logging(level: str, file: Path | None, *, as_json: bool = False) -> None:
    """Send the log of this process to `file`, or to stderr; called once."""
    handler: logging.Handler
    try:
        if file is None:
            handler = logging.StreamHandler(sys.stderr)
        else:
            handler = _PrivateFileHandler(file, maxBytes=FILE_BYTES, backupCount=FILES_KEPT)
    except OSError as exc:
        raise UserError(f"cannot write the log {file}: {exc.strerror}") from exc
    text = _OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if as_json else text)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries
    logging.getLogger("kvfs").setLevel(level.upper())
