"""The command line: `kvfs COMMAND …`, one file a command (or a few that belong together).

Commands are imported when they are called: `kvfs status` in a prompt should not wait for pyfuse3 and httpx.
A command returns its exit status (nothing stands for 0) and raises what it cannot do; `exits.py` makes that a line and
a status.
"""

import importlib
import keyword
import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

import click
from click.shell_completion import CompletionItem

from kvfs import __version__
from kvfs.cli.exits import guarded
from kvfs.cli.helping import SUMMARIES, HelpGroup, with_examples
from kvfs.host.process import collect_rarely, fill_standard_descriptors, use_utf8_names
from kvfs.patches import leave_out_command_of_httpx

COMMANDS: Final = ("mount-helper", *(name for names in SUMMARIES.values() for name in names))

_MODULES: Final = {
    "refresh": "sync",
    "recover": "pending",
    "export": "copy",
    "import": "copy",
    "restore-backup": "backup",
    "debug-bundle": "bundle",
}
"""The modules in this folder that are not called after their command."""

COMPLETING: Final = "_KVFS_COMPLETE"
"""Set by the script of a shell that asks for completion."""

_SOURCE: Final = re.compile(r"(local|cloudflare|wrangler):")


_MEANT: Final = {
    "unmount": "umount",
    "fusermount": "umount",
    "logs": "log",
    "queue": "pending",
    "list": "ls",
    "undo": "restore",
    "undelete": "restore",
}


class _LazyGroup(HelpGroup):
    """A group whose commands are imported when they are asked for, and not for its help."""

    def summaries(self, ctx: click.Context) -> Mapping[str, Mapping[str, str]]:
        """Return the summaries of all commands, without their modules."""
        return SUMMARIES

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which command was meant: `unmount` is umount to many."""
        if args and args[0] not in COMMANDS:
            near = _MEANT.get(args[0]) or next(iter(get_close_matches(args[0], COMMANDS, 1)), None)
            hint = f" Did you mean {near!r}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return commands with their summaries, without their modules."""
        known = [item for commands in SUMMARIES.values() for item in commands.items()]
        named = [CompletionItem(name, help=text) for name, text in known if name.startswith(incomplete)]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        word = cmd_name.replace("-", "_")
        module = importlib.import_module(f"kvfs.cli.{_MODULES.get(cmd_name, word)}")
        command = getattr(module, f"{word}_" if keyword.iskeyword(word) else word)
        assert isinstance(command, click.Command)
        return with_examples(command, cmd_name)


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="kvfs", message="%(prog)s %(version)s")
def cli() -> None:
    """Cloudflare Workers KV as a file system."""


with_examples(cli, "")


def main(arguments: list[str] | None = None) -> int:
    """Run a command line (of this process by default) and return its exit status."""
    if arguments is None:
        fill_standard_descriptors()
        use_utf8_names()
        collect_rarely()
        leave_out_command_of_httpx()
    if COMPLETING in os.environ:
        return int(importlib.import_module("kvfs.cli.completing").answer(cli))
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if _SOURCE.match(words[0]):  # mount -t fuse.kvfs calls `kvfs SOURCE DIR -o …`
        words = ["mount-helper", *words]
    return guarded(lambda: cli.main(args=words, prog_name="kvfs", standalone_mode=False))
