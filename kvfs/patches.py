"""Changes to libraries that offer no option for what we need, with the versions they were tried with.

Each replaces one name. The daemon and the server apply them when they start; an import changes nothing. Where a
library is not made as expected, nothing is replaced: it works as it comes, slower or with the fault named here.
"""

import sys
from dataclasses import dataclass
from typing import Any, Final, cast


@dataclass(frozen=True, slots=True)
class Patch:
    """One name of a library. `needs` are names that must be beside it, or the replacement would not fit."""

    library: str
    tried: tuple[str, ...]
    name: str
    needs: tuple[str, ...] = ()

    def fits(self, owner: object) -> bool:
        """True if `owner`, the module or class that holds the name, is made as expected."""
        return all(hasattr(owner, name) for name in (self.name, *self.needs))

    def apply(self, owner: object, replacement: object) -> bool:
        """Replace the name; return False, with nothing done, if that does not fit."""
        if not self.fits(owner):
            return False
        setattr(owner, self.name, replacement)
        return True


HYPERCORN_CONNECTION: Final = Patch("hypercorn", ("0.17.3", "0.18.0"), "TCPServer", ("worker_serve",))
"""Of `hypercorn.trio.run`. As it comes, a connection that its client has closed stays open for the keep-alive
time, because a task waits for the next request; and two tasks that close it at once end the server."""

HYPERCORN_END: Final = Patch(
    "hypercorn", ("0.17.3", "0.18.0"), "_read_data", ("run", "protocol_send", "_close")
)
"""Of `hypercorn.trio.tcp_server.TCPServer`: the method after which our `Connection` ends the wait."""

PYFUSE3_TRIO: Final = Patch("pyfuse3", ("3.5.0",), "trio", ("_session_loop", "_wait_fuse_readable", "main"))
"""Of `pyfuse3`: the library that it runs on. As it comes, each request goes through trio's scheduler twice."""

PYFUSE3_LOOP: Final = Patch("pyfuse3", ("3.5.0",), "_session_loop", ("main",))
"""Of `pyfuse3`. As it comes, an aborted connection ends the handlers that are under way."""

HTTPCORE_READS: Final = Patch("httpcore", ("1.0.7", "1.0.9"), "READ_NUM_BYTES")
"""Of `httpcore.AsyncHTTP11Connection`. As it comes, a large value takes four times as many turns of the loop."""

HTTPX_COMMAND: Final = Patch("httpx", ("0.28.1",), "_main", ("main",))
"""Of `httpx`: its own command line. As it comes, an import of httpx loads it, and rich and pygments with it."""


def leave_out_command_of_httpx() -> None:
    """Let httpx be imported as if rich were not installed. Must be called before it is imported."""
    modules = cast("dict[str, Any]", sys.modules)
    modules.setdefault(f"httpx.{HTTPX_COMMAND.name}", None)
