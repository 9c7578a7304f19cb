"""Promises that no client of KV can give, shown as they are: the page on durability names these."""

from support.journals import put

from kvfs.core.digest import digest
from kvfs.core.model import Entry, Key


async def test_between_the_look_and_the_write_the_last_one_wins(setting, autojump_clock):
    """A change between the look and the write is overwritten unseen, because KV has no conditional write."""
    ns, key = setting.namespace, Key("k")
    await setting.backend.put(ns, key, Entry(b"read"))
    put(setting.journal, "k", b"ours", namespace=ns, base=digest(b"read"))
    setting.store.before("bulk_put", lambda call: setting.backend.put(ns, key, Entry(b"theirs")))
    await setting.sender(delay=0).drain()
    assert (await setting.backend.get(ns, key)).value == b"ours"
    assert setting.happened() == []


async def test_a_request_that_was_given_up_may_still_arrive(setting, autojump_clock):
    """A request that was given up may still arrive, also after a newer one."""
    ns, key = setting.namespace, Key("k")
    setting.store.lost_ack("bulk_put", times=1)
    put(setting.journal, "k", b"given up", namespace=ns)
    sender = setting.sender(delay=0)
    await sender.send_once()
    assert (await setting.backend.get(ns, key)).value == b"given up"
    assert [change.key for change in setting.journal.pending()] == ["k"]  # so it is sent again
