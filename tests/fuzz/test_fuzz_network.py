"""Arbitrary input from the network: a parser raises only the errors that it declares."""

import contextlib
import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import JSON, ODD_TEXT, almost, fuzzed, slowly_fuzzed
from support.hostile import answering

from kvfs.core.errors import KvfsError, StoreError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.store.checks import check_title
from kvfs.store.rest.answer import Answer, key_is_missing, successful
from kvfs.store.rest.client import open_rest
from kvfs.store.wire import bulk_values, codec
from kvfs.store.wire.json import compact

NS = NamespaceId("0123456789abcdef0123456789abcdef")
KEYS = b'[{"name":"a","expiration":1800000000,"metadata":{"a":[1,"\\ud83d\\ude00"]}},{"name":"b","expiration":1.5}]'
VALUES = b'{"values":{"a":{"value":"x","metadata":{"a":1},"expiration":1800000000},"b":null}}'
NAMESPACES = b'[{"id":"0123456789abcdef0123456789abcdef","title":"t","supports_url_encoding":true}]'
FAILED = b'{"successful_key_count":1,"unsuccessful_keys":["a","b"]}'
PAIRS = (
    b'[{"key":"a","value":"eA==","base64":true,"expiration":1800000000,"expiration_ttl":60,"metadata":{}}]'
)
ASKED = b'{"keys":["a","b"],"type":"json","withMetadata":true}'
ENVELOPE = (
    b'{"result":%b,"success":true,"errors":[{"code":10009,"message":"no"}],"messages":[],'
    b'"result_info":{"count":1,"cursor":"abc","page":1,"per_page":20,"total_count":1}}'
)
ANSWERS = [ENVELOPE % result for result in (KEYS, VALUES, NAMESPACES, FAILED, b"null")]

DECODERS = {
    codec.decode_envelope: ANSWERS,
    codec.decode_keys: [KEYS],
    codec.decode_namespace: [NAMESPACES[1:-1]],
    codec.decode_namespaces: [NAMESPACES],
    codec.decode_metadata: [b'{"a":1}', b'"\\ud800"'],
    codec.decode_bulk_result: [FAILED, b"null"],
    bulk_values.decode_values: [VALUES],
    codec.decode_pairs: [PAIRS],
    codec.decode_key_list: [b'["a","b"]', b'[{"name":"a"}]'],
    codec.decode_bulk_get: [ASKED],
    codec.decode_namespace_request: [b'{"title":"t"}'],
    compact: [b' {"a" : 1} '],
}


def dumped(value: object) -> bytes:
    """Return JSON as Python writes it: NaN, huge numbers, halves of surrogate pairs."""
    return json.dumps(value).encode()


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.__name__)
@fuzzed
@given(data=st.data())
def test_a_decoder_answers_or_says_malformed(decoder, data):
    """A decoder answers bytes, JSON of any shape, and nearly correct input, or says that they are malformed."""
    body = data.draw(st.binary(max_size=60) | JSON.map(dumped) | almost(*DECODERS[decoder]))
    with contextlib.suppress(codec.MalformedError):
        decoder(body)


@pytest.mark.parametrize("decoder", [codec.decode_envelope, compact, bulk_values.decode_values])
def test_deep_nesting_is_malformed(decoder):
    """A hundred thousand brackets are malformed, and overflow nothing."""
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b'{"result":' + b"[" * 50_000 + b"]" * 50_000 + b"}"):
        with contextlib.suppress(codec.MalformedError):
            decoder(text)


@fuzzed
@given(body=almost(*[b'[{"name":"%b"}]' % text for text in (b"a", b"..", b"\\u0000", b"a/../b")]))
def test_no_key_of_a_listing_is_one_that_kv_cannot_hold(body):
    """Every key that a listing of a hostile server yields can be asked for."""
    with contextlib.suppress(codec.MalformedError):
        for info in codec.decode_keys(body)[0]:
            assert 0 < len(info.key.encode()) <= 512
            assert info.key not in (".", "..")


HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "retry-after": ODD_TEXT
        | almost(b"Wed, 21 Oct 2026 07:28:00 GMT", b"120", b"1e3").map(lambda text: text.decode("latin-1")),
        "content-type": ODD_TEXT,
    },
)


@fuzzed
@given(
    status=st.integers(100, 599),
    headers=HEADERS,
    body=st.binary(max_size=60) | JSON.map(dumped) | almost(*ANSWERS),
)
def test_an_answer_is_a_success_or_an_error_of_the_store(status, headers, body):
    """Any answer, error bodies and Retry-After included, is a success or an error of the store.

    The wait is within a day, and the message can be printed.
    """
    answer = Answer(status, headers, body)
    key_is_missing(answer)
    error = None
    try:
        successful("test", answer, now=1_800_000_000.0)
    except StoreError as exc:
        error = exc
    assert str(error).isprintable()
    assert 0 <= (getattr(error, "retry_after", None) or 0) <= 86_400


async def ask_everything(store) -> None:
    """Call every operation of a client, none of which may fail in an undeclared way."""
    for ask in (
        lambda: store.list_namespaces(),
        lambda: store.list_keys(NS),
        lambda: store.list_keys(NS, cursor="abc"),
        lambda: store.get(NS, Key("a")),
        lambda: store.get_metadata(NS, Key("a")),
        lambda: store.bulk_get(NS, [Key("a"), Key("b")]),
        lambda: store.bulk_put(NS, {Key("a"): Entry(b"1"), Key("b"): Entry(b"2")}),
        lambda: store.bulk_delete(NS, [Key("a")]),
        lambda: store.put(NS, Key("a"), Entry(b"1")),
        lambda: store.create_namespace("t"),
    ):
        with contextlib.suppress(StoreError):
            await ask()


HEAD = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n%b\r\n"
ENCODINGS = [
    b"",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: deflate\r\n",
    b"Transfer-Encoding: chunked\r\n",
]


@slowly_fuzzed
@given(
    raw=st.binary(max_size=80)
    | st.builds(
        lambda status, body, extra, more: HEAD % (status, len(body) + more, extra) + body,
        st.sampled_from([200, 200, 200, 204, 302, 400, 404, 429, 503]),
        st.binary(max_size=40) | almost(*ANSWERS),
        st.sampled_from(ENCODINGS),
        st.sampled_from([0, 0, 0, 5, -5]),
    ).filter(lambda raw: b"Content-Length: -" not in raw)
)
def test_no_bytes_on_the_socket_make_a_client_fail_in_another_way(raw):
    """A whole client against a server that answers any bytes to everything raises only declared errors."""

    async def main() -> None:
        async with (
            answering(raw) as hostile,
            open_rest(base_url=hostile.url, account="a" * 32, token="t", timeout=0.5) as store,
        ):
            with trio.fail_after(60):
                await ask_everything(store)

    trio.run(main)


@fuzzed
@given(text=ODD_TEXT)
def test_what_a_client_checks_is_refused_in_our_words(text):
    """Keys, ids and titles that are impossible are refused in our words."""
    for check in (codec.acceptable_key, codec.acceptable_identifier):
        assert check(text) in (True, False)
    with contextlib.suppress(KvfsError):
        check_title("test", text)
        codec.encode_title(text)
