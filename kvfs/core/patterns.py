"""Names of files that editors and desktops make for themselves and nobody means to publish.

A program's temporary file belongs here when its name says beyond doubt that it is one: then a save by write,
fsync and rename is one write at the server. A name that a user might choose (`x.tmp`, `x.bak`, `x.AbCdEf`)
does not: a file that silently stays here is worse than a write too many.
"""

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
    "*___jb_tmp___",  # JetBrains: likewise
    "*___jb_old___",  # JetBrains: the old file after its rename
    ".subl*.tmp",  # Sublime Text: the new file before its rename
    ".tmp??????",  # Rust's tempfile: likewise
    ".*.kate-swp",  # Kate: swap
    ".fuse_hidden*",  # libfuse: removed while open
    ".nfs*",  # NFS: removed while open
    ".DS_Store",  # macOS: Finder
    "._*",  # macOS: resource forks
    ".Trash-*",  # freedesktop: waste bin
)


class LocalNames:
    """The patterns of names that stay on this machine: shell patterns with case; a leading dot is nothing special."""

    def __init__(self, patterns: Iterable[str] = LOCAL_PATTERNS) -> None:
        self.patterns: Final = tuple(patterns)
        either = "|".join(translate(pattern) for pattern in self.patterns)
        self._matches: Final = re.compile(either or r"(?!)").match

    def __repr__(self) -> str:
        return f"LocalNames({self.patterns!r})"

    def matches(self, name: str) -> bool:
        """Return whether one file name, not a path, is local."""
        return self._matches(name) is not None
