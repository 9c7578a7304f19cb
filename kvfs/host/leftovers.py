"""Files that dead mounts left in the state directory: records, sockets, halves of files, logs."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from kvfs.host.claims import locked
from kvfs.host.mounts import mount_at
from kvfs.host.state import birth, is_half, log_path, read_record, records

_WITH_HALVES: Final = ("kinds", "endpoints", "copies", "sources/*")  # beside "mounts"
_KNOWN: Final = (".json", ".sock", ".log", ".log.1", ".log.2", ".log.3", ".lock")


def remove_records(state_dir: Path) -> None:
    """Remove records of daemons that died and whose directory is not mounted any more, with their sockets.

    A mount that begins there meanwhile keeps its own, because no record is written while this looks.
    """
    with suppress(OSError), locked(state_dir / "mounts"):
        for path in (state_dir / "mounts").glob("*.json"):
            record = read_record(path)
            if record is None or mount_at(Path(record.mountpoint)) is not None:
                continue
            born = birth(record.pid)
            if born == 0 or (record.born and born != record.born):
                with suppress(OSError):
                    path.unlink()
                    Path(record.socket).unlink()


def remove_old_files(state_dir: Path, before: float) -> None:
    """Remove logs of mounts, halves of files and counts of requests that nobody wrote to since then (epoch seconds).

    The log of a mount that is still there stays: call `remove_records` before.
    """
    in_use = {log_path(Path(record.mountpoint), state_dir) for record in records(state_dir)}
    for path in (state_dir / "mounts").glob("*"):
        if path in in_use:  # a mount may have nothing to say for months
            continue
        is_log = ".log" in path.suffixes
        if is_log or not path.name.endswith(_KNOWN):
            with suppress(OSError):
                if path.is_file() and path.stat().st_mtime < before:
                    path.unlink()
    found = [path for folder in _WITH_HALVES for path in state_dir.glob(f"{folder}/*") if is_half(path)]
    for path in (*(state_dir / "requests").glob("*"), *found):
        with suppress(OSError):
            if path.stat().st_mtime < before:
                path.unlink()
