"""Values that could not be sent leave nothing in memory."""

import pytest
from support.garbage import nothing_left
from support.journals import put

from kvfs.core.errors import BlockedError, BodyTooLargeError, QuotaError, UnavailableError
from kvfs.store.wrapper import Around

SIZE = 300_000


class Failing(Around):
    """A store that fails so, and remembers nothing (`FaultStore` has the arguments of its calls)."""

    error = UnavailableError

    async def _call(self, call):
        raise self.error("planted")


@pytest.mark.parametrize(
    "error",
    [UnavailableError, BodyTooLargeError, BlockedError, QuotaError],
)
async def test_a_body_that_fails_stays_in_no_memory(autojump_clock, setting, error) -> None:
    """A body that fails leaves no value in memory, not even until Python looks for cycles."""
    for number in range(3):
        put(setting.journal, f"k{number}", b"v" * SIZE, namespace=setting.namespace)
    setting.store = Failing(setting.backend)
    setting.store.error = error
    sender = setting.sender()
    with nothing_left(of=SIZE):
        for _ in range(2):
            await sender.send_once()
