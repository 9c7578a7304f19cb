"""The look of `--help`: commands and options in groups, whole summaries, examples. Man pages use it too."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

import click

HEADINGS: Final = {
    "Mounts": ("mount", "umount", "status", "top", "sync", "refresh", "log", "why", "debug-bundle"),
    "Changes that are not at the server": ("pending", "recover", "rejected", "conflicts", "journal"),
    "Undo": ("history", "restore"),
    "Data, without a mount": (
        *("copy", "export", "import", "diff", "ls", "find", "cat", "put", "rm", "edit", "du"),
        *("backup", "restore-backup", "namespaces"),
    ),
    "This machine, and the API": ("doctor", "config", "install", "serve", "verify"),
}
"""Every command, in the groups of `kvfs --help`."""

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
        "kvfs mount wrangler: ~/kv                # what `wrangler dev` sees",
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
        "kvfs copy -n cloudflare:/CONFIG local:copy.sqlite/CONFIG  # what it costs",
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
    """A group whose help has every summary in full, under the headings of `headings`."""

    headings: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their whole first sentences."""
        rows = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows[name] = command.get_short_help_str(limit=1000)
        named = [(title, [name for name in names if name in rows]) for title, names in self.headings.items()]
        known = {name for _, names in named for name in names}
        rest = [name for name in rows if name not in known]
        for title, names in [*named, ("Commands" if not named else "More", rest)]:
            if names:
                with formatter.section(title):
                    formatter.write_dl([(name, rows[name]) for name in names])


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
