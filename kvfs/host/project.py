"""The Workers project on this machine: its wrangler configuration, and the namespaces behind its bindings.

The rules are wrangler's (developers.cloudflare.com/workers/wrangler/configuration): the file is `wrangler.json`,
`wrangler.jsonc` or `wrangler.toml`, found upwards from a directory; `account_id` is inherited by environments,
`kv_namespaces` is not. Nothing is asked of a network.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import json5

from kvfs.core.errors import UserError

FILE_NAMES: Final = ("wrangler.json", "wrangler.jsonc", "wrangler.toml")
"""In wrangler's order: the first name that is found anywhere upwards wins."""

TOP: Final = ""
"""The name of the configuration's top level, beside the environments below `env`."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A KV namespace as a Worker knows it. `id` and `preview_id` are None where the file has none."""

    name: str
    id: str | None
    preview_id: str | None

    @property
    def local_id(self) -> str:
        """Return the id under which `wrangler dev` keeps the namespace on this machine."""
        return self.preview_id or self.id or self.name


@dataclass(frozen=True, slots=True)
class Environment:
    """One environment: `TOP`, or a name below `env`. `account` is None where neither it nor the top names one."""

    name: str
    account: str | None
    bindings: tuple[Binding, ...]


@dataclass(frozen=True, slots=True)
class Project:
    """A configuration file that was read."""

    file: Path
    environments: Mapping[str, Environment]

    def environment(self, name: str) -> Environment:
        """Return one environment. Raises `UserError`, which lists those there are."""
        if name in self.environments:
            return self.environments[name]
        names = ", ".join(sorted(filter(None, self.environments))) or "none"
        raise UserError(f"{self.file} has no environment {name!r}: its environments are {names}")

    def binding(self, name: str, environment: str) -> Binding:
        """Return one binding of an environment. Raises `UserError`, which lists those there are."""
        wanted = self.environment(environment)
        for binding in wanted.bindings:
            if binding.name == name:
                return binding
        where = f"the environment {environment!r}" if environment else "its top level"
        names = ", ".join(binding.name for binding in wanted.bindings) or "none"
        hint = ""
        if environment and any(name == one.name for one in self.environments[TOP].bindings):
            hint = "; kv_namespaces are not inherited from the top level"
        raise UserError(f"{self.file} has no KV binding {name!r} in {where}, which has {names}{hint}")


def find_project(start: Path) -> Path | None:
    """Return the configuration file of the project around `start`, or None."""
    start = Path(os.path.abspath(start))
    for name in FILE_NAMES:
        for directory in (start, *start.parents):
            if (directory / name).is_file():
                return directory / name
    return None


def project_around(start: Path) -> Project:
    """Return the project around `start`. Raises `UserError` when there is none or it cannot be read."""
    file = find_project(start)
    if file is None:
        raise UserError(
            f"no wrangler configuration in {start} or above it: a binding is named by {', '.join(FILE_NAMES)}"
        )
    return read_project(file)


def chosen_environment(environ: Mapping[str, str]) -> str:
    """Return the environment that CLOUDFLARE_ENV chooses, as for wrangler; `TOP` without one."""
    return environ.get("CLOUDFLARE_ENV", "").strip() or TOP


def read_project(file: Path) -> Project:
    """Read a configuration file. Raises `UserError` that names the file, and the line where that is known."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise UserError(f"{file} cannot be read: {reason}") from exc
    return _Reader(file, text).project()


class _Reader:
    """Turns the text of one file into a `Project`, with the place in every refusal."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._text = text

    def project(self) -> Project:
        document = self._table(self._parsed(), "the file")
        top = self._environment(TOP, document, None)
        found = {TOP: top}
        for name, below in self._table(document.get("env", {}), "env").items():
            found[name] = self._environment(name, self._table(below, f"env.{name}"), top.account)
        return Project(self._file, found)

    def _parsed(self) -> object:
        try:
            if self._file.suffix == ".toml":
                return tomllib.loads(self._text)
            return json5.loads(self._text)
        except tomllib.TOMLDecodeError as exc:
            line = re.search(r"at line (\d+)", str(exc))
            raise self._refusal(str(exc), int(line[1]) if line else None) from exc
        except ValueError as exc:
            found = re.match(r"<string>:(\d+) (.*)", str(exc), re.DOTALL)
            message = found[2].replace("\n", "\\n") if found else str(exc)
            raise self._refusal(message, int(found[1]) if found else None) from exc
        except RecursionError as exc:
            raise self._refusal("it is nested too deeply", None) from exc

    def _environment(self, name: str, table: Mapping[str, Any], inherited: str | None) -> Environment:
        account = self._text_or_none(table, "account_id") or inherited
        return Environment(name, account, tuple(self._bindings(table, name)))

    def _bindings(self, table: Mapping[str, Any], environment: str) -> Iterator[Binding]:
        where = f"env.{environment}.kv_namespaces" if environment else "kv_namespaces"
        rows = table.get("kv_namespaces")
        if rows is None:
            return
        if not isinstance(rows, list):
            raise self._refusal(f"{where} is not a list", self._line_of("kv_namespaces"))
        seen: set[str] = set()
        for number, row in enumerate(rows):
            row = self._table(row, f"{where}[{number}]")
            name = self._text_or_none(row, "binding")
            if name is None:
                raise self._refusal(f"{where}[{number}] has no binding", self._line_of("kv_namespaces"))
            if name in seen:
                raise self._refusal(f"{where} has the binding {name} twice", self._line_of(name))
            seen.add(name)
            yield Binding(name, self._text_or_none(row, "id"), self._text_or_none(row, "preview_id"))

    def _table(self, value: object, where: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._refusal(f"{where} is not an object", self._line_of(where.rpartition(".")[2]))
        return value

    def _text_or_none(self, table: Mapping[str, Any], name: str) -> str | None:
        value = table.get(name)
        if value is None or value == "":
            return None
        if not isinstance(value, str):
            raise self._refusal(f"{name} is not a text", self._line_of(name))
        return value

    def _line_of(self, word: str) -> int | None:
        """Return the first line that has `word` as a whole word; a good guess, because parsers keep no positions."""
        found = re.search(rf"\b{re.escape(word.partition('[')[0])}\b", self._text)
        return self._text.count("\n", 0, found.start()) + 1 if found else None

    def _refusal(self, message: str, line: int | None) -> UserError:
        place = f"{self._file}:{line}" if line is not None else str(self._file)
        return UserError(f"{place}: {message}")
