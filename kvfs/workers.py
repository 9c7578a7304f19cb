"""Sources that a Workers project names: the namespace behind a binding, and the state of `wrangler dev`.

    cloudflare:@BINDING[@ENV][/PREFIX]                       the namespace of a binding, in the account
    wrangler:[DIR|URL][/@BINDING[@ENV][/PREFIX]]             what the Workers of a project see on this machine
    wrangler:@BINDING[@ENV][/PREFIX]                         the same, of the project around the current directory

An empty BINDING (`wrangler:@@staging`) is all bindings of an environment.
"""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kvfs.core.errors import UserError
from kvfs.core.model import Namespace, NamespaceId
from kvfs.host.project import TOP, Binding, chosen_environment, find_project, project_around, read_project
from kvfs.store.miniflare import layout

log = logging.getLogger("kvfs.workers")

WRANGLER_SYNTAX: Final = "wrangler:[DIR|URL][/@BINDING[@ENV][/PREFIX]]"
BINDING_SYNTAX: Final = "cloudflare:@BINDING[@ENV][/PREFIX]"


@dataclass(frozen=True, slots=True)
class WranglerSource:
    """The namespaces of a project as `wrangler dev` keeps them, or one of them, or its keys that start with `prefix`.

    Exactly one of `state` (a directory, absolute) and `origin` (`http://HOST:PORT`) is set. `project` is the
    configuration file, if there is one; `namespace` is a binding's name.
    """

    state: Path | None = None
    origin: str = ""
    project: Path | None = None
    environment: str = TOP
    namespace: str | None = None
    prefix: str = ""

    def __str__(self) -> str:
        place = self.origin or str(self.project.parent if self.project is not None else self.state)
        if self.namespace is None and not self.environment:
            return f"wrangler:{place}"
        environment = f"@{self.environment}" if self.environment else ""
        prefix = f"/{self.prefix}" if self.prefix else ""
        return f"wrangler:{place}/@{self.namespace or ''}{environment}{prefix}"

    @property
    def identity(self) -> str:
        """Text that is the same for every mount of the same data."""
        place = self.origin or os.path.realpath(str(self.state))
        return "\n".join((f"wrangler:{place}", self.environment, self.namespace or "", self.prefix))


@dataclass(frozen=True, slots=True)
class BoundNamespace:
    """The namespace behind a binding. `account` is None where the configuration names none."""

    account: str | None
    namespace: str
    prefix: str


@dataclass(frozen=True, slots=True)
class _Words:
    """`BINDING[@ENV][/PREFIX]`, taken apart."""

    binding: str
    environment: str
    prefix: str


def find_bound(
    text: str, environ: Mapping[str, str], *, preview: bool = False, start: Path | None = None
) -> BoundNamespace:
    """Return `BINDING[@ENV][/PREFIX]` in the project around `start` (the current directory by default).

    `preview` takes the binding's `preview_id`. Raises `UserError` for whatever cannot be found.
    """
    words = _words(text, environ)
    project = project_around(start or Path.cwd())
    if not words.binding:
        raise UserError(f"no binding is named: {BINDING_SYNTAX}")
    binding = project.binding(words.binding, words.environment)
    wanted, name = (binding.preview_id, "preview_id") if preview else (binding.id, "id")
    if wanted is None:
        raise UserError(f"the binding {binding.name} in {project.file} has no {name}")
    return BoundNamespace(project.environment(words.environment).account, wanted, words.prefix)


def parse_wrangler(text: str, environ: Mapping[str, str], *, start: Path | None = None) -> WranglerSource:
    """Parse the part after `wrangler:` of a source. Raises `UserError`."""
    place, words = _split(text, environ)
    if re.match(r"https?://", place):
        return WranglerSource(
            origin=_origin(place),
            environment=words.environment,
            namespace=words.binding or None,
            prefix=words.prefix,
        )
    directory = Path(os.path.abspath(Path(place).expanduser())) if place else (start or Path.cwd())
    state, project = _state_of(directory)
    if project is not None:
        found = read_project(project)
        if words.binding:
            found.binding(words.binding, words.environment)
        found.environment(words.environment)
    return WranglerSource(
        state=state,
        project=project,
        environment=words.environment,
        namespace=words.binding or None,
        prefix=words.prefix,
    )


def configured_namespaces(source: WranglerSource) -> Sequence[Namespace]:
    """Return the bindings of the source's environment, read from the configuration now; else what the disk tells.

    The id of each is the one that `wrangler dev` uses on this machine. Raises `UserError`.
    """
    assert source.state is not None
    if source.project is None:
        return [Namespace(NamespaceId(id_), id_) for id_ in layout.namespaces_on_disk(source.state)]
    bindings = read_project(source.project).environment(source.environment).bindings
    return [Namespace(NamespaceId(binding.local_id), binding.name) for binding in _distinct(bindings)]


def _distinct(bindings: Sequence[Binding]) -> Sequence[Binding]:
    """Return the first binding of each namespace: two names of one namespace would be two mounts of it."""
    first: dict[str, Binding] = {}
    for binding in bindings:
        if first.setdefault(binding.local_id, binding) is not binding:
            log.warning(
                "%s is the namespace of %s too: it is shown once", binding.name, first[binding.local_id].name
            )
    return list(first.values())


def _split(text: str, environ: Mapping[str, str]) -> tuple[str, _Words]:
    if text.startswith("@"):
        return "", _words(text[1:], environ)
    place, found, words = text.partition("/@")
    return place, _words(words if found else "", environ)


def _words(text: str, environ: Mapping[str, str]) -> _Words:
    names, _, prefix = text.partition("/")
    binding, _, environment = names.partition("@")
    for name, what in ((binding, "binding"), (environment, "environment")):
        if name and not re.fullmatch(r"[\w$.-]+", name):
            raise UserError(f"{name!r} is not the name of a {what}")
    return _Words(binding, environment or chosen_environment(environ), prefix)


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise UserError(f"{url!r} is not a URL: {exc}") from exc
    if not host or parts.username is not None or parts.query or parts.fragment:
        raise UserError(f"the URL of wrangler dev is http://HOST:PORT, not {url!r}")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")


def _state_of(directory: Path) -> tuple[Path, Path | None]:
    """Return the state directory that `directory` is or that its project has, and the project's file."""
    project = find_project(directory)
    if layout.is_state(directory):
        return directory, project
    if project is None:
        raise UserError(
            f"{directory} is neither a state directory of wrangler (it has no v3) nor in a project with a "
            "wrangler configuration"
        )
    return project.parent / ".wrangler" / "state", project
