"""`kvfs namespaces [SOURCE]`: titles and ids of namespaces, and the bindings of the project that name them."""

import os
from pathlib import Path
from typing import Any

import click
import trio
from rich.console import Console
from rich.table import Table

from kvfs.cli.completing import PLACE
from kvfs.cli.options import json_option
from kvfs.cli.output import json_line, printable, say
from kvfs.cli.places import Access, access_options, parse_store
from kvfs.cli.sides import namespaces_of
from kvfs.core.errors import UserError
from kvfs.core.model import Namespace
from kvfs.host.project import Project, find_project, read_project


@click.command()
@click.argument("source", required=False, type=PLACE)
@json_option("Print a line of JSON for each.")
@access_options
def namespaces(source: str | None, as_json: bool, access: Access) -> None:
    """List the namespaces of SOURCE, and the bindings of this project that name them.

    Without SOURCE, list those that the project's wrangler configuration names. kvfs then sends no request.
    """
    file = find_project(Path.cwd())
    project = read_project(file) if file is not None else None
    if source is not None:
        found = trio.run(namespaces_of, parse_store(source, access), access)
    elif project is not None:
        found = []
    else:
        raise UserError(
            "no wrangler configuration here or above: name a source, kvfs namespaces cloudflare:, or go into a project"
        )
    rows = _rows(found, project, everything=source is None)
    if as_json:
        for row in rows:
            click.echo(json_line(row))
    else:
        _draw(rows)


def _rows(found: list[Namespace], project: Project | None, *, everything: bool) -> list[dict[str, Any]]:
    """Return a row for each namespace; with `everything` also for those that only the project names."""
    named = _named(project)
    rows: list[dict[str, Any]] = [
        {"id": one.id, "title": one.title, "bindings": named.get(one.id, [])} for one in found
    ]
    known = {one.id for one in found}
    if everything:
        rows += [
            {"id": id_, "title": None, "bindings": names} for id_, names in named.items() if id_ not in known
        ]
    return rows


def _named(project: Project | None) -> dict[str, list[str]]:
    """Return `BINDING[@ENV]`, with ` (preview)` for a preview_id, by the id that it names."""
    found: dict[str, list[str]] = {}
    for environment in project.environments.values() if project is not None else ():
        suffix = f"@{environment.name}" if environment.name else ""
        for binding in environment.bindings:
            if binding.id is not None:
                found.setdefault(binding.id, []).append(binding.name + suffix)
            if binding.preview_id is not None and binding.preview_id != binding.id:
                found.setdefault(binding.preview_id, []).append(f"{binding.name}{suffix} (preview)")
    return found


def _draw(rows: list[dict[str, Any]]) -> None:
    if not rows:
        say("there are no namespaces")
        return
    width = None if os.isatty(1) else 200  # in a pipe nothing is folded
    table = Table("ID", "TITLE", "BINDINGS", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["id"], printable(row["title"] or "-"), ", ".join(row["bindings"]) or "-")
    Console(width=width, highlight=False, markup=False).print(table)
