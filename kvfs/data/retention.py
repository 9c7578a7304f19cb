"""Backups by their names: their chains, and those that a rule keeps. Pure: no file is looked at.

A full backup stands alone. A backup of changes needs the one before it, back to a full one: its chain.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from kvfs.core.errors import UserError

STAMP: Final = "%Y-%m-%dT%H%M%SZ"
SUFFIX: Final = ".ndjson.zst"
_NAME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d{6}Z)-(full|changes)\.ndjson\.(zst|gz)")
_RULE: Final = re.compile("([0-9]{1,6})(h|d|w|mo?)")  # m was months first, and is in timers of people
_PERIODS: Final = {"h": "%Y-%m-%dT%H", "d": "%Y-%m-%d", "w": "%G-W%V", "m": "%Y-%m"}


class Backup(Struct, frozen=True):
    """One backup: `at` is when it was begun, UTC."""

    name: str
    at: datetime
    is_full: bool


def backup_of(name: str) -> Backup | None:
    """Return the backup that a file's name tells; None for another file."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return Backup(name, datetime.strptime(found[1], STAMP).replace(tzinfo=UTC), found[2] == "full")


def name_of(at: datetime, *, is_full: bool) -> str:
    """Return the file name of a backup."""
    return f"{at.astimezone(UTC).strftime(STAMP)}-{'full' if is_full else 'changes'}{SUFFIX}"


def chain_of(backups: Sequence[Backup], wanted: Backup) -> list[Backup]:
    """Return the backups needed to restore `wanted`, a full one first. Raises `UserError` when it is gone."""
    chain: list[Backup] = []
    for backup in sorted(backups, key=lambda one: one.at, reverse=True):
        if backup.at > wanted.at:
            continue
        chain.append(backup)
        if backup.is_full:
            return chain[::-1]
    raise UserError(f"{wanted.name} holds changes, and the full backup before it is gone")


def parse_keep(text: str) -> list[tuple[int, str]]:
    """Parse `7d,4w`: the last backup of each of 7 days and of each of 4 weeks. Raises `UserError`.

    These are periods of the calendar, not durations, so months have a letter too.
    """
    rules = []
    for word in text.split(","):
        found = _RULE.fullmatch(word.strip())
        if found is None or int(found[1]) == 0:
            raise UserError(f"--keep is like 7d,4w (hours h, days d, weeks w, months mo), not {text!r}")
        rules.append((int(found[1]), found[2][0]))
    return rules


def kept(backups: Sequence[Backup], rules: Sequence[tuple[int, str]]) -> set[str]:
    """Return the names that stay: the newest backup, the last of each period, and what these need.

    Periods without a backup do not count: a machine that was off for a month keeps what it has.
    """
    newest_first = sorted(backups, key=lambda one: one.at, reverse=True)
    chosen: list[Backup] = newest_first[:1]
    for count, unit in rules:
        periods: dict[str, Backup] = {}
        for backup in newest_first:
            periods.setdefault(backup.at.strftime(_PERIODS[unit]), backup)
        chosen += list(periods.values())[:count]
    names: set[str] = set()
    for backup in chosen:
        try:
            names |= {one.name for one in chain_of(backups, backup)}
        except UserError:
            names.add(backup.name)  # useless, but not ours to delete
    return names


def is_due(backups: Sequence[Backup], now: datetime, every: timedelta) -> bool:
    """Return whether the next backup is to be a full one."""
    full = [backup.at for backup in backups if backup.is_full]
    return not full or now - max(full) >= every
