"""Options of the command line: those of a mount, which are the fields of `Config`, and those of several commands.

An option `--write-back` is the field `write_back` and the environment variable KVFS_WRITE_BACK.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import click
from click.shell_completion import CompletionItem

from kvfs.cli.completing import PROFILE, Completed, paths, sources
from kvfs.config import Config
from kvfs.core.errors import InvalidError
from kvfs.host.state import default_state_dir
from kvfs.settings import DURATION, FLAG, LEVEL, PATH, SOME_DURATION, Kind, setting_of

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Decorator(Protocol):
    """Gives a command options."""

    def __call__(self, command: Decorated, /) -> Decorated:
        """Return the command with them."""


ON_MOUNTS: Final = frozenset({"umount", "status", "top", "sync", "log", "debug-bundle"})
"""Commands whose DIR is a mount."""


class KindType(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A kind of setting, for click."""

    def __init__(self, kind: Kind) -> None:
        self.name = kind.metavar
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text; what is no text is a value already."""
        try:
            return self._kind.parse(value) if isinstance(value, str) else value
        except InvalidError as exc:
            self.fail(str(exc), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return for a path the mount points of this user, where one is meant, or what the shell finds."""
        if self._kind is not PATH:
            return []
        of = param.name or ""
        if of == "directory" and ctx.info_name in ON_MOUNTS:
            of = "mountpoint"
        return paths(incomplete, of=of)


path: Final = KindType(PATH)
SOURCE: Final = Completed("source", sources)


def option(
    kind: Kind,
    name: str,
    text: str,
    default: Any = None,
    *,
    short: str = "",
    into: str = "",
    variable: bool = True,
    **more: Any,
) -> Decorator:
    """Make a click option of a kind, with the environment variable that goes with its name if it has one.

    Its value goes into the parameter `into`, by default that of its name.
    """
    found: dict[str, Any] = {"help": text, **more}
    if variable:
        found |= {"envvar": "KVFS_" + name.upper().replace("-", "_"), "show_envvar": True}
    if kind is FLAG:
        found["is_flag"] = True
    else:
        found["type"] = click.Choice(kind.words) if kind.words else KindType(kind)
        found["metavar"] = kind.metavar or None
        # as text, because it is shown as well
        found |= {"default": None if default is None else kind.word(default)}
        found["show_default"] = bool(found["default"]) or None
    return click.option(*filter(None, (short, f"--{name}", into)), **found)


def flag(*words: str) -> Decorator:
    """Make a switch of its names and, last, its help."""
    *names, text = words
    return click.option(*names, is_flag=True, help=text)


def grouped(*decorators: Decorator) -> Decorator:
    """Make one decorator of several options, in their order."""

    def decorate(command: Decorated) -> Decorated:
        for one in reversed(decorators):
            command = one(command)
        return command

    return decorate


def _of_field(one: "dataclasses.Field[Any]", **more: Any) -> Decorator:
    found = setting_of(one)
    assert found is not None
    default = None if one.default is dataclasses.MISSING else one.default
    return option(found.kind, one.name.replace("_", "-"), found.help, default, **more)


KINDS: Final = {
    one.name: found.kind for one in dataclasses.fields(Config) if (found := setting_of(one)) is not None
}
"""By the name of a field."""

CONFIG: Final = {one.name: _of_field(one) for one in dataclasses.fields(Config) if one.name in KINDS}
"""The options of a mount by the names of fields."""

mount_options: Final = grouped(*CONFIG.values())
"""Gives a command every option of a mount."""

STATE_DIR: Final = _of_field(
    Config.__dataclass_fields__["state_dir"],
    into="state",
    callback=lambda *found: found[-1] or default_state_dir(),
)
"""For the commands that look for a running mount; they get the directory as `state`."""

credential_options: Final = grouped(
    option(PATH, "token-file", "Read the API token from this file (mode 600)."),
    option(Kind("COMMAND", str), "token-command", "Use the token that COMMAND prints."),
    option(FLAG, "insecure", "Allow sending a token over plain http to another machine."),
    option(FLAG, "preview", "Use the preview_id of cloudflare:@BINDING.", variable=False),
)
"""How the account behind a source is reached."""

LOG_LEVEL: Final = option(LEVEL, "log-level", "Log messages of this level and above.", "info")
YES: Final = option(FLAG, "yes", "Do not ask.", short="-y", variable=False)
QUIET: Final = option(FLAG, "quiet", "Show no progress.", variable=False)
DRY_RUN: Final = option(
    FLAG, "dry-run", "Say what the command would do, and write nothing.", short="-n", variable=False
)
STOP: Final = option(
    DURATION, "timeout", "Stop sending after this time.  [default: that of the mount]", variable=False
)
INTERVAL: Final = option(SOME_DURATION, "interval", "Draw again after this time.", 1.0, variable=False)
FORMAT: Final = click.option(
    "--format", "format_", metavar="FORMAT", help="Read or write json, ndjson or tar, with .gz or .zst."
)
PREFIX: Final = click.option("--prefix", default="", help="Take only keys that begin with this text.")
MATCH: Final = click.option(
    "--match",
    multiple=True,
    metavar="PATTERN",
    help="Take only keys that match (* and ?); with several, any one.",
)
WHERE: Final = click.option(
    "--where",
    multiple=True,
    metavar="CONDITION",
    help="Take only keys with such metadata; with several, all of them.",
)
IN_FULL: Final = flag("-l", "--long", "is_long", "Show expirations and metadata too.")


def named_profile(text: str, *, variable: bool = True, **more: Any) -> Decorator:
    """Make `--profile`, whose meaning `text` tells."""
    if variable:
        more |= {"envvar": "KVFS_PROFILE", "show_envvar": True}
    return click.option("--profile", type=PROFILE, metavar="NAME", help=text, **more)


def json_option(text: str = "Print one JSON array, as docs/status.md describes it.") -> Decorator:
    """Make `--json`, whose output `text` tells."""
    return flag("--json", "as_json", text)


def config_arguments(config: Config) -> list[str]:
    """Return options that make the same `Config` again, without its source and mount point."""
    arguments = []
    for name, kind in KINDS.items():
        value = getattr(config, name)
        if value is None or value is False:
            continue
        flag = "--" + name.replace("_", "-")
        arguments.append(flag if value is True else f"{flag}={kind.word(value)}")
    return arguments
