"""`kvfs status`: what every mount is doing, for people as a table and for programs as JSON (docs/status.md).

The daemon's answer to `status` is passed on as it is; this adds what is known without it.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from kvfs.cli.daemons import ask, chosen_mounts, conflict_line, daemon_of, find_record, state_of
from kvfs.cli.guard import Exit
from kvfs.cli.kept import Kept, kept_sources
from kvfs.cli.options import STATE_DIR, path
from kvfs.cli.output import duration_text, printable, say, size_text
from kvfs.core.errors import UserError
from kvfs.host.control import ControlError
from kvfs.host.mounts import is_stale, mount_at
from kvfs.host.state import MountRecord, lives, records

VERSION: Final = 1
"""Of the JSON: raised when a name goes or changes its meaning, not when one is added."""

REJECTED_SHOWN: Final = 20
CONFLICTS_SHOWN: Final = 5  # the latest
SILENCE_SECONDS: Final = 5.0  # the answer needs no request, so a daemon that takes longer hangs
LABEL_WIDTH: Final = 10

Status = dict[str, Any]


@click.command()
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@click.option("--json", "as_json", is_flag=True, help="For programs: docs/status.md says what it holds.")
@STATE_DIR
def status(directory: Path | None, as_json: bool, state_dir: Path | None) -> int:
    """Show what is pending, what was refused, and how the server answers, in DIR or all mounts of yours."""
    state = state_of(state_dir)
    if directory is None:
        mountpoints = [Path(record.mountpoint) for record in records(state) if _lives(record)]
    else:
        mountpoints = chosen_mounts(directory, state)
    found = [status_of(mountpoint, state) for mountpoint in mountpoints]
    kept = kept_sources(state) if directory is None else []
    if as_json:
        unmounted = [_unmounted(one) for one in kept]
        click.echo(json.dumps({"version": VERSION, "mounts": found, "unmounted": unmounted}, indent=2))
    elif not found:
        say("nothing is mounted")
    else:
        _draw(found)
    if not as_json:
        _draw_kept(kept)
    if any(one["state"] == "dead" for one in found):
        return Exit.FAILED
    return Exit.LEFT if kept else Exit.OK


def _lives(record: MountRecord) -> bool:
    """Whether a record is worth a line: a daemon killed long ago and unmounted since is not."""
    return mount_at(Path(record.mountpoint)) is not None or lives(record.pid)


def status_of(mountpoint: Path, state_dir: Path) -> Status:
    """The status of one mount; `UserError` when there is none at `mountpoint`."""
    record = find_record(mountpoint, state_dir)
    mount = mount_at(mountpoint)
    known: Status = {"mountpoint": str(mountpoint), "source": "", "state": "mounted", "pid": 0, "since": 0.0}
    if record is not None:
        known |= {"source": record.source, "pid": record.pid, "since": record.since}
    elif mount is not None:
        known["source"] = mount.source
    try:
        with daemon_of(mountpoint, state_dir) as client:
            answer = ask(client, {"request": "status"}, silence=SILENCE_SECONDS)
    except ControlError as exc:
        if record is None and (mount is None or not mount.is_kvfs):
            raise UserError(f"{mountpoint} is not a kvfs mount") from exc
        if record is None and not is_stale(mountpoint):
            error = "it is another user's, or was mounted with another --state-dir"
            return known | {"state": "silent", "error": error}
        return known | {"state": "dead" if exc.kind != "silent" else "silent", "error": str(exc)}
    answer.pop("event")
    return known | answer


def _unmounted(kept: Kept) -> Status:
    """A source that is not mounted and holds changes, as JSON."""
    return {
        "source": kept.record.source,
        "mountpoint": kept.record.mountpoint,
        "pending": {
            "count": len(kept.pending),
            "bytes": kept.bytes,
            "oldest_seconds": kept.oldest_seconds,
        },
        "rejected": {"count": len(kept.rejected)},
        "command": kept.command,
        "error": kept.error,
    }


# For people


def _draw(found: list[Status]) -> None:
    for number, one in enumerate(found):
        if number:
            say("")
        click.secho(printable(one["mountpoint"]), bold=True)
        for label, text in _rows(one):
            say(f"  {label:<{LABEL_WIDTH}} {text}")


def _rows(one: Status) -> Iterator[tuple[str, str]]:
    since = f", {duration_text(time.time() - one['since'])}" if one["since"] else ""
    yield "source", one["source"]
    process = f" (process {one['pid']}{since})" if one["pid"] else ""
    yield "state", f"{one['state']}{process}"
    if "pending" in one:
        yield "pending", _counted(one["pending"])
    if "local" in one:
        yield "local", _counted(one["local"])
    if count := one.get("expirations", {}).get("by_mtime", 0):
        yield (
            "expiring",
            f"{count} by an mtime to come: the log names them; or mount with --expiration=attribute",
        )
    yield from _rejected_rows(one.get("rejected", {}))
    yield from _conflict_rows(one.get("conflicts", {}))
    yield from _store_rows(one.get("store", {}))
    if requests := {name: count for name, count in one.get("requests", {}).items() if count}:
        yield "requests", ", ".join(f"{name} {count}" for name, count in requests.items())
    yield from _billed_rows(one.get("keys", {}), one.get("budget", {}))
    if "cache" in one:
        cache = one["cache"]
        size, limit = size_text(cache.get("bytes", 0)), size_text(cache.get("limit", 0))
        yield "cache", f"{cache.get('values', 0)} values, {size} of {limit}"
    if one.get("error"):
        yield "error", one["error"]
    if one["state"] == "dead":
        yield (
            "way out",
            f"kvfs umount {one['mountpoint']}; what was closed is kept, and goes with the next mount",
        )


def _draw_kept(kept: list[Kept]) -> None:
    """Sources that are not mounted and hold changes: their names, what waits, and what sends it."""
    for one in kept:
        say("")
        click.secho(printable(f"{one.record.source}: not mounted"), bold=True)
        shown = _unmounted(one)
        rows = [("pending", _counted(shown["pending"]))]
        if one.rejected:
            rows.append(("refused", f"{len(one.rejected)} by the server: kvfs rejected list"))
        if one.error:
            rows = [("error", one.error)]
        rows.append(("to send", one.command))
        for label, text in rows:
            say(f"  {label:<{LABEL_WIDTH}} {text}")


def _counted(group: Status) -> str:
    count = group.get("count", 0)
    if not count:
        return "nothing"
    age = group.get("oldest_seconds")
    oldest = f", the oldest {duration_text(age)} old" if age is not None else ""
    return f"{count} {'change' if count == 1 else 'changes'}, {size_text(group.get('bytes', 0))}{oldest}"


def _rejected_rows(group: Status) -> Iterator[tuple[str, str]]:
    count, items = group.get("count", 0), group.get("items", [])
    if count:
        yield "refused", f"{count} by the server: kvfs rejected list"
    for item in items[:REJECTED_SHOWN]:
        yield "", f"{item.get('path', '?')}: {item.get('error', '')}"


def _conflict_rows(group: Status) -> Iterator[tuple[str, str]]:
    count, items = group.get("count", 0), group.get("items", [])
    if count:
        yield "conflicts", f"{count} since the mount: both versions are kept"
    for item in items[-CONFLICTS_SHOWN:]:
        yield "", conflict_line(item)


def _billed_rows(keys: Status, budget: Status) -> Iterator[tuple[str, str]]:
    """What the account pays for, and what is left until the server would say 429."""
    if keys:
        kinds = ", ".join(f"{keys.get(name, 0):,} {name}" for name in ("read", "written", "deleted"))
        yield "keys", f"{kinds}, {keys.get('lists', 0):,} lists: ${keys.get('dollars', 0):.6f} at list price"
        yield "saved", f"{keys.get('requests_saved', 0):,} requests, by bulk calls"
    if budget:
        window = duration_text(budget.get("window_seconds", 0))
        yield "budget", f"{budget.get('left', 0):,} requests left of this {window}"


def _store_rows(store: Status) -> Iterator[tuple[str, str]]:
    if not store:
        return
    if store.get("route"):
        yield "route", store["route"]
    if store.get("reachable", True):
        yield "server", "answers"
    else:
        yield "server", f"does not answer: {store.get('error') or 'no reason known'}"
