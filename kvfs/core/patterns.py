"""Names of files that editors and desktops make for themselves and nobody means to publish."""

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Final

LOCAL_PATTERNS: Final = (
    ".*.sw?",  # vim: swap
    ".#*",  # emacs: lock
    "#*#",  # emacs: auto-save
    "*~",  # emacs, vim, gedit: backup
    ".~lock.*#",  # LibreOffice: lock
    ".goutputstream-*",  # GLib: the new file before its rename
    "*.vsctmp",  # VS Code: likewise
    ".fuse_hidden*",  # libfuse: removed while open
    ".nfs*",  # NFS: removed while open
    ".DS_Store",  # macOS: Finder
    "._*",  # macOS: resource forks
    ".Trash-*",  # freedesktop: waste bin
)


class LocalNames:
    """The names that stay on this machine: shell patterns, case matters, a leading dot is nothing special."""

    def __init__(self, patterns: Iterable[str] = LOCAL_PATTERNS) -> None:
        self.patterns: Final = tuple(patterns)
        either = "|".join(translate(pattern) for pattern in self.patterns)
        self._matches: Final = re.compile(either or r"(?!)").match

    def __repr__(self) -> str:
        return f"LocalNames({self.patterns!r})"

    def matches(self, name: str) -> bool:
        """Whether one file name, not a path, is local."""
        return self._matches(name) is not None
