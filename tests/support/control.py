"""One request to the daemon of a mount, without a process for the command that would make it."""

from collections.abc import Iterator
from pathlib import Path

from kvfs.host.control import SILENCE_SECONDS, Message, connect


def call(path: Path, request: Message, *, silence: float = SILENCE_SECONDS) -> Iterator[Message]:
    """Connect to the socket at `path`, ask, and yield the answers: see `Client.ask`."""
    with connect(path) as client:
        yield from client.ask(request, silence=silence)
