"""Confirmation of single gets: a bare answer of a type that values do not have is confirmed before it is believed."""

import pytest
from support.caching import NS, MemoryStore
from support.faults import FaultStore
from support.serving import served

from kvfs.core.errors import BodyTooLargeError, UnavailableError
from kvfs.core.model import Entry, Key, ValueRead
from kvfs.store.confirming import ANSWERS, LARGE, TRUSTED, Confirming

BINARY, TEXT = Key("binary"), Key("text")
ENTRIES = {BINARY: b"\xff\x00", TEXT: b"words"}


def as_json(value: bytes) -> ValueRead:
    """Return a value in an answer that declares it as JSON."""
    return ValueRead(value, declared_as="application/json")


async def test_garbage_with_status_200_is_never_a_value(tmp_path):
    """With garbage in a third of all single gets the value is still the right one."""
    async with served(tmp_path, faults="") as server, server.open_rest() as bare:
        namespace = (await bare.create_namespace("shop")).id
        for key, value in ENTRIES.items():
            await bare.put(namespace, key, Entry(value))
        await server.set_faults({"fault": "garbage", "path": "/values/", "probability": 0.3})
        store = Confirming(bare)
        for _ in range(30):
            for key, value in ENTRIES.items():
                assert (await store.get(namespace, key)).value == value


async def test_an_octet_stream_is_believed_at_once(tmp_path):
    """An octet stream, as the API and `kvfs serve` declare values, is believed at once, with one request each."""
    async with served(tmp_path) as server, server.open_rest() as bare:
        namespace = (await bare.create_namespace("shop")).id
        await bare.put(namespace, BINARY, Entry(b"\xff"))
        assert await Confirming(bare).get(namespace, BINARY) == ValueRead(b"\xff")
        assert await Confirming(bare).get(namespace, TEXT) is None
        assert (await server.requests())["get_value"] == 2


async def test_a_server_that_declares_all_values_so_is_believed_after_a_while():
    """On a server that declares all values otherwise the first are asked for twice, the later ones once."""
    faulty = FaultStore(MemoryStore(ENTRIES))
    faulty.lie("get", as_json(b"\xff\x00"))
    store = Confirming(faulty)
    for _ in range(TRUSTED + 20):
        assert (await store.get(NS, BINARY)).value == b"\xff\x00"
    assert faulty.count("get") == 2 * TRUSTED + 20


async def test_text_that_is_none_of_the_key_s_is_replaced():
    """A page as text is replaced by the bulk get's answer, which also says if the key is gone."""
    faulty = FaultStore(MemoryStore(ENTRIES))
    faulty.lie("get", as_json(b'{"error":"maintenance"}'))
    store = Confirming(faulty)
    assert (await store.get(NS, TEXT)).value == b"words"
    assert await store.get(NS, Key("none")) is None
    with pytest.raises(UnavailableError):
        await store.get(NS, BINARY)


async def test_answers_that_never_agree_are_no_value():
    """Answers that never agree give an error after some tries, and no value is made up."""
    faulty = FaultStore(MemoryStore(ENTRIES))
    for number in range(ANSWERS + 1):
        faulty.lie("get", as_json(b"\xff%d" % number), on=number + 1)
    with pytest.raises(UnavailableError, match="every answer is another"):
        await Confirming(faulty).get(NS, BINARY)


async def test_a_text_too_large_for_a_bulk_get_is_asked_for_until_two_answers_agree():
    """A text too large for a bulk get, which would refuse it each time, is asked for until two answers agree."""
    text = b"x" * (LARGE + 1)
    faulty = FaultStore(MemoryStore({TEXT: text}))
    faulty.lie("get", as_json(text))
    faulty.fail("bulk_get", BodyTooLargeError("bulk get: too much for one answer", status=413))
    assert (await Confirming(faulty).get(NS, TEXT)).value == text
    faulty.clear()
    faulty.lie("get", as_json(b"a short page"))
    faulty.fail("bulk_get", BodyTooLargeError("bulk get: too much for one answer", status=413))
    with pytest.raises(BodyTooLargeError):
        await Confirming(faulty).get(NS, TEXT)
