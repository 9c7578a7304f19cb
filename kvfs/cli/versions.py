"""Answers of a daemon of another version: one message that names both versions and the way out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from kvfs import __version__
from kvfs.core.errors import KvfsError
from kvfs.host.control import Client, ControlError, connect
from kvfs.host.requests import MetricsRequest

STRANGE: Final = "strange"
"""The kind of the error."""
_KINDS: Final = ("unknown", "malformed")  # kinds of errors that only another version makes
_SECONDS: Final = 2.0  # that a daemon may take to say its version
_VERSION: Final = re.compile(r'^kvfs_mount_info\{.*version="([^"]*)"', re.MULTILINE)


@contextmanager
def understood(client: Client) -> Iterator[None]:
    """Read answers of a daemon. Raises `ControlError`, which names the versions, when the two do not understand."""
    try:
        yield
    except msgspec.ValidationError as exc:
        raise strange(client, f"its answer has another form: {exc}") from exc
    except ControlError as exc:
        if exc.kind not in _KINDS:
            raise
        raise strange(client, str(exc)) from exc


def strange(client: Client, what: str) -> ControlError:
    """Return the error for something that only a daemon of another version does."""
    return ControlError(
        f"process {client.pid}, which serves the mount, runs kvfs {_version(client) or 'of another version'} and this"
        f" command is of kvfs {__version__} ({what}): unmount it, and mount it again",
        kind=STRANGE,
    )


def _version(client: Client) -> str:
    """Ask the daemon for its version on a connection of its own, because the other may have half an answer."""
    try:
        with connect(Path(client.path)) as again:
            (*_, answer) = again.ask(msgspec.to_builtins(MetricsRequest()), silence=_SECONDS)
    except (KvfsError, OSError):
        return ""
    found = _VERSION.search(str(answer.get("text", "")))
    return found[1] if found is not None else ""
