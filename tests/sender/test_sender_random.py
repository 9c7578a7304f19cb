"""Random work under mixed faults and a stale store ends with exactly the right state on the server."""

import random

import pytest
import trio
from support.faults import stale_store
from support.journal_check import check_journal
from support.journals import open_journal, put, simulated_now, stored

from kvfs.core.digest import digest
from kvfs.core.errors import BodyTooLargeError, KvfsError, NamespaceNotFoundError, RateLimitedError
from kvfs.core.model import Entry, Key
from kvfs.journal.writer import Move
from kvfs.sender.events import EventKind, SenderOptions
from kvfs.sender.sender import Sender


def plant(store, rng: random.Random) -> None:
    """Make a third of all calls fail in one way or another."""
    for operation in ("bulk_put", "bulk_delete", "bulk_get", "put", "get"):
        store.fail(operation, when=lambda call: rng.random() < 0.08)
        store.fail(operation, RateLimitedError("429", retry_after=3.0), when=lambda call: rng.random() < 0.04)
        store.fail(operation, BodyTooLargeError("524"), when=lambda call: rng.random() < 0.04)
        store.fail(operation, NamespaceNotFoundError("10013"), when=lambda call: rng.random() < 0.02)
        store.delay(operation, 2.0, when=lambda call: rng.random() < 0.1)
    for operation in ("bulk_put", "bulk_delete"):
        store.lost_ack(operation, when=lambda call: rng.random() < 0.08)
        store.torn(operation, when=lambda call: rng.random() < 0.06)


async def work(setting, rng: random.Random, truth: dict[Key, bytes]) -> None:
    """Do to two dozen keys what a few busy programs would, with an fsync now and then."""
    journal, namespace = setting.journal, setting.namespace
    names = [Key(f"k{number:02}") for number in range(24)]
    for _ in range(300):
        key, other = rng.sample(names, 2)
        base = digest(truth[key]) if key in truth else b""
        choice = rng.random()
        if choice < 0.5:
            truth[key] = rng.randbytes(rng.randrange(40))
            journal.record_put(
                namespace, key, journal.stage(truth[key]), metadata=None, expiration=None, base=base
            )
        elif choice < 0.7:
            journal.record_delete(namespace, key, base=base)
            truth.pop(key, None)
        elif key in truth:
            change = journal.get(namespace, key)
            body = None if change else journal.stage(truth[key])
            new = digest(truth[other]) if other in truth else b""
            move = Move(key, other, None, None, body=body, base_old=base, base_new=new)
            journal.move(namespace, [move])
            truth[other] = truth.pop(key)
        await trio.sleep(rng.choice([0, 0, 0.2, 1, 6]))


@pytest.mark.parametrize("seed", range(6))
async def test_mixed_faults_end_in_the_right_state(autojump_clock, setting, tmp_path, seed):
    """With restarts in between mixed faults lose nothing, resurrect nothing, and take nobody for another client."""
    rng = random.Random(seed)
    plant(setting.store, rng)
    store = stale_store(setting.store, 30, simulated_now)
    truth: dict[Key, bytes] = {}

    def new_sender():
        return Sender(
            setting.journal,
            store,
            now=simulated_now,
            options=SenderOptions(delay=2, max_age=8, settle_window=90, timeout=60, host="host"),
            on_event=setting.events.append,
        )

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            sender = new_sender()
            nursery.start_soon(sender.run)
            nursery.start_soon(_fsyncs, sender, setting, random.Random(seed))
            await work(setting, rng, truth)
            last = Key("last")
            before = digest(truth[last]) if last in truth else b""
            truth[last] = rng.randbytes(8)
            put(setting.journal, last, truth[last], namespace=setting.namespace, base=before)
            nursery.cancel_scope.cancel()
        check_journal(setting.journal)
        setting.journal.close()
        setting.journal = open_journal(tmp_path / "journal.db", now=simulated_now)
        assert setting.journal.pending_count > 0, "nothing was pending at the end"
    await new_sender().drain()

    assert await stored(setting.backend, setting.namespace) == {k: Entry(v) for k, v in truth.items()}
    assert setting.journal.rejected() == []
    assert EventKind.CONFLICT not in setting.happened()


async def _fsyncs(sender, setting, rng):
    while True:
        await trio.sleep(rng.randrange(20))
        key = Key(f"k{rng.randrange(24):02}")
        try:
            await sender.send_now({(setting.namespace, key)}, 20)
        except KvfsError:
            continue
