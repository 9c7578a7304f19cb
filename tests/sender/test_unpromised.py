"""What no client of KV can promise, shown as it is: the page on durability names these."""

from support.journals import put

from kvfs.core.model import Entry, Key
from kvfs.journal.journal import digest


async def test_between_the_look_and_the_write_the_last_one_wins(setting, autojump_clock):
    """KV has no conditional write: a change that falls into that moment is overwritten, and nobody can tell."""
    ns, key = setting.namespace, Key("k")
    await setting.backend.put(ns, key, Entry(b"read"))
    put(setting.journal, "k", b"ours", namespace=ns, base=digest(b"read"))
    setting.store.before("bulk_put", lambda call: setting.backend.put(ns, key, Entry(b"theirs")))
    await setting.sender(delay=0).drain()
    assert (await setting.backend.get(ns, key)).value == b"ours"
    assert setting.happened() == []


async def test_a_request_that_was_given_up_may_still_arrive(setting, autojump_clock):
    """And after a newer one, too: what the server does late it does."""
    ns, key = setting.namespace, Key("k")
    setting.store.lost_ack("bulk_put", times=1)
    put(setting.journal, "k", b"given up", namespace=ns)
    sender = setting.sender(delay=0)
    await sender.send_once()
    assert (await setting.backend.get(ns, key)).value == b"given up"
    assert [change.key for change in setting.journal.pending()] == ["k"]  # so it is sent again
