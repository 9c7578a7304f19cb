"""The kernel's side of a mount, which the command line hands to the daemon, because only this side needs pyfuse3."""

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
