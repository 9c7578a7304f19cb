"""The configuration file of a user: `config.toml`, with options for every mount and with profiles.

    [mount]                      options of every `kvfs mount`, by their long names
    cache-ttl = 900

    [profile.work]               `kvfs mount --profile work`: the same, and where and what
    source = "cloudflare:/CONFIG"
    directory = "~/kv"
    token-file = "~/.config/kvfs/token"

An option on the command line counts before its variable, the variable before the profile, the profile before [mount].
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs

from kvfs.core.errors import UserError

PLACES = ("source", "directory")
"""Names of a profile that are no options: the two arguments."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that apply to one command, by the long names of options, each with the place that it comes from."""

    values: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    directory: str | None = None


def config_file(environ: Mapping[str, str]) -> Path:
    """Return $KVFS_CONFIG, or $XDG_CONFIG_HOME/kvfs/config.toml."""
    if chosen := environ.get("KVFS_CONFIG"):
        return Path(os.path.abspath(Path(chosen).expanduser()))
    return Path(platformdirs.user_config_path("kvfs", appauthor=False)).absolute() / "config.toml"


def settings_of(file: Path, profile: str | None) -> Settings:
    """Return the settings of `profile` over those of [mount]. Raises `UserError` that names the file."""
    document = _read(file)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    places: dict[str, str] = {}
    for section, table in _sections(file, document, profile):
        for name, value in table.items():
            option = name.replace("_", "-")
            _refuse_secret(file, section, option)
            if option in PLACES:
                places[option] = str(value)
            else:
                values[option] = value
                origins[option] = f"{file} [{section}]"
    return Settings(values, origins, places.get("source"), places.get("directory"))


def profile_names(file: Path) -> list[str]:
    """Return the profiles of a file. Raises `UserError`."""
    return sorted(_table(file, "profile", _read(file).get("profile", {})))


def _sections(
    file: Path, document: Mapping[str, Any], profile: str | None
) -> list[tuple[str, Mapping[str, Any]]]:
    unknown = document.keys() - {"mount", "profile"}
    if unknown:
        raise UserError(f"{file}: unknown section [{min(unknown)}]: there are [mount] and [profile.NAME]")
    mount = _table(file, "mount", document.get("mount", {}))
    if misplaced := [name for name in PLACES if name in mount]:
        raise UserError(f"{file} [mount]: {misplaced[0]} belongs into a profile")
    found: list[tuple[str, Mapping[str, Any]]] = [("mount", mount)]
    if profile is not None:
        profiles = _table(file, "profile", document.get("profile", {}))
        if profile not in profiles:
            way = (
                f"its profiles are {', '.join(sorted(profiles))}" if profiles else f"add [profile.{profile}]"
            )
            raise UserError(f"{file} has no profile {profile!r}: {way}")
        found.append((f"profile.{profile}", _table(file, f"profile.{profile}", profiles[profile])))
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise UserError(f"{file} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UserError(f"{file} is not UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        line = re.search(r"at line (\d+)", str(exc))
        raise UserError(f"{file}{f':{line[1]}' if line else ''}: {exc}") from exc


def _table(file: Path, where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{file}: [{where}] is not a table")
    return value


def _refuse_secret(file: Path, section: str, name: str) -> None:
    if name in ("token", "api-token", "api-key", "key", "password"):
        raise UserError(
            f"{file} [{section}]: a {name} has no place in this file, which others may read: "
            "write token-file = PATH (mode 600), or token-command = COMMAND"
        )
