"""`kvfs restore`: a version written back through the mount, of a file, or of all files of a directory."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from kvfs.cli.asking import confirm
from kvfs.cli.completing import PLACE
from kvfs.cli.daemons import mounted_path
from kvfs.cli.exits import Exit
from kvfs.cli.history import what
from kvfs.cli.options import DRY_RUN, STATE_DIR, YES, path
from kvfs.cli.output import complain, counted, first_of, say, size_text
from kvfs.cli.past import Past, PastPlace, content_of, find_place, versions_of, written
from kvfs.core.errors import InvalidError, UserError
from kvfs.core.names import SELF
from kvfs.history.moments import FORMS, parse_time, time_text
from kvfs.history.restore_choice import as_of, last_deletion
from kvfs.history.version import Version

SHOWN: Final = 20
LEAST_LIFE: Final = 60  # seconds: KV keeps nothing for less
METADATA: Final = "user.kvfs.metadata"
EXPIRATION: Final = "user.kvfs.expiration"

Chosen = dict[tuple[str, ...], Past]


@dataclass(frozen=True, slots=True)
class Restoring:
    """One file to be written, and the versions of its key."""

    past: Past
    others: list[Past]
    target: Path


@click.command(
    epilog="kvfs restore notes.txt; after rm -r: kvfs restore DIR; as it was: kvfs restore DIR --at 2h;"
    " a look first: --dry-run, or --to OTHER."
)
@click.argument("place", metavar="PATH|SOURCE[/PATH]", type=PLACE)
@click.option("--at", "moment", metavar="TIME", help=f"Restore the state at TIME: {FORMS}.")
@click.option("--to", "other", metavar="OTHER", type=path, help="Write to OTHER instead.")
@DRY_RUN
@YES
@STATE_DIR
def restore(place: str, moment: str | None, other: Path | None, dry_run: bool, yes: bool, state: Path) -> int:
    """Write back what was overwritten or deleted at PATH: the last version of a file, or a directory after rm -r.

    Metadata and expiration come back too. What is there now goes into the history first, so that a restore can be
    restored. Of a directory without --at all that the last deletion took away comes back, and no file is written over.
    """
    at = _moment(moment)
    found = find_place(place, state)
    if found.mountpoint is None and other is None:
        raise UserError(
            f"{found.record.source} is not mounted: kvfs mount {found.record.source} {found.record.mountpoint},"
            " or name an ordinary place with --to"
        )
    now = written(found, state)
    pasts = versions_of(found)
    is_file = set(pasts) == {found.names}
    chosen = _of_file(found, pasts, at) if is_file else _of_directory(found, pasts, at)
    todo = list(_todo(found, pasts, chosen, other))
    if at is None and not is_file and other is None:
        todo = _without_present(todo)
    if dry_run:
        for one in todo:
            when = time_text(one.past.version.at)
            say(f"would restore {one.target}  {size_text(one.past.version.size)}  {what(one.past)} {when}")
        return Exit.OK
    mountpoint = found.mountpoint
    is_same = other is None or (mountpoint is not None and other.is_relative_to(mountpoint))
    is_kvfs = is_same or mounted_path(str(other)) is not None
    is_kept = is_same and now is not None and now.keeps
    present = [one.target for one in todo if one.target.exists()]
    if present and not yes and not (is_file and is_kept):
        _ask(present, is_kept=is_kept)
    return _restore(todo, is_kvfs=is_kvfs)


def _ask(present: list[Path], *, is_kept: bool) -> None:
    """Ask before files are written over. `is_kept`: their present content goes into the history."""
    words = f"{present[0]} exists and is written over"
    if len(present) > 1:
        words = f"{len(present)} files exist and are written over, {present[0]} among them"
    lost = "" if is_kept else "; what is there now is not kept"
    confirm(f"{words}{lost}. Go on?")


def _moment(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_time(text, time.time())
    except InvalidError as exc:
        raise click.BadParameter(str(exc), param_hint="--at") from exc


# versions


def _of_file(place: PastPlace, pasts: dict[tuple[str, ...], list[Past]], at: float | None) -> Chosen:
    (found,) = pasts.values()
    past: Past | None
    if at is None:
        past = found[-1]
    else:
        past = _past_of(found, as_of([one.version for one in found], at))
        if past is None:
            raise UserError(
                f"{place.text} was not changed after {time_text(at)}, or was made later: kvfs history {place.text}"
            )
    if not past.version.is_kept:
        was = f"what was {what(past)} at {time_text(past.version.at)}"
        raise UserError(f"{place.text}: {was} is not kept: {past.version.why}{_way_out(found)}")
    return {place.names: past}


def _way_out(found: list[Past]) -> str:
    kept = [past for past in found if past.version.is_kept]
    if not kept:
        return ""
    before = time_text(kept[-1].version.at - 1)
    return (
        f"; the last that is kept was {what(kept[-1])} at {time_text(kept[-1].version.at)}: --at '{before}'"
    )


def _past_of(found: list[Past], version: Version | None) -> Past | None:
    return next((past for past in found if past.version is version), None)


def _of_directory(place: PastPlace, pasts: dict[tuple[str, ...], list[Past]], at: float | None) -> Chosen:
    if not pasts:
        raise UserError(f"nothing was overwritten or deleted at {place.text}, or it is not kept any more")
    versions = {names: [past.version for past in found] for names, found in pasts.items()}
    if at is None:
        taken = last_deletion(versions)
        if not taken:
            raise UserError(
                f"nothing was deleted below {place.text}: --at TIME takes files back to what they were"
            )
    else:
        taken = {names: one for names, some in versions.items() if (one := as_of(some, at)) is not None}
        if not taken:
            raise UserError(f"nothing below {place.text} was changed after {time_text(at)}")
    return {
        names: past
        for names, version in taken.items()
        if (past := _past_of(pasts[names], version)) is not None
    }


def _todo(
    place: PastPlace, pasts: dict[tuple[str, ...], list[Past]], chosen: Chosen, other: Path | None
) -> Iterator[Restoring]:
    above = {names[:depth] for names in chosen for depth in range(1, len(names))}
    base = other if other is not None else place.path
    assert base is not None
    for names, past in sorted(chosen.items()):
        below = names[len(place.names) :]
        if not below and other is not None and other.is_dir():
            below = names[-1:]
        target = base.joinpath(*below)
        if names in above or (target.is_dir() and other is None):
            target = target / SELF
        yield Restoring(past, pasts[names], target)


def _without_present(todo: list[Restoring]) -> list[Restoring]:
    present = [one for one in todo if one.target.exists()]
    lines = [f"{one.target} exists and is left as it is: restore it by its own name" for one in present]
    for line in first_of(lines, SHOWN):
        complain(line)
    return [one for one in todo if one not in present]


# writing


def _restore(todo: list[Restoring], *, is_kvfs: bool) -> int:
    count = size = left = 0
    for one in todo:
        try:
            size += _write(one, is_kvfs=is_kvfs)
        except UserError as exc:
            left += 1
            if left <= SHOWN:
                complain(str(exc))
            continue
        count += 1
        if count <= SHOWN:
            version = one.past.version
            until = f"until it was {what(one.past)} at {time_text(version.at)}"
            say(f"restored {one.target}: {size_text(version.size)}, as it was {until}")
    if count > SHOWN:
        say(f"… and {count - SHOWN:,} more: {size_text(size)} in all")
    if left:
        complain(f"{counted(left, 'file is', 'files are')} not restored")
    return Exit.LEFT if left else Exit.OK


def _write(one: Restoring, *, is_kvfs: bool) -> int:
    version, target = one.past.version, one.target
    try:
        is_there = target.is_file()
        # a content that was read is at hand when it is written over, and goes into the history
        present = target.read_bytes() if is_there else None
        content = content_of(one.past, one.others, present)
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(target, flags, version.mode if version.mode is not None else 0o666)
        with open(descriptor, "wb") as file:
            file.write(content)
            if not is_there:  # content and attributes become one change
                file.flush()
                _set_attributes(file.fileno(), version, target, is_kvfs=is_kvfs)
        if is_there:  # else the version of what was there would have these attributes
            _set_attributes(target, version, target, is_kvfs=is_kvfs)
    except OSError as exc:
        raise UserError(f"{target}: {exc.strerror or exc}") from exc
    return len(content)


def _set_attributes(file: int | Path, version: Version, target: Path, *, is_kvfs: bool) -> None:
    if version.mode is not None:
        os.chmod(file, version.mode)
    if version.mtime_ns is not None:
        os.utime(file, ns=(version.mtime_ns, version.mtime_ns))
    if not is_kvfs:
        if version.metadata is not None or version.expiration is not None:
            complain(f"{target}: metadata and expiration are left out, because it is no kvfs mount")
        return
    expiration = version.expiration
    if expiration is not None and expiration - time.time() <= LEAST_LIFE:
        complain(
            f"{target}: its expiration was {time_text(expiration)} and has passed; it is restored without one"
        )
        expiration = None
    _set_or_remove(file, METADATA, version.metadata)
    _set_or_remove(file, EXPIRATION, None if expiration is None else str(expiration).encode())


def _set_or_remove(file: int | Path, name: str, value: bytes | None) -> None:
    if value is not None:
        os.setxattr(file, name, value)
    else:
        with suppress(OSError):
            os.removexattr(file, name)
