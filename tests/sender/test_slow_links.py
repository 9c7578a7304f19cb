"""A slow link: every answer takes three seconds, which is slow and not away."""

import pytest
import trio
from support.journals import put, stored

from kvfs.core.digest import digest
from kvfs.core.errors import NoAnswerError
from kvfs.core.model import Entry, Key
from kvfs.sender.events import OnConflict
from kvfs.store.breaker import Breaker, Breaking

ON_CONFLICT = OnConflict.KEEP_BOTH
ANSWER = 3.0  # seconds


@pytest.fixture
async def link(setting):
    """A sender behind a breaker, over a link on which every request takes `ANSWER`; reads of `stuck` hang once."""

    async def hang(call):
        await trio.sleep(10)
        raise NoAnswerError("no progress within 10 s")

    for operation in ("get", "bulk_get"):
        setting.store.before(operation, hang, when=lambda call: "stuck" in call.keys, times=1)
    setting.store.delay("*", ANSWER)
    for key in ("a", "stuck"):
        await setting.backend.put(setting.namespace, Key(key), Entry(b"before"))
    setting.store = Breaking(setting.store, Breaker(5, 2), patient=True)
    return setting.sender()


def write(setting, key):
    """A change of what was read here."""
    put(setting.journal, key, b"mine", namespace=setting.namespace, base=digest(b"before"))


async def test_an_fsync_is_compared_and_written_although_a_read_hung_before(autojump_clock, setting, link):
    """The doubt ends by itself; a comparison that was cut short does not make the next one short, too."""
    write(setting, "stuck")
    write(setting, "a")
    with pytest.raises(NoAnswerError):
        await setting.store.get(setting.namespace, Key("stuck"))
    await link.send_now({(setting.namespace, Key("a"))}, 30)
    assert (await stored(setting.backend, setting.namespace))["a"] == Entry(b"mine")


async def test_a_key_that_hung_alone_once_is_compared_later(autojump_clock, setting, link):
    """It is asked for alone, and not for less time than answers take."""
    write(setting, "stuck")
    write(setting, "a")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.sleep(120)
        nursery.cancel_scope.cancel()
    found = await stored(setting.backend, setting.namespace)
    assert found["a"] == found["stuck"] == Entry(b"mine")
