"""Completion of a shell's words: sources and namespaces, mounts, profiles, files of stores.

All of it is what this machine remembers. Nothing is asked of a server: a key press must not cost a request, nor wait
for one.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

from kvfs.core.errors import KvfsError
from kvfs.host.profiles import config_file, profile_names
from kvfs.host.project import find_project, read_project
from kvfs.host.sources import known_sources
from kvfs.host.state import default_state_dir, records

SCHEMES: Final = ("local:", "cloudflare:", "wrangler:")
STORES: Final = (".sqlite", ".sqlite3", ".db", ".kvfs")
_BREAKS: Final = frozenset("\"'@><=;|&(:")  # characters that end a word for readline, and not for us

Offer = Callable[[str], Iterable[CompletionItem]]


class Completed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A type of text that is taken as it is written; `offer` returns the texts that may complete it."""

    def __init__(self, name: str, offer: Offer) -> None:
        self.name = name
        self._offer = offer

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what this machine remembers; nothing where that cannot be read."""
        with suppress(KvfsError, OSError, ValueError):
            return list(self._offer(incomplete))
        return []


def _plain(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the words that begin with a fragment. A scheme that is written already is left out."""
    news = (word for word in dict.fromkeys(words) if word != incomplete or word not in SCHEMES)
    return [CompletionItem(word) for word in news if word.startswith(incomplete)]


def mounts(incomplete: str) -> list[CompletionItem]:
    """Return the mount points of this user."""
    return _plain([record.mountpoint for record in records(default_state_dir())], incomplete)


def paths(incomplete: str, *, of: str) -> list[CompletionItem]:
    """Return DIR of a command on mounts (a mount or a directory), DIR of a new mount, or PATH (any file)."""
    if of not in ("directory", "mountpoint"):
        return [CompletionItem(incomplete, type="file")]
    known = mounts(incomplete) if of == "mountpoint" else []
    return known or [CompletionItem(incomplete, type="dir")]


def sources(incomplete: str) -> list[CompletionItem]:
    """Return the beginnings of sources of `kvfs mount`."""
    return _plain([*SCHEMES, *_bindings(), *_remembered(os.environ), *_files(incomplete)], incomplete)


def places(incomplete: str) -> list[CompletionItem]:
    """Return FROM, TO and SOURCE of the data commands: a source with a namespace, or a file."""
    words = [*SCHEMES, *_bindings(), *_remembered(os.environ, stores=True), *_files(incomplete)]
    found = _plain(words, incomplete)
    return found if incomplete.startswith(SCHEMES) else [*found, CompletionItem(incomplete, type="file")]


def kept(incomplete: str) -> list[CompletionItem]:
    """Return SOURCE or DIR of which this machine keeps changes."""
    known = [
        *_plain([record.source for _, record in known_sources(default_state_dir())], incomplete),
        *mounts(incomplete),
    ]
    return known or [CompletionItem(incomplete, type="dir")]


def profiles(incomplete: str) -> list[CompletionItem]:
    """Return the profiles of the configuration file."""
    return _plain(profile_names(config_file(os.environ)), incomplete)


PLACE: Final = Completed("text", places)
KEPT: Final = Completed("text", kept)
PROFILE: Final = Completed("text", profiles)


def _remembered(environ: Mapping[str, str], *, stores: bool = False) -> Iterator[str]:
    """Return sources that were mounted, and the namespaces that were listed there last.

    With `stores` those of embedded stores are included, which are no sources of a mount. The account of the
    environment need not be written.
    """
    own = environ.get("CLOUDFLARE_ACCOUNT_ID", "").strip()
    for _, record in known_sources(default_state_dir()):
        yield record.source
        is_account = record.source.startswith("cloudflare:")
        base = record.source.partition("/")[0] if is_account else record.source
        if not record.source.startswith(("cloudflare:", "local:") if stores else "cloudflare:"):
            continue
        for id_, title in sorted(record.namespaces.items(), key=lambda one: one[1]):
            name = id_ if "/" in title else title
            yield f"{base}/{name}"
            if own and base == f"cloudflare:{own}":
                yield f"cloudflare:/{name}"


def _bindings() -> Iterator[str]:
    """Return the KV bindings of the project around the current directory."""
    file = find_project(Path.cwd())
    if file is None:
        return
    for environment in read_project(file).environments.values():
        suffix = f"@{environment.name}" if environment.name else ""
        for one in environment.bindings:
            yield f"cloudflare:@{one.name}{suffix}"
            yield f"wrangler:@{one.name}{suffix}"


def _files(incomplete: str) -> Iterator[str]:
    """Return directories, and files that are named like stores, for `local:` and a path."""
    if not incomplete.startswith("local:"):
        return
    written = incomplete.removeprefix("local:")
    above, _, begin = written.rpartition("/")
    directory = Path(os.path.expanduser(f"{above}/" if "/" in written else "."))
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            if entry.name.startswith(begin) and (begin or not entry.name.startswith(".")):
                path = f"{above}/{entry.name}" if "/" in written else entry.name
                if entry.is_dir():
                    yield f"local:{path}/"
                elif entry.name.endswith(STORES):
                    yield f"local:{path}"


# bash


class Bash(BashComplete):
    """Completion for bash, which ends a word at `:`, `=` and `@`, as sources have them, and so passes the whole line.

    It replaces the end of our word only, so the beginning is left out of the answers.
    """

    _left_out = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one that it is in."""
        line = os.environ["COMP_LINE"].encode()[: int(os.environ["COMP_POINT"])].decode(errors="replace")
        words = split_arg_string(line)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        seen = os.environ.get("COMP_WORD", "")
        if set(seen) <= _BREAKS:
            seen = ""
        self._left_out = incomplete[: len(incomplete) - len(seen)] if incomplete.endswith(seen) else ""
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return `type,value`, the value from where bash's word begins."""
        value = item.value.removeprefix(self._left_out) if item.type == "plain" else item.value
        return f"{item.type},{value}"


def answer(cli: click.Command) -> int:
    """Answer a shell. No error is shown, because it would be written into the line that the user types."""
    if "COMP_LINE" in os.environ:  # an older script of ours does not tell it
        add_completion_class(Bash)
    try:
        cli.main(args=[], prog_name="kvfs", standalone_mode=False)
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        return 1
    return 0
