"""The options of `kvfs mount`, one for each field of `Config`, and the way back from a `Config` to options.

An option `--write-back` is the field `write_back` and the environment variable KVFS_WRITE_BACK.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from kvfs.cli.completing import Completed, paths, sources
from kvfs.cli.fstab import FLAGS
from kvfs.cli.logs import LEVELS
from kvfs.config import Config, parse_size
from kvfs.core.errors import InvalidError, UserError
from kvfs.core.limits import RATE_REQUESTS, RATE_SECONDS
from kvfs.core.patterns import LOCAL_PATTERNS
from kvfs.history.allowance import Bounds, parse_bounds

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


def seconds(text: str) -> float:
    """Parse zero or more seconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise click.BadParameter(f"{text!r} is not a number of seconds")
    return number


def some_seconds(text: str) -> float:
    """Parse more than zero seconds."""
    if (number := seconds(text)) == 0:
        raise click.BadParameter("it must be more than 0 seconds")
    return number


def size(text: str) -> int:
    """Parse bytes, from a number that may have a unit."""
    try:
        return parse_size(text)
    except UserError as exc:
        raise click.BadParameter(str(exc)) from exc


def history(text: str) -> Bounds:
    """Parse an age and a size, as in `7d,1G`; 0 for none."""
    try:
        return parse_bounds(text)
    except InvalidError as exc:
        raise click.BadParameter(str(exc)) from exc


def octal(text: str) -> int:
    """Parse a mask of permissions."""
    if not re.fullmatch("[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise click.BadParameter(f"{text!r} is not an octal mask like 022")
    return int(text, 8)


def patterns(text: str) -> tuple[str, ...]:
    """Parse words."""
    return tuple(text.split())


def mount_flags(text: str) -> tuple[str, ...]:
    """Parse words for the kernel, as in mount(8)."""
    words = tuple(text.split())
    for word in words:
        if word not in FLAGS:
            raise click.BadParameter(f"{word!r} is none of {', '.join(sorted(FLAGS))}")
    return words


ON_MOUNTS: Final = frozenset({"umount", "status", "top", "sync", "log", "debug-bundle"})
"""Commands whose DIR is a mount."""


class _PathType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """An absolute path, because the daemon has another working directory.

    It is completed with mounts and directories.
    """

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path that the text names."""
        return Path(os.path.abspath(os.path.expanduser(value)))  # Path.expanduser raises for an unknown user

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the mount points of this user, where one is meant, or what the shell finds."""
        of = param.name or ""
        if of == "directory" and ctx.info_name in ON_MOUNTS:
            of = "mountpoint"
        return paths(incomplete, of=of)


path: Final = _PathType()
SOURCE: Final = Completed("source", sources)


def separator(text: str) -> str:
    """Parse one character, or none."""
    if len(text) > 1 or text == "\0":
        raise click.BadParameter(f"a separator is one character or none, not {text!r}")
    return text


def option(name: str, **settings: Any) -> Callable[[_Decorated], _Decorated]:
    """Make a click option with the environment variable that goes with its name."""
    variable = "KVFS_" + name.upper().replace("-", "_")
    shown = not settings.get("is_flag") and settings.get("default") is not None
    return click.option(f"--{name}", envvar=variable, show_envvar=True, show_default=shown, **settings)


def _flag(name: str, text: str) -> Callable[[_Decorated], _Decorated]:
    return option(name, is_flag=True, help=text)


def _number(
    name: str, text: str, default: object, kind: object = seconds
) -> Callable[[_Decorated], _Decorated]:
    metavar = "SECONDS" if kind in (seconds, some_seconds) else "SIZE" if kind is size else "NUMBER"
    return option(name, type=kind, metavar=metavar, default=default, help=text)


def _choice(name: str, text: str, *words: str) -> Callable[[_Decorated], _Decorated]:
    return option(name, type=click.Choice(words), default=words[0], help=text)


_ID: Final = click.IntRange(0, 2**32 - 2)
_LOCAL: Final = " ".join(LOCAL_PATTERNS)

_OPTIONS: Final = (
    option("separator", type=separator, default="/", help="Splits keys into directories; '' for none."),
    _number("write-back", "Send changes this long after the last one.", 5.0),
    _number("cache-ttl", "How long cached data is used before asking again.", 60.0),
    _number("cache-size", "Memory for values that were read.", "256M", size),
    _number("timeout", "Longest wait of any call for the server, fsync included.", 30.0, some_seconds),
    _number("drain-timeout", "How long an ending mount goes on sending.", 60.0),
    _flag("read-only", "Refuse every change."),
    _flag("require-server", "Fail when the server is away, though the source was mounted before."),
    _flag("allow-other", "Let other users use the mount, as file permissions say."),
    option("uid", type=_ID, metavar="ID", help="Owner of all files.  [default: you]"),
    option("gid", type=_ID, metavar="ID", help="Group of all files.  [default: yours]"),
    option("umask", type=octal, default="022", help="Permission bits removed from new files."),
    _flag("durable-close", "Closed files survive power loss too (slower)."),
    _choice("on-conflict", "What to do when a value changed since it was read.", "keep-both", "overwrite"),
    _number("max-pending", "Limit of unsent bytes; beyond it ENOSPC.", "10G", size),
    _choice("sizes", "exact reads a value to know its size; known does not.", "exact", "known"),
    _choice("expiration", "What sets and shows when a key expires.", "mtime", "attribute"),
    option("local-names", type=patterns, default=_LOCAL, help="Names of files that are never sent."),
    option(
        "history",
        type=history,
        metavar="AGE,SIZE",
        default="7d,1G",
        help="How much of what is overwritten or deleted is kept for kvfs restore; 0: nothing.",
    ),
    _number("poll-interval", "List again this often; 0: only when a program asks.", 0.0),
    _number("rate-requests", "Limit of requests in a window of time.", RATE_REQUESTS, click.IntRange(1)),
    _number("rate-seconds", "Length of the window.", float(RATE_SECONDS), some_seconds),
    _number("settle", "How long to show your version of a key after a write.", 90.0),
    option("state-dir", type=path, help="Journal, socket, log.  [default: XDG state directory]"),
    _choice("log-level", "How much is logged.", *LEVELS),
    _choice("log-format", "json: one object a line, for machines.", "text", "json"),
    option("mount-flags", type=mount_flags, metavar="WORDS", help="noexec nosuid nodev noatime."),
    option("log-file", type=path, help="Write the log there.  [default: in the state directory]"),
)

STATE_DIR: Final = option("state-dir", type=path, help="Where the mount keeps its state.")
"""For the commands that look for a running mount."""


def mount_options(command: _Decorated) -> _Decorated:
    """Give `command` every option of a mount."""
    for decorate in reversed(_OPTIONS):
        command = decorate(command)
    return command


def config_arguments(config: Config) -> list[str]:
    """Return options that make the same `Config` again, without its source and mount point."""
    arguments = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("source", "mountpoint") or value is None or value is False:
            continue
        flag = "--" + field.name.replace("_", "-")
        arguments.append(flag if value is True else f"{flag}={_word(field.name, value)}")
    return arguments


def _word(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    if name == "umask":
        return f"{value:03o}"
    return str(value)
