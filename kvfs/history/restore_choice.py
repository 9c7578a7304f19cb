"""The choice of a version to restore: pure rules over the versions of keys, oldest first."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from kvfs.core.model import How
from kvfs.history.version import Version

TOGETHER: Final = 60.0  # seconds between two deletions of one `rm -r`, at most
_GONE: Final = (How.DELETE, How.RENAME)  # after these nothing is there

Name = TypeVar("Name")


def as_of(versions: Sequence[Version], moment: float) -> Version | None:
    """Return a key's version at a moment (epoch seconds); None: it is as now, or was not there."""
    before: Version | None = None
    for version in versions:
        if version.at > moment:
            is_younger = version.since is not None and version.since > moment
            if is_younger and (before is None or before.how in _GONE):
                return None  # it was made later
            return version
        before = version
    return None


def last_deletion(keys: Mapping[Name, Sequence[Version]]) -> dict[Name, Version]:
    """Return the last version of each key that the last deletion took away, with all that went shortly before it."""
    deleted = {name: found[-1] for name, found in keys.items() if found and found[-1].how is How.DELETE}
    chosen: dict[Name, Version] = {}
    latest: float | None = None
    for name in sorted(deleted, key=lambda one: deleted[one].at, reverse=True):
        version = deleted[name]
        if latest is not None and latest - version.at > TOGETHER:
            break
        chosen[name] = version
        latest = version.at
    return chosen
