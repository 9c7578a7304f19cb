"""`kvfs config`: the options that a mount would have, and the origin of each."""

import os
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from kvfs.cli.exits import Exit
from kvfs.cli.helping import HelpGroup
from kvfs.cli.mount import mount
from kvfs.cli.options import CONFIG, KINDS, json_option, named_profile
from kvfs.cli.output import printable, say, say_json
from kvfs.host.profiles import config_file, profile_names, settings_of

_OWN: Final = {"profile", "ready_fd", "in_fstab", "foreground", "source", "directory"}


@click.group(cls=HelpGroup)
def config() -> None:
    """Show the options of a mount, and where each comes from."""


@config.command()
@named_profile("Include the options of this profile.", variable=False)
@json_option("Print one JSON object, for programs.")
@CONFIG["state_dir"]
def show(profile: str | None, as_json: bool, state_dir: Path | None) -> int:
    """Show every option of `kvfs mount` with its value and its origin."""
    file = config_file(os.environ)
    rows = _options(profile, state_dir)
    if as_json:
        options = [row | {"value": _json_value(row)} for row in rows]
        say_json({"file": str(file), "profiles": profile_names(file), "options": options})
        return Exit.OK
    found = "" if file.exists() else " (there is none)"
    say(f"configuration file {file}{found}; profiles: {', '.join(profile_names(file)) or 'none'}")
    width = max(len(row["option"]) for row in rows)
    for row in rows:
        click.echo(f"{row['option']:<{width}}  {printable(_word(row))}  ({row['origin']})")
    return Exit.OK


def _options(profile: str | None, state_dir: Path | None) -> list[dict[str, Any]]:
    """Return long name, value and origin of each option, as the real command line finds them."""
    words = [] if profile is None else [f"--profile={profile}"]
    words += [] if state_dir is None else [f"--state-dir={state_dir}"]
    context = mount.make_context("kvfs mount", words, resilient_parsing=True)
    origins = settings_of(config_file(os.environ), profile or os.environ.get("KVFS_PROFILE") or None).origins
    found = []
    for param in mount.params:
        if isinstance(param, click.Option) and param.name is not None and param.name not in _OWN:
            option = param.name.replace("_", "-")
            origin = _origin(context.get_parameter_source(param.name), param, origins.get(option, ""))
            found.append({"option": option, "value": context.params.get(param.name), "origin": origin})
    return sorted(found, key=lambda row: row["option"])


def _origin(source: ParameterSource | None, param: click.Option, place: str) -> str:
    match source:
        case ParameterSource.COMMANDLINE:
            return "command line"
        case ParameterSource.ENVIRONMENT:
            return str(param.envvar)
        case ParameterSource.DEFAULT_MAP:
            return place
    return "default"


def _word(row: dict[str, Any]) -> str:
    """Return a value as the command line takes it."""
    kind, value = KINDS.get(row["option"].replace("-", "_")), row["value"]
    return kind.word(value) if kind is not None and value is not None else str(value)


def _json_value(row: dict[str, Any]) -> object:
    """Return a value for programs: seconds and bytes as numbers. A mask is text, because JSON has no octal numbers."""
    value = row["value"]
    return (
        value
        if value is None or (isinstance(value, int | float) and row["option"] != "umask")
        else _word(row)
    )
