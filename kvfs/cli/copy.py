"""`kvfs copy`, and its short forms `kvfs export` and `kvfs import`: entries from one place to another."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import click
import trio

from kvfs.cli.completing import PLACE
from kvfs.cli.helping import SectionedCommand
from kvfs.cli.moving import run_copy
from kvfs.cli.options import DRY_RUN, FORMAT, MATCH, PREFIX, WHERE, YES, flag, grouped
from kvfs.cli.places import SYNTAX, Access, StoreWords, Words, access_options, parse_words
from kvfs.cli.sides import CopyRequest
from kvfs.cli.whole_accounts import check_whole, is_whole, run_account
from kvfs.core.errors import UserError
from kvfs.data.copier import CopyOptions
from kvfs.data.selection import Selection, parse_conditions, parse_rename

_IF_EXISTS: Final = ("overwrite", "skip", "newer", "fail")
EPILOG: Final = f"FROM and TO are {SYNTAX}."


copy_options: Final = grouped(
    *(FORMAT, PREFIX, MATCH, WHERE),
    click.option(
        "--sample", type=click.IntRange(1), metavar="N", help="Take only N keys; each run takes the same."
    ),
    click.option(
        "--rename-prefix", metavar="OLD=NEW", help="Give keys that begin with OLD the beginning NEW."
    ),
    click.option(
        "--if-exists",
        type=click.Choice(_IF_EXISTS),
        help="Do this with a key that TO has.  [default: overwrite]",
    ),
    flag("--delete", "Delete keys at TO that FROM does not have."),
    click.option(
        "--expired",
        type=click.Choice(("drop", "keep")),
        help="Drop or keep keys that have expired.  [default: drop]",
    ),
    click.option(
        "--metadata",
        type=click.Choice(("manifest", "xattrs")),
        help="Write metadata of a directory in one file or as xattrs.  [default: manifest]",
    ),
    flag("--strict", "Write nothing if any key cannot be copied."),
    flag("--skip-bad", "Leave malformed entries out, and copy the others."),
    *(DRY_RUN, YES),
    flag("--restart", "Begin again, even if an earlier run could continue."),
    access_options,
)
"""Gives a command the options of a copy."""


class CopyCommand(SectionedCommand):
    """`kvfs copy` and its like."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {
        "Which entries": ("prefix", "match", "where", "sample", "expired"),
        "How they arrive": (
            *("rename_prefix", "if_exists", "delete", "format_", "metadata"),
            *("strict", "skip_bad"),
        ),
        "Before and after": ("dry_run", "yes", "restart"),
        "The account": (
            *("token_file", "token_command", "insecure", "preview"),
            *("rate_requests", "rate_seconds", "state"),
        ),
    }


@click.command(cls=CopyCommand, epilog=EPILOG)
@click.argument("source", metavar="FROM", type=PLACE)
@click.argument("target", metavar="TO", type=PLACE)
@copy_options
def copy(source: str, target: str, format_: str | None, access: Access, **values: Any) -> int:
    """Copy entries with metadata and expirations.

    If the copy is interrupted, repeat the command: it continues where it stopped.
    """
    return run_request(build_request(source, target, format_, access, values), format_)


@click.command(cls=CopyCommand, epilog=EPILOG)
@click.argument("source", metavar="SOURCE", type=PLACE)
@click.argument("target", metavar="FILE", type=PLACE)
@copy_options
def export(source: str, target: str, format_: str | None, access: Access, **values: Any) -> int:
    """Copy a store to a file or directory: kvfs copy SOURCE FILE."""
    request = build_request(source, target, format_, access, values)
    if not isinstance(request.source, StoreWords):
        raise UserError(f"{source} is no store; kvfs copy copies between files too")
    return run_request(request, format_)


@click.command("import", cls=CopyCommand, epilog=EPILOG)
@click.argument("source", metavar="FILE", type=PLACE)
@click.argument("target", metavar="SOURCE", type=PLACE)
@copy_options
def import_(source: str, target: str, format_: str | None, access: Access, **values: Any) -> int:
    """Copy a file or directory to a store: kvfs copy FILE SOURCE."""
    request = build_request(source, target, format_, access, values)
    if not isinstance(request.target, StoreWords):
        raise UserError(f"{target} is no store; kvfs copy copies between files too")
    return run_request(request, format_)


def run_request(request: CopyRequest, format_: str | None) -> int:
    """Run a copy, of one namespace or of all; the exit status."""
    if is_whole(request.source) or is_whole(request.target):
        check_whole(request.source, request.target)
        return trio.run(run_account, request, format_)
    return trio.run(run_copy, request)


def build_request(
    source: str, target: str, format_: str | None, access: Access, values: dict[str, Any]
) -> CopyRequest:
    """Return the request that a command line makes. Raises `UserError`."""
    from_words = parse_words(source, access, format_=format_ if source == "-" or target != "-" else None)
    to_words = parse_words(target, access, format_=format_ if source != "-" else None)
    rename = parse_rename(values["rename_prefix"]) if values["rename_prefix"] else None
    choice = Selection(
        prefix=values["prefix"],
        match=values["match"],
        where=parse_conditions(values["where"]),
        rename=rename,
        strip=_prefix(from_words),
        add=_prefix(to_words),
    )
    options = CopyOptions(
        choice=choice,
        if_exists=values["if_exists"] or "overwrite",
        delete=values["delete"],
        keep_expired=values["expired"] == "keep",
        strict=values["strict"],
        skip_bad=values["skip_bad"],
        sample=values["sample"],
    )
    if options.delete and (choice.match or choice.where or options.sample or choice.moved_prefix is None):
        raise UserError(
            "--delete mirrors a whole prefix: not with --match, --where, --sample or a renamed part of it"
        )
    return CopyRequest(
        from_words,
        to_words,
        options,
        access,
        if_exists=values["if_exists"],
        as_attributes=values["metadata"] == "xattrs",
        dry_run=values["dry_run"],
        yes=values["yes"],
        restart=values["restart"],
    )


def _prefix(words: Words) -> str:
    return words.rest if isinstance(words, StoreWords) else ""
