"""Jumps of the wall clock, forth and back, at the worst moments: nothing is lost, comes back or waits for hours."""

from functools import partial

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline
from support.journal_check import check_journal
from support.journals import START, open_journal, put, stored

from kvfs.core.errors import QuotaError, RateLimitedError, UnavailableError
from kvfs.core.model import Key
from kvfs.sender.events import SenderOptions
from kvfs.sender.sender import Sender

DAY = 86_400.0
WINDOW = 90.0


class Clock:
    """Epoch seconds that go with trio's clock, but for the jumps."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return START + trio.current_time() + self.offset


class Setting:
    """A journal, a store and a sender at work, all of which go by the same clock."""

    def __init__(self, tmp_path, clock, backend, namespace) -> None:
        self.clock, self.backend, self.namespace = clock, backend, namespace.id
        self.store = FaultStore(backend)
        self.journal = open_journal(tmp_path / "journal.db", now=clock)
        options = SenderOptions(host="host", delay=5, settle_window=WINDOW)
        self.sender = Sender(
            self.journal, self.store, now=clock, options=options,
            on_settled=lambda changes: None, on_event=lambda event: None,
        )  # fmt: skip
        self.put = partial(put, self.journal, namespace=self.namespace)

    async def gone(self, within: float) -> None:
        """Check that everything was sent and has settled in so many seconds of real time."""
        with trio.fail_after(within):
            while any(self.journal.under(self.namespace, "")):  # noqa: ASYNC110
                await trio.sleep(1)  # simulated


@pytest.fixture
async def setting(tmp_path):
    clock = Clock()
    with open_inline(tmp_path / "store.db", now=clock) as backend:
        setting = Setting(tmp_path, clock, backend, await backend.create_namespace("n"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(setting.sender.run)
            yield setting
            nursery.cancel_scope.cancel()
        check_journal(setting.journal)
        setting.journal.close()


@pytest.mark.parametrize("jump", [DAY, -DAY, 3600.0, -3600.0, 10 * 365 * DAY])
@pytest.mark.parametrize("moment", [0.0, 2.0, 5.5, 50.0])
async def test_a_jump_holds_nothing_up(setting, autojump_clock, jump, moment):
    """After a jump changes are sent in seconds, and settle within two windows of real time."""
    setting.put("before", b"1")
    await trio.sleep(moment)
    setting.clock.offset += jump
    setting.put("after", b"2")
    await trio.sleep(30)
    assert {key: e.value for key, e in (await stored(setting.backend, setting.namespace)).items()} == {
        "before": b"1",
        "after": b"2",
    }
    await setting.gone(within=2 * WINDOW + 30)


@pytest.mark.parametrize("jump", [DAY, -DAY])
@pytest.mark.parametrize(
    "error",
    [UnavailableError("503"), RateLimitedError("429", retry_after=30), UnavailableError("x", retry_after=60)],
    ids=["backing off", "limited", "asked to wait"],
)
async def test_a_jump_while_the_sender_waits_does_not_make_it_wait_for_hours(
    setting, autojump_clock, jump, error
):
    """A pause of the sender is real time, which a jump neither skips nor prolongs."""
    setting.store.fail("*", error, times=2)
    setting.put("key", b"1")
    await trio.sleep(10)
    setting.clock.offset += jump
    await trio.sleep(240)
    assert (await stored(setting.backend, setting.namespace)).keys() == {"key"}


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_jump_while_the_quota_is_used_up_waits_a_day_at_most(setting, autojump_clock, jump):
    """A used-up quota comes back at midnight by the server's clock, within a day, whatever ours says."""
    setting.store.fail("*", QuotaError("used up", code=10048), times=1)
    setting.put("key", b"1")
    await trio.sleep(10)
    setting.clock.offset += jump
    await trio.sleep(DAY + 400)
    assert (await stored(setting.backend, setting.namespace)).keys() == {"key"}


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_deleted_key_does_not_come_back_by_a_jump(setting, autojump_clock, jump):
    """A tombstone answers until the store agrees, though the clock says that its time is over."""
    setting.put("key", b"1")
    await trio.sleep(10)
    setting.journal.record_delete(setting.namespace, Key("key"), base=None)
    setting.clock.offset += jump
    await trio.sleep(20)
    assert await stored(setting.backend, setting.namespace) == {}
    await setting.gone(within=2 * WINDOW + 30)


async def test_a_restart_with_the_clock_set_back_sends_what_waits(setting, autojump_clock, tmp_path):
    """A restart with an empty battery, for which all records are from the future, sends everything pending."""
    setting.put("key", b"1")
    change = setting.journal.get(setting.namespace, Key("key"))
    setting.clock.offset -= 40 * 365 * DAY
    await trio.sleep(30)
    assert change.recorded_at > setting.clock()
    assert (await stored(setting.backend, setting.namespace)).keys() == {"key"}
