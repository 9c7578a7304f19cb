"""`kvfs backup SOURCE DIR` and `kvfs restore-backup DIR SOURCE`: dated exports that keep themselves in order."""

import os
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click
import trio

from kvfs.cli.completing import PLACE
from kvfs.cli.exits import Exit
from kvfs.cli.keys import complain_of
from kvfs.cli.moving import run_copy
from kvfs.cli.options import DRY_RUN, YES, flag, option, path
from kvfs.cli.output import say, size_text
from kvfs.cli.places import Access, FileWords, StoreWords, access_options, parse_store
from kvfs.cli.sides import CopyRequest, open_sides, reader_of
from kvfs.core.errors import UserError
from kvfs.core.measures import DAY
from kvfs.data.backups import BackupIndex, backups_in, merge, read_backup, verify, write_changes
from kvfs.data.copier import CopyOptions
from kvfs.data.retention import Backup, backup_of, chain_of, is_due, kept, name_of, parse_keep
from kvfs.data.selection import Selection
from kvfs.data.streams import Format
from kvfs.host.state import private_directory, private_opener, state_name
from kvfs.settings import SOME_DURATION

PARTIAL: Final = ".partial"


@click.command()
@click.argument("source", metavar="SOURCE", envvar="KVFS_BACKUP_SOURCE", type=PLACE)
@click.argument("directory", metavar="DIR", type=path, envvar="KVFS_BACKUP_DIR")
@click.option(
    "--keep",
    metavar="RULE",
    envvar="KVFS_BACKUP_KEEP",
    help="Delete older backups: 7d,4w keeps one of each of 7 days and 4 weeks.",
)
@option(
    SOME_DURATION,
    "full-every",
    "Make a full backup after this time, and backups of changes between.",
    7 * DAY,
    variable=False,
)
@flag("--full", "is_full", "Make a full backup now.")
@flag("--listing-only", "Read only values of new keys and changed listings; misses other changes.")
@access_options
def backup(
    source: str,
    directory: Path,
    keep: str | None,
    full_every: float,
    is_full: bool,
    listing_only: bool,
    access: Access,
) -> int:
    """Export SOURCE to a dated file in DIR: everything, or what changed since the last one."""
    rules = parse_keep(keep) if keep else []
    words = parse_store(source, access)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    every = timedelta.min if is_full else timedelta(seconds=full_every)
    status = trio.run(_back_up, words, directory, access, every, listing_only)
    if status == Exit.OK and rules:
        _prune(directory, rules)
    return status


async def _back_up(
    words: StoreWords, directory: Path, access: Access, every: timedelta, listing_only: bool
) -> int:
    now = datetime.now(UTC)
    with closing(BackupIndex(directory)) as index:
        found = backups_in(directory)
        newest = found[-1].name if found else ""
        if index.name != newest or is_due(found, now, every):
            return await _full(words, directory, access, index, now)
        return await _changes(words, directory, access, index, now, listing_only=listing_only)


async def _full(words: StoreWords, directory: Path, access: Access, index: BackupIndex, now: datetime) -> int:
    """Make a full copy; one that was interrupted goes on under the name that it had."""
    name = _begun(directory) or name_of(now, is_full=True)
    file = directory / name
    target = FileWords(file, Format("ndjson", "zstd"), str(file))
    options = CopyOptions(choice=Selection(strip=words.rest))
    status = await run_copy(CopyRequest(words, target, options, access, yes=True))
    if not file.exists():
        return status
    count = await trio.to_thread.run_sync(
        lambda: index.replace(name, (record for _, record in read_backup(file) if record is not None))
    )
    say(f"{name}: all {count:,} keys, {size_text(file.stat().st_size)}, verified")
    return status


def _begun(directory: Path) -> str:
    """Return the full backup that an earlier run did not complete; "" when there is none, or a later one."""
    begun = [name.removesuffix(PARTIAL) for name in os.listdir(directory) if name.endswith(PARTIAL)]
    newest = max((one.at for one in backups_in(directory)), default=datetime.min.replace(tzinfo=UTC))
    found = [one for one in map(backup_of, begun) if one is not None and one.at > newest]
    return max(found, key=lambda one: one.at).name if found else ""


async def _changes(
    words: StoreWords,
    directory: Path,
    access: Access,
    index: BackupIndex,
    now: datetime,
    *,
    listing_only: bool,
) -> int:
    name = name_of(now, is_full=False)
    file = directory / name
    partial = directory / f".changes{PARTIAL}"
    async with open_sides(access) as sides:
        reader = reader_of(await sides.open(words), words.rest, time.time())
        index.begin()
        try:
            with open(partial, "wb", opener=private_opener) as out:  # noqa: ASYNC230 # as quick as what is written to it
                changes = await write_changes(index, reader, out, time.time, listing_only=listing_only)
                out.flush()
                os.fsync(out.fileno())
            counts = (changes.changed, changes.gone)
            if any(counts):
                await trio.to_thread.run_sync(_publish, partial, file, counts)
                index.commit(name)
        finally:
            index.roll_back()  # unless it was committed
            partial.unlink(missing_ok=True)
        if any(counts):
            size = size_text(file.stat().st_size)
            say(f"{name}: {counts[0]:,} changed, {counts[1]:,} gone, {size}, verified")
        else:
            say("nothing has changed since the last backup")
    return Exit.LEFT if complain_of(changes.problems) else Exit.OK


def _publish(partial: Path, file: Path, counts: tuple[int, int]) -> None:
    """Give a backup its final name when it holds everything. Raises `UserError`."""
    if verify(partial) != counts:
        raise UserError(f"{file.name} could not be verified: it does not hold what was written")
    partial.rename(file)


def _prune(directory: Path, rules: list[tuple[int, str]]) -> None:
    found = backups_in(directory)
    stay = kept(found, rules)
    for old in found:
        if old.name not in stay:
            (directory / old.name).unlink()
            say(f"{old.name}: deleted")


@click.command("restore-backup")
@click.argument("directory", metavar="DIR", type=path)
@click.argument("target", metavar="SOURCE", required=False, type=PLACE)
@click.option(
    "--at", "wanted", metavar="NAME", help="Use this backup, or the last one before a time (2026-11-29T08)."
)
@flag("--delete", "Delete keys that the backup does not have.")
@DRY_RUN
@YES
@access_options
def restore_backup(
    directory: Path,
    target: str | None,
    wanted: str | None,
    delete: bool,
    dry_run: bool,
    yes: bool,
    access: Access,
) -> int:
    """Write a backup back to SOURCE. Without SOURCE, list the backups and verify each."""
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory")
    found = backups_in(directory)
    if not found:
        raise UserError(f"there is no backup in {directory}")
    if target is None:
        return _list(directory, found)
    chain = chain_of(found, _chosen(found, wanted))
    words = parse_store(target, access)
    private_directory(access.state)
    merged = private_directory(access.copies) / f"restore-{state_name(f'{directory} {chain[-1].name}')}"
    with open(merged, "wb", opener=private_opener) as file:
        count = merge(directory, chain, file)
    os.utime(merged, (0, 0))  # a restore that goes on must find the file as it was
    say(f"{chain[-1].name}: {count:,} keys, from {len(chain)} {'file' if len(chain) == 1 else 'files'}")
    copy_options = CopyOptions(choice=Selection(add=words.rest), delete=delete)
    source = FileWords(merged, Format("ndjson"), str(merged))
    status = trio.run(run_copy, CopyRequest(source, words, copy_options, access, dry_run=dry_run, yes=yes))
    if status == Exit.OK:
        merged.unlink()
    return status


def _chosen(found: list[Backup], wanted: str | None) -> Backup:
    if wanted is None:
        return found[-1]
    before = [backup for backup in found if backup.name == wanted or backup.name[: len(wanted)] <= wanted]
    exact = [backup for backup in found if backup.name == wanted]
    if not before:
        raise UserError(f"there is no backup of {wanted} or before; the oldest is {found[0].name}")
    return (exact or before)[-1]


def _list(directory: Path, found: list[Backup]) -> int:
    status = Exit.OK
    for one in found:
        try:
            entries, deletions = verify(directory / one.name)
        except UserError as exc:
            say(f"{one.name}: {exc}")
            status = Exit.FAILED
            continue
        gone = f", {deletions:,} gone" if deletions else ""
        say(f"{one.name}: {entries:,} keys{gone}, {size_text((directory / one.name).stat().st_size)}")
    return status
