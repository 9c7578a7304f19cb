"""The kernel's side of a mount, handed to the daemon by the command line: it needs pyfuse3, and nothing else does."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that all but `kvfs/fuse` imports where pyfuse3 is not
    from kvfs.fuse.operations import Operations
    from kvfs.fuse.session import KernelInvalidator, Session


@dataclass(frozen=True, slots=True)
class KernelSide:
    """The classes of `kvfs/fuse` that a mount is made of."""

    operations: "type[Operations]"
    session: "type[Session]"
    invalidator: "type[KernelInvalidator]"
