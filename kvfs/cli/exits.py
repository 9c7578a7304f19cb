"""The one guard of the command line: every failure ends as one line and an exit status.

An exception that kvfs did not foresee goes with its traceback to a file of the state directory, and the line names it.
"""

import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from enum import IntEnum

import click

from kvfs import __version__
from kvfs.cli.output import complain
from kvfs.core.errors import KvfsError
from kvfs.host.state import default_state_dir, private_directory, private_opener


class Exit(IntEnum):
    """Exit statuses; docs/usage.md lists them for users."""

    OK = 0
    FAILED = 1
    USAGE = 2
    LEFT = 3
    """Something is still pending or rejected, or was changed elsewhere meanwhile: it is kept, and was listed."""
    INTERRUPTED = 130


def guarded(run: Callable[[], object]) -> int:
    """Return the exit status of `run`; its exceptions become a line on stderr."""
    try:
        result = run()
        sys.stdout.flush()
    except BrokenPipeError:  # `kvfs status | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except (Exception, KeyboardInterrupt) as exc:
        message, status = describe(exc)
        complain(message)
        return status
    return result if isinstance(result, int) else Exit.OK


def describe(exc: BaseException) -> tuple[str, int]:
    """Return the line for a user and the exit status of an exception."""
    if isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        return describe(exc.exceptions[0])
    match exc:
        case KeyboardInterrupt() | click.Abort():
            return "interrupted", Exit.INTERRUPTED
        case click.UsageError():
            command = exc.ctx.command_path if exc.ctx is not None else "kvfs"
            return f"{exc.format_message()} ({command} --help shows how)", Exit.USAGE
        case click.ClickException():
            return exc.format_message(), Exit.FAILED
        case KvfsError():
            return str(exc), Exit.FAILED
        case OSError():
            place = f"{exc.filename}: " if exc.filename is not None else ""
            return f"{place}{exc.strerror or exc}", Exit.FAILED
    return f"internal error ({type(exc).__name__}){_keep_traceback(exc)}", Exit.FAILED


def _keep_traceback(exc: BaseException) -> str:
    """Append the traceback to the file of errors; return where that is."""
    try:
        path = private_directory(default_state_dir()) / "errors.log"
        with open(path, "a", opener=private_opener) as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} kvfs {__version__} pid {os.getpid()}\n")
            file.writelines(traceback.format_exception(exc))
    except (OSError, KvfsError):
        return ", and there is no place to write the traceback to"
    return f": please report it with the traceback in {path}"
