"""`kvfs status`: the state of every mount, for people as a table and for programs as JSON (docs/status.md).

The daemon's answer to `status` is shown whole; this file adds the facts known without the daemon.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
from msgspec import to_builtins

from kvfs.cli.daemons import (
    ask_mount,
    chosen_mounts,
    conflict_line,
    find_record,
    is_there,
    reason_line,
)
from kvfs.cli.exits import Exit
from kvfs.cli.options import INTERVAL, STATE_DIR, flag, json_option, path
from kvfs.cli.output import counted, duration_text, say_json, size_text
from kvfs.cli.unsent import UnsentSource, kept_sources
from kvfs.cli.watch import Line, Picture, draw_once, watch
from kvfs.core.errors import UserError
from kvfs.host import replies
from kvfs.host.control import ControlError, DaemonEndedError, NoDaemonError
from kvfs.host.mounts import is_stale, mount_at
from kvfs.host.requests import StatusRequest
from kvfs.host.state import records

VERSION: Final = 1
"""Of the JSON: raised when a name goes or changes its meaning, not when one is added."""

REJECTED_SHOWN: Final = 20
CONFLICTS_SHOWN: Final = 5  # the latest
SILENCE_SECONDS: Final = 5.0  # the answer needs no request, so a daemon that takes longer hangs
WATCHED_SECONDS: Final = 1.0  # for --watch, which asks again anyway and must hear the keys
KEPT_SECONDS: Final = 5.0  # between two looks of --watch into the journals of what is not mounted
REASONS_SHOWN: Final = 5  # the most frequent
LABEL_WIDTH: Final = 10
SERVER: Final = {
    "answers": "answers",
    "limited": "answers; ",
    "quota": "answers, but ",
    "refuses": "answers with an error: ",
    "away": "does not answer: ",
    "slow": "",
}
"""The words before the text, by the state of the server."""

Status = dict[str, Any]


@click.command()
@click.argument("directory", metavar="[DIR]", type=path, required=False)
@json_option("Print one JSON object, as docs/status.md describes it.")
@flag("-w", "--watch", "watched", "Draw it again and again; q or Ctrl-C ends it.")
@INTERVAL
@STATE_DIR
def status(directory: Path | None, as_json: bool, watched: bool, interval: float, state: Path) -> int:
    """Show what is pending, what was refused, and how the server answers, in DIR or in all your mounts.

    With --watch and an output that is no terminal, print a block each interval, with --json a line.
    """
    if watched:
        draw, watched_state = _json_line if as_json else _picture, _Watched(directory, state)
        watch(lambda: draw(watched_state.found()), interval, lines=as_json)
        return Exit.OK
    found = _found(directory, state)
    if as_json:
        say_json(_as_json(found))
    else:
        draw_once(_picture(found))
    if any(one.state == "dead" for one in found.mounts):
        return Exit.FAILED
    return Exit.LEFT if found.kept else Exit.OK


@dataclass(frozen=True, slots=True)
class MountStatus:
    """The facts known without the daemon, and its `report`; without one `error` says why there is none."""

    mountpoint: str
    source: str = ""
    state: str = "mounted"
    pid: int = 0
    since: float = 0.0
    report: replies.StatusReport | None = None
    error: str = ""

    def as_json(self) -> Status:
        """Return the object of docs/status.md."""
        names = ("mountpoint", "source", "state", "pid", "since")
        known = {name: getattr(self, name) for name in names}
        rest = to_builtins(self.report) if self.report is not None else {"error": self.error}
        return {**known, **rest}


@dataclass(frozen=True, slots=True)
class _Found:
    """Everything that is shown. `words` stand in place of the mounts when there are none."""

    mounts: list[MountStatus]
    kept: list[UnsentSource]
    words: str = "nothing is mounted"


def _found(directory: Path | None, state: Path) -> _Found:
    mounts = _mounts(directory, state, SILENCE_SECONDS)
    return _Found(mounts, kept_sources(state) if directory is None else [])


def _mounts(directory: Path | None, state: Path, silence: float) -> list[MountStatus]:
    if directory is None:
        mountpoints = [Path(record.mountpoint) for record in records(state) if is_there(record)]
    else:
        mountpoints = chosen_mounts(directory, state)
    return [status_of(mountpoint, state, silence) for mountpoint in mountpoints]


class _Watched:
    """Reads the status again and again. A mount that went away may come back, so that is no error."""

    def __init__(self, directory: Path | None, state: Path) -> None:
        self._directory = directory
        self._state = state
        self._kept: list[UnsentSource] = []
        self._kept_at = -math.inf

    def found(self) -> _Found:
        """Return the present state. Reads journals now and then only, because a mount that begins waits for that."""
        try:
            mounts = _mounts(self._directory, self._state, WATCHED_SECONDS)
        except UserError as exc:
            return _Found([], [], f"{exc}; waiting for it")
        if self._directory is None and time.monotonic() - self._kept_at >= KEPT_SECONDS:
            self._kept, self._kept_at = kept_sources(self._state, quiet=True), time.monotonic()
        return _Found(mounts, self._kept)


def _as_json(found: _Found) -> Status:
    unmounted = [_unmounted(one) for one in found.kept]
    return {"version": VERSION, "mounts": [one.as_json() for one in found.mounts], "unmounted": unmounted}


def _json_line(found: _Found) -> Picture:
    return [Line(json.dumps(_as_json(found)))]


def status_of(mountpoint: Path, state_dir: Path, silence: float = SILENCE_SECONDS) -> MountStatus:
    """Return the status of one mount; `UserError` when there is none there.

    A silence longer than `silence` is reported.
    """
    record = find_record(mountpoint, state_dir)
    mount = mount_at(mountpoint)
    known = MountStatus(str(mountpoint))
    if record is not None:
        known = MountStatus(str(mountpoint), record.source, "mounted", record.pid, record.since)
    elif mount is not None:
        known = MountStatus(str(mountpoint), mount.source)
    try:
        quiet = silence != SILENCE_SECONDS
        report = ask_mount(mountpoint, state_dir, StatusRequest(), silence=silence, quiet=quiet)
    except ControlError as exc:
        if record is None and (mount is None or not mount.is_kvfs):
            raise UserError(f"{mountpoint} is not a kvfs mount") from exc
        if record is None and not is_stale(mountpoint):
            error = "it is another user's, or was mounted with another --state-dir"
            return replace(known, state="silent", error=error)
        has_died = isinstance(exc, NoDaemonError | DaemonEndedError)
        return replace(known, state="dead" if has_died else "silent", error=str(exc))
    return replace(known, state=report.state, report=report)


def _unmounted(kept: UnsentSource) -> Status:
    """Return a source that is not mounted and holds changes, as JSON."""
    return {
        "source": kept.record.source,
        "mountpoint": kept.record.mountpoint,
        "pending": {
            "count": len(kept.pending),
            "bytes": kept.bytes,
            "oldest_seconds": kept.oldest_seconds,
        },
        "rejected": {"count": len(kept.rejected)},
        "conflicts": {"open": len(kept.conflicts)},
        "command": kept.command,
        "error": kept.error,
    }


# For people


def _picture(found: _Found) -> Picture:
    blocks = [_block(one.mountpoint, _rows(one)) for one in found.mounts] or [[Line(found.words)]]
    blocks += [_block(f"{one.record.source}: not mounted", _kept_rows(one)) for one in found.kept]
    lines = [line for block in blocks for line in (*block, Line(""))]
    return lines[:-1]


def _block(title: str, rows: Iterable[tuple[str, str]]) -> Picture:
    return [Line(title, bold=True), *(Line(f"  {label:<{LABEL_WIDTH}} {text}") for label, text in rows)]


def _rows(one: MountStatus) -> Iterator[tuple[str, str]]:
    since = f", {duration_text(time.time() - one.since)}" if one.since else ""
    yield "source", one.source
    yield "state", f"{one.state} (process {one.pid}{since})" if one.pid else one.state
    if one.report is not None:
        yield from _report_rows(one.report)
    if one.error:
        yield "error", one.error
    if one.state == "dead":
        way = f"kvfs umount {one.mountpoint}; what was closed is kept, and goes with the next mount"
        yield "way out", way


def _report_rows(report: replies.StatusReport) -> Iterator[tuple[str, str]]:
    yield "pending", _counted(report.pending)
    yield "local", counted(report.local.count, "file") if report.local.count else "nothing"
    if count := report.expirations.by_mtime:
        yield (
            "expiring",
            f"{count} by an mtime to come: the log names them; or mount with --expiration=attribute",
        )
    yield from _rejected_rows(report.rejected)
    yield from _conflict_rows(report.conflicts)
    yield from _rename_rows(report.renames)
    yield from _history_rows(report.history)
    yield from _store_rows(report.store)
    yield from _reason_rows(report.reasons)
    if requests := {name: count for name, count in report.requests.items() if count}:
        yield "requests", ", ".join(f"{name} {count}" for name, count in requests.items())
    yield from _billed_rows(report.keys, report.budget)
    cache = report.cache
    yield "cache", f"{cache.values} values, {size_text(cache.bytes)} of {size_text(cache.limit)}"


def _kept_rows(one: UnsentSource) -> Iterator[tuple[str, str]]:
    """Yield rows for a source that is not mounted and holds changes: what waits, and what sends it."""
    if one.error:
        yield "error", one.error
    else:
        yield "pending", _counted(replies.PendingSum(len(one.pending), one.bytes, one.oldest_seconds))
        if one.rejected:
            yield "refused", f"{len(one.rejected)} by the server: kvfs rejected list"
        if one.conflicts:
            yield "conflicts", f"{len(one.conflicts)} open: kvfs conflicts list"
    yield "to send", one.command


def _counted(group: replies.PendingSum) -> str:
    return f"{counted(group.count, 'change')}, {_size_and_age(group)}" if group.count else "nothing"


def _size_and_age(group: replies.PendingSum | replies.HistoryState) -> str:
    age = group.oldest_seconds
    oldest = f", the oldest {duration_text(age)} old" if age is not None else ""
    return f"{size_text(group.bytes)}{oldest}"


def _rejected_rows(group: replies.Rejected) -> Iterator[tuple[str, str]]:
    if group.count:
        yield "refused", f"{group.count} by the server: kvfs rejected list"
    for item in group.items[:REJECTED_SHOWN]:
        yield "", f"{item.path}: {item.error}"


def _conflict_rows(group: replies.Conflicts) -> Iterator[tuple[str, str]]:
    if group.count or group.open:
        way = ": kvfs conflicts list" if group.open else ""
        yield "conflicts", f"{group.open} open, {group.count} since the mount{way}"
    for item in group.items[-CONFLICTS_SHOWN:]:
        yield "", conflict_line(item)


def _history_rows(group: replies.HistoryState) -> Iterator[tuple[str, str]]:
    """Yield rows for the versions that `kvfs restore` can bring back."""
    if group.versions:
        lacking = group.versions - group.kept
        without = f"; {lacking:,} without their content" if lacking > 0 else ""
        yield "history", f"{counted(group.kept, 'version')}, {_size_and_age(group)}{without}"
    if group.lost:
        yield "", f"{group.lost:,} versions are not kept, because the disk has no room: kvfs doctor"


def _billed_rows(
    keys: dict[str, replies.Number], budget: dict[str, replies.Number]
) -> Iterator[tuple[str, str]]:
    """Yield rows for the keys that are billed, and for the requests left before a 429."""
    if keys:
        kinds = ", ".join(f"{keys.get(name, 0):,} {name}" for name in ("read", "written", "deleted"))
        yield "keys", f"{kinds}, {keys.get('lists', 0):,} lists: ${keys.get('dollars', 0):.6f} at list price"
        yield "saved", f"{keys.get('requests_saved', 0):,} requests, by bulk calls"
    if budget:
        window = duration_text(budget.get("window_seconds", 0))
        yield "budget", f"{budget.get('left', 0):,} requests left of this {window}"


def _store_rows(store: replies.Server) -> Iterator[tuple[str, str]]:
    """Yield rows for the state of the server. A store on this machine is no server."""
    if store.route:
        yield "route", store.route
    if store.is_local and store.state in ("answers", "away"):
        if store.text:
            yield "store", f"{store.text}{_again(store)}"
    elif store.state == "disk":
        yield "disk", f"{store.text}{_again(store)}"
    elif store.state in SERVER:
        yield "server", f"{SERVER[store.state]}{store.text}{_again(store)}"


def _again(store: replies.Server) -> str:
    seconds = store.next_try_seconds
    return f"; goes on in {seconds:.0f} s" if seconds is not None else ""


def _reason_rows(reasons: list[replies.ReasonItem]) -> Iterator[tuple[str, str]]:
    """Yield rows for the reasons that keep changes from the server, the most frequent first."""
    for number, reason in enumerate(reasons[:REASONS_SHOWN]):
        yield ("not sent" if number == 0 else ""), reason_line(reason)


def _rename_rows(renames: list[replies.Renaming]) -> Iterator[tuple[str, str]]:
    for one in renames:
        numbers = f"{one.done:,} of {one.total:,}" if one.total else "listing its keys"
        yield "renaming", f"{one.path} to {one.to}: {numbers}"
