"""Requests a minute of a mount whose service refuses everything, with all its layers.

A simulated hour of a user who reads another file every second, while a thousand changes wait to be sent.
"""

from collections import Counter
from contextlib import suppress

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline
from support.journals import open_journal, put, simulated_now
from support.tokens import Fixed

from kvfs.config import CloudflareSource, Config
from kvfs.core.digest import digest
from kvfs.core.errors import (
    BlockedError,
    DeniedError,
    KvfsError,
    NoAnswerError,
    NotSentError,
    RateLimitedError,
    StoreError,
    UnavailableError,
    UnknownRefusalError,
)
from kvfs.core.model import Entry, Key
from kvfs.daemon.build import layered
from kvfs.sender.events import SenderOptions
from kvfs.sender.sender import Sender
from kvfs.store.ratelimit import Budget

MINUTES = 20
READ = b"read"


@pytest.fixture
async def hour(tmp_path):
    """Play it with an error for every request; return each minute's requests, and when the last change was sent."""

    async def play(error: StoreError | None, base: bytes = b"") -> list[int]:
        with open_inline(tmp_path / "store.db", now=simulated_now) as backend:
            namespace = (await backend.create_namespace("n")).id
            await backend.put(namespace, Key("k0"), Entry(READ))
            store, counts = FaultStore(backend), Counter[int]()
            store.before("*", lambda call: counts.update([int(trio.current_time() // 60)]))
            store.fail("*", error)
            config = Config(CloudflareSource("a"), tmp_path, state_dir=tmp_path)
            stores = layered(store, config, Fixed(), Budget())
            journal = open_journal(tmp_path / "journal.db", now=simulated_now)
            with journal.transaction():
                for number in range(1_000):
                    put(journal, f"k{number}", b"new", namespace=namespace, base=base)
            sender = Sender(journal, stores.writing, now=simulated_now, options=SenderOptions(host="h"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.run)
                nursery.start_soon(_read, stores.reading, namespace)
                await trio.sleep(MINUTES * 60)
                assert journal.pending_count == 1_000
                assert journal.rejected() == []
                store.clear()
                await trio.sleep(400)
                assert journal.pending_count == 0, "it goes on by itself"
                nursery.cancel_scope.cancel()
            journal.close()
            return [counts[minute] for minute in range(MINUTES)]

    return play


async def _read(store, namespace):
    """Read a file, then many at once, as the loader asks for them; each second others."""
    number = 0
    while True:
        number += 1
        for wanted in ([Key(f"r{number}")], [Key(f"r{number}-{n}") for n in range(50)]):
            with suppress(KvfsError):
                await store.bulk_get(namespace, wanted)
        await trio.sleep(1)


BLOCKED = BlockedError("HTTP 403 with a page", status=403, ray="8f00ba4", is_firewall=True)


@pytest.mark.parametrize("base", [b"", digest(READ)], ids=["new names", "edits"])
@pytest.mark.parametrize(
    ("error", "first", "later"),
    [
        pytest.param(BLOCKED, 25, 6, id="a firewall for everything"),
        pytest.param(UnknownRefusalError("?", code=19999, status=400), 25, 6, id="an unknown code"),
        pytest.param(DeniedError("no", code=9109, status=403), 6, 2, id="a refused token"),
        pytest.param(DeniedError("no", code=10000, status=403), 12, 2, id="a refusal that may pass"),
        pytest.param(RateLimitedError("429", status=429), 12, 4, id="429 without Retry-After"),
        pytest.param(UnavailableError("HTTP 500", status=500), 60, 40, id="an error for everything"),
        pytest.param(NoAnswerError("nothing"), 60, 40, id="silence"),
        pytest.param(NotSentError("no route"), 60, 40, id="no connection"),
    ],
)
async def test_a_service_that_refuses_everything_is_left_in_peace(
    autojump_clock, hour, expect_log, error, first, later, base
):
    """A service that refuses everything gets so many requests in the first minute and fewer later.

    Nothing is set aside, all is sent at last.
    """
    if not isinstance(error, DeniedError):
        expect_log(r"WARNING kvfs.store: bulk_get failed")
    requests = await hour(error, base)
    assert requests[0] <= first
    assert max(requests[2:]) <= later
