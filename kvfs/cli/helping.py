"""The look of `--help`: commands and options in groups, whole summaries, examples. Man pages use it too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

import click

SUMMARIES: Final[Mapping[str, Mapping[str, str]]] = {
    "Mounts": {
        "mount": "Mount SOURCE on the empty directory DIR, and return when it can be used.",
        "umount": "Send what is pending and end the mount on DIR.",
        "status": "Show what is pending, what was refused, and how the server answers, "
        "in DIR or in all your mounts.",
        "top": "Show which processes use DIR or all your mounts: operations, latency, "
        "requests, keys and dollars.",
        "sync": "Send what is pending in DIR (without it, in all your mounts), and "
        "wait until it is at the server.",
        "refresh": "Forget what was read at and below PATH, so that the next look asks the server.",
        "log": "Show the log of the mount on DIR, also after it has ended.",
        "why": "Say why PATH is not at the server yet, or what failed there last: the "
        "reason, what to do, when it goes on.",
        "debug-bundle": "Write one file for a problem report, without values and secrets.",
    },
    "Changes that are not at the server": {
        "pending": "List changes that the server does not have yet, of SOURCE or DIR, or "
        "of all sources, mounted or not.",
        "recover": "Write pending changes of the unmounted SOURCE into ordinary files below DIR.",
        "rejected": "List, retry or discard changes that the server refused, of sources "
        "that are mounted or not.",
        "conflicts": "List, compare and settle conflicts: values that another client "
        "changed while they were changed here.",
        "journal": "Show what the journal of a source holds, and change nothing.",
    },
    "Undo": {
        "history": "Show what was overwritten or deleted through the mount at PATH, or "
        "below it, and whether it is kept.",
        "restore": "Write back what was overwritten or deleted at PATH: the last version "
        "of a file, or a directory after rm -r.",
    },
    "Data, without a mount": {
        "copy": "Copy entries with metadata and expirations.",
        "export": "Copy a store to a file or directory: kvfs copy SOURCE FILE.",
        "import": "Copy a file or directory to a store: kvfs copy FILE SOURCE.",
        "diff": "Compare two places: keys, metadata, expirations, and with --values the values.",
        "ls": "List namespaces, or keys with their metadata and expirations.",
        "find": "Find keys. kvfs only lists keys, unless an option asks about values.",
        "cat": "Write a value to standard output as it is.",
        "put": "Write a value.",
        "rm": "Delete a key, or with -r all keys below it too. kvfs shows them first.",
        "edit": "Edit a value with $VISUAL or $EDITOR.",
        "du": "Count keys and bytes. kvfs reads every value to learn its size, and says the price first.",
        "backup": "Export SOURCE to a dated file in DIR: everything, or what changed since the last one.",
        "restore-backup": "Write a backup back to SOURCE.",
        "namespaces": "List the namespaces of SOURCE, and the bindings of this project that name them.",
    },
    "This machine, and the API": {
        "doctor": "Check whether kvfs can work on this machine.",
        "config": "Show the options of a mount, and where each comes from.",
        "install": "Put the mount helper, systemd units, completion and man pages in place.",
        "serve": "Serve the REST API of Workers KV over an embedded store, until SIGTERM or Ctrl-C.",
        "verify": "Test if the API behind SOURCE behaves as kvfs assumes.",
    },
}
"""Every command and its summary, the first sentence of its docstring, in the groups of `kvfs --help`."""

EXAMPLES: Final[dict[str, Sequence[str]]] = {
    "": (
        "kvfs mount local: ~/kv               # a store on this machine, no account",
        "kvfs mount cloudflare:/CONFIG ~/kv   # one namespace of your account",
        "kvfs umount ~/kv                     # send what is pending, and end",
    ),
    "mount": (
        "kvfs mount local: ~/kv",
        "kvfs mount cloudflare: ~/kv              # all namespaces of an account",
        "kvfs mount cloudflare:/CONFIG ~/kv       # one of them, by its title",
        "kvfs mount --token-command wrangler cloudflare:/CONFIG ~/kv",
        "kvfs mount wrangler: ~/kv                # data of `wrangler dev`",
    ),
    "umount": ("kvfs umount ~/kv", "kvfs umount --timeout 0 ~/kv    # send nothing now"),
    "status": ("kvfs status", "kvfs status --json ~/kv", "kvfs status --watch"),
    "top": ("kvfs top ~/kv",),
    "sync": ("kvfs sync", "kvfs sync --timeout 10 ~/kv"),
    "refresh": ("kvfs refresh ~/kv/sample",),
    "pending": ("kvfs pending", "kvfs pending --json ~/kv"),
    "recover": ("kvfs recover cloudflare:/CONFIG ~/recovered",),
    "log": ("kvfs log -f ~/kv",),
    "why": ("kvfs why ~/kv/sample/greeting",),
    "rejected": ("kvfs rejected list", "kvfs rejected retry --all ~/kv"),
    "rejected list": ("kvfs rejected list --json",),
    "rejected retry": ("kvfs rejected retry ~/kv 17",),
    "rejected discard": ("kvfs rejected discard ~/kv 17",),
    "conflicts": (
        "kvfs conflicts list",
        "kvfs conflicts diff ~/kv/sample/page",
        "kvfs conflicts keep mine ~/kv/sample/page",
    ),
    "conflicts list": ("kvfs conflicts list --json",),
    "conflicts diff": ("kvfs conflicts diff ~/kv/sample/page",),
    "conflicts keep": ("kvfs conflicts keep theirs ~/kv/sample/page",),
    "conflicts keep mine": ("kvfs conflicts keep mine ~/kv/sample/page",),
    "conflicts keep theirs": ("kvfs conflicts keep theirs --all",),
    "journal": ("kvfs journal cloudflare:/CONFIG",),
    "history": ("kvfs history ~/kv/sample/greeting",),
    "restore": ("kvfs restore ~/kv/sample/greeting", "kvfs restore ~/kv/sample    # after rm -r"),
    "debug-bundle": ("kvfs debug-bundle",),
    "copy": (
        "kvfs copy -n cloudflare:/CONFIG local:copy.sqlite/CONFIG  # its cost",
        "kvfs copy cloudflare:/CONFIG/site/ ./site",
    ),
    "export": ("kvfs export cloudflare:/CONFIG config.ndjson.zst",),
    "import": ("kvfs import config.json cloudflare:/CONFIG",),
    "diff": ("kvfs diff cloudflare:/CONFIG cloudflare:/PREVIEW",),
    "ls": ("kvfs ls cloudflare:/CONFIG/site/",),
    "find": ("kvfs find --meta role=admin cloudflare:/USERS",),
    "cat": ("kvfs cat cloudflare:/CONFIG/site/title",),
    "put": ("kvfs put cloudflare:/CONFIG/site/title Welcome",),
    "rm": ("kvfs rm -r cloudflare:/CONFIG/old/",),
    "edit": ("kvfs edit cloudflare:/CONFIG/site/title",),
    "du": ("kvfs du cloudflare:/CONFIG",),
    "backup": ("kvfs backup cloudflare:/CONFIG ~/backups",),
    "restore-backup": ("kvfs restore-backup ~/backups cloudflare:/CONFIG",),
    "namespaces": ("kvfs namespaces cloudflare:",),
    "serve": ("kvfs serve --listen 127.0.0.1:8787", "kvfs serve --ephemeral --faults latency=50ms"),
    "doctor": ("kvfs doctor", "kvfs doctor --online cloudflare:"),
    "config": ("kvfs config show",),
    "config show": ("kvfs config show --profile work",),
    "verify": ("kvfs verify cloudflare:",),
}
"""By the words of a command; each is a line that works as it stands, but for its names. Tests parse them."""


def with_examples(command: click.Command, words: str) -> click.Command:
    """Give a command, and those below it, their examples. Called once for each command of the group."""
    lines = EXAMPLES.get(words, ())
    text = (command.help or "").rstrip()
    if lines and "\nExamples:\n" not in text:
        command.help = "\n".join([text, "", "Examples:", "", "\b", *(f"  {line}" for line in lines), ""])
    command.short_help = command.short_help or command.get_short_help_str(limit=1000)  # man pages cut at 45
    if isinstance(command, click.Group) and words:
        for name, below in command.commands.items():
            with_examples(below, f"{words} {name}")
    return command


class HelpGroup(click.Group):
    """A group whose help has every summary in full, under its headings."""

    def summaries(self, ctx: click.Context) -> Mapping[str, Mapping[str, str]]:
        """Return the commands with their whole first sentences, under the headings of the help."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return {
            "Commands": {name: one.get_short_help_str(1000) for name, one in found if one and not one.hidden}
        }

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their whole first sentences."""
        for title, commands in self.summaries(ctx).items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()))


class SectionedCommand(click.Command):
    """A command with so many options that they come in groups: `sections`, by the names of parameters."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; those in no section come last."""
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        records = {param.name: param.get_help_record(ctx) for param in params}
        for title, names in [*self.sections.items(), ("Other options", self._rest(records))]:
            rows = [record for name in names if (record := records.get(name)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _rest(self, names: Iterable[str | None]) -> list[str]:
        known = {name for section in self.sections.values() for name in section}
        return [name for name in names if name is not None and name not in known]
