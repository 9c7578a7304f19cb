"""Questions before something is lost, or costs much."""

import sys

import click


def confirm(question: str) -> None:
    """Ask; what follows happens only after a yes. Raises `click.Abort` after a no.

    Raises `click.UsageError`, which names the option, where standard input is no terminal and has no answer.
    """
    try:
        is_agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        click.echo(err=True)
        raise click.UsageError("nobody can be asked here whether to go on: say --yes") from None
    if not is_agreed:
        raise click.Abort
