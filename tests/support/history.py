"""The content of a history, read from the disk as `kvfs history` reads it."""

from pathlib import Path

from kvfs.history.version import OWN_FILE, SAME_CONTENT, Version
from kvfs.history.version_segment import segments


def versions(directory: Path) -> list[Version]:
    """Return every version, oldest first."""
    found = [v for segment in segments(directory) for batch in segment.batches() for v in batch.versions]
    return sorted(found, key=lambda version: version.at)


def contents(directory: Path) -> list[tuple[str, str, bytes | str]]:
    """Return key, kind of change, and the content or why it is not kept; oldest first."""
    found = []
    for segment in segments(directory):
        for batch in segment.batches():
            for one in batch.versions:
                content = one.why or ("=" if one.offset == SAME_CONTENT else segment.content(one))
                found.append((one.at, one.key, str(one.how), content))
    return [line[1:] for line in sorted(found, key=lambda line: line[0])]


def large_files(directory: Path) -> list[Path]:
    """Return the contents that have files of their own."""
    assert OWN_FILE == -1
    return [path for path in directory.glob("*/*") if len(path.name) == 32]
