"""`kvfs conflicts`: values that another client changed too; both versions are kept until the user chooses."""

import difflib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import click

from kvfs.cli.asking import confirm
from kvfs.cli.completing import KEPT
from kvfs.cli.daemons import ask_mount, living_mounts, mount_containing
from kvfs.cli.exits import Exit
from kvfs.cli.helping import HelpGroup
from kvfs.cli.options import STATE_DIR, YES, flag, grouped, json_option, path
from kvfs.cli.output import complain, counted, duration_text, say, size_text
from kvfs.cli.unsent import items_of, kept_sources, say_items
from kvfs.core.errors import UserError
from kvfs.host.control import Message
from kvfs.host.mounts import mount_at
from kvfs.host.replies import ConflictItem
from kvfs.host.requests import ConflictsRequest, KeepRequest

ASK_SECONDS: Final = 60.0  # settling may have to read what the server has
MOST_COPIES: Final = 25  # in one request, which is a line of so many bytes at most, and names are long
ATTRIBUTES: Final = {"metadata": "user.kvfs.metadata", "expiration": "user.kvfs.expiration"}


@dataclass(frozen=True, slots=True)
class Side:
    """One version of a value, as the mount shows it. `content` is None when there is no such file."""

    name: str
    content: bytes | None
    metadata: str = ""
    expiration: str = ""


@click.group(cls=HelpGroup, no_args_is_help=False)  # the help would be more than one line of complaint
def conflicts() -> None:
    """List, compare and settle conflicts: values that another client changed while they were changed here.

    Both versions are kept. The file NAME has theirs, and NAME.kvfs-conflict-HOST-TIME beside it has yours. You can
    also settle the conflict by removing or renaming that file.
    """


@conflicts.command("list")
@click.argument("source", metavar="[SOURCE|DIR]", required=False, type=KEPT)
@json_option()
@STATE_DIR
def list_conflicts(source: str | None, as_json: bool, state: Path) -> None:
    """List open conflicts of SOURCE or DIR, or of all sources, mounted or not."""
    items = items_of(source, state, ConflictsRequest(), lambda kept: kept.conflicts)
    say_items(items, _line, "no conflict is open", as_json=as_json)


def _line(item: Message) -> str:
    place, age = item["mountpoint"] or item["source"], duration_text(max(0.0, time.time() - item["at"]))
    sizes = f"yours {size_text(item['copy_size'])}, theirs {size_text(item['size'])}"
    return f"{place}/{item['path']}  {sizes}  {age} ago: yours is {item['copy']}"


def _of_mount(mountpoint: Path, state: Path) -> list[ConflictItem]:
    return ask_mount(mountpoint, state, ConflictsRequest()).items


@conflicts.command("diff")
@click.argument("target", metavar="PATH", type=path)
@STATE_DIR
def diff_conflict(target: Path, state: Path) -> None:
    """Show how the two versions of PATH differ: lines of text, or sizes and the first different byte.

    PATH is the file or its copy. Metadata and expiration are compared too.
    """
    mountpoint, inside = mount_containing(target)
    found = _chosen(target, inside, _of_mount(mountpoint, state))
    for item in found:
        theirs, mine = _side(mountpoint, item.path), _side(mountpoint, item.copy)
        for line in difference(theirs, mine):
            say(line)


def _side(mountpoint: Path, name: str) -> Side:
    file = mountpoint / name
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return Side(name, None)
    return Side(name, content, *(_attribute(file, one) for one in ATTRIBUTES.values()))


def _attribute(file: Path, name: str) -> str:
    try:
        return os.getxattr(file, name).decode(errors="replace")
    except OSError:  # it has none
        return ""


def difference(theirs: Side, mine: Side) -> Iterator[str]:
    """Return lines that say how two versions differ; at least one."""
    lines = list(_content_lines(theirs, mine))
    if theirs.content is not None and mine.content is not None:
        for name in ATTRIBUTES:
            before, after = getattr(theirs, name), getattr(mine, name)
            if name == "expiration":
                before, after = _moment(before), _moment(after)
            if before != after:
                lines.append(f"{name}: theirs {before or 'none'}, yours {after or 'none'}")
    yield from lines or [f"{theirs.name} and {mine.name} are the same"]


def _moment(text: str) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(text))) if text.isdigit() else text


def _content_lines(theirs: Side, mine: Side) -> Iterator[str]:
    for side, whose in ((theirs, "theirs"), (mine, "yours")):
        if side.content is None:
            yield f"{side.name}: {whose} is not there any more"
    if theirs.content is None or mine.content is None or theirs.content == mine.content:
        return
    try:
        before, after = theirs.content.decode(), mine.content.decode()
    except UnicodeDecodeError:
        yield from _binary_lines(theirs, mine)
        return
    yield from difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        f"{theirs.name} (theirs)",
        f"{mine.name} (yours)",
        lineterm="",
    )
    if before.splitlines() == after.splitlines():
        yield f"{theirs.name} and {mine.name} differ in line ends only"


def _binary_lines(theirs: Side, mine: Side) -> Iterator[str]:
    before, after = theirs.content or b"", mine.content or b""
    first = next((n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
    at = min(len(before), len(after)) if first is None else first
    sizes = f"theirs {len(before):,} bytes, yours {len(after):,} bytes"
    yield f"{theirs.name}: binary; {sizes}, first difference at byte {at:,}"


@conflicts.group("keep", cls=HelpGroup, no_args_is_help=False)
def keep() -> None:
    """Settle conflicts: `keep mine` or `keep theirs`."""


_CONFLICTS: Final = grouped(
    click.argument("targets", metavar="[PATH]...", type=path, nargs=-1),
    flag("--all", "everything", "Take all open conflicts in all your mounts."),
    STATE_DIR,
)


@keep.command("mine")
@_CONFLICTS
def mine(targets: tuple[Path, ...], everything: bool, state: Path) -> int:
    """Keep your version: the file gets it, with its metadata and expiration, and the copy is removed."""
    return _settle("mine", _meant(targets, everything, state), state)


@keep.command("theirs")
@_CONFLICTS
@YES
def theirs(targets: tuple[Path, ...], everything: bool, yes: bool, state: Path) -> int:
    """Keep their version: the copy with yours is removed. With --all the command asks first."""
    meant = _meant(targets, everything, state)
    count = sum(map(len, meant.values()))
    if everything and count and not yes:
        confirm(f"What was written here to {count} files will be lost. Delete it?")
    return _settle("theirs", meant, state)


def _meant(targets: tuple[Path, ...], everything: bool, state: Path) -> dict[Path, list[ConflictItem]]:
    """Return the conflicts that were named, by mount point. Raises `UserError` for a name that has none."""
    if bool(targets) == everything:
        raise click.UsageError("name the PATHs that `kvfs conflicts list` shows, or --all")
    found: dict[Path, list[ConflictItem]] = {}
    if everything:
        mounted = [Path(one.mountpoint) for one in living_mounts(None, state)]
        return {mountpoint: _of_mount(mountpoint, state) for mountpoint in mounted}
    for target in targets:
        mountpoint, inside = _mount_of(target, state)
        chosen = _chosen(target, inside, _of_mount(mountpoint, state))
        meant = found.setdefault(mountpoint, [])
        meant += [item for item in chosen if item not in meant]  # the name and the copy may both be given
    return found


def _mount_of(target: Path, state: Path) -> tuple[Path, str]:
    """Return the mount of a path, and the path in it. Raise for a source that is not mounted, with what mounts it."""
    try:
        return mount_containing(target)
    except UserError:
        for kept in kept_sources(state):
            if kept.conflicts and target.is_relative_to(kept.record.mountpoint):
                raise UserError(f"{kept.record.source} is not mounted: {kept.command}") from None
        raise


def _chosen(target: Path, inside: str, items: list[ConflictItem]) -> list[ConflictItem]:
    found = [item for item in items if inside in (item.path, item.copy)]
    if not found:
        raise UserError(f"{target} has no open conflict: kvfs conflicts list shows those there are")
    return found


def _settle(what: Literal["mine", "theirs"], meant: dict[Path, list[ConflictItem]], state: Path) -> int:
    """Have the daemons settle them; say how many were settled, and which were not."""
    if what == "mine":
        _check_single(meant)
    count, status = 0, Exit.OK
    for mountpoint, items in meant.items():
        if not items or mount_at(mountpoint) is None:
            continue
        copies = [item.copy for item in items]
        for start in range(0, len(copies), MOST_COPIES):
            request = KeepRequest(what, copies[start : start + MOST_COPIES])
            answer = ask_mount(mountpoint, state, request, silence=ASK_SECONDS)
            count += answer.count
            for failed in answer.failed:
                complain(f"{mountpoint}/{failed.path}: {failed.error}; the conflict stays open")
                status = Exit.FAILED
    kept = "your version is the value now" if what == "mine" else "your version is gone"
    say(f"{counted(count, 'conflict')} settled: {kept}")
    return status


def _check_single(meant: dict[Path, list[ConflictItem]]) -> None:
    """Refuse a name with several versions of yours, because a name has one value and the user must say which."""
    for mountpoint, items in meant.items():
        paths = [item.path for item in items]
        for name in paths:
            if paths.count(name) > 1:
                copies = ", ".join(item.copy for item in items if item.path == name)
                raise UserError(f"{mountpoint}/{name} has several versions of yours: name one of {copies}")
