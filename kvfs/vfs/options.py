"""The options of a file system."""

from dataclasses import dataclass

from kvfs.core.model import NamespaceId
from kvfs.core.names import DirRef

RootRef = tuple[NamespaceId, DirRef]
"""Where the root of a mount is, if it is not the list of namespaces."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the file system. Seconds and bytes. `root`: where it is; None: the list of namespaces."""

    timeout: float = 30.0
    max_pending: int = 10 * 1024**3
    durable: bool = False
    read_only: bool = False
    umask: int = 0o022
    exact_sizes: bool = True
    local_names: tuple[str, ...] = ()
    expiration_is_mtime: bool = True
    root: RootRef | None = None
