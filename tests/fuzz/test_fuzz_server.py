"""Arbitrary requests to `kvfs serve`: each gets an answer in the envelope, and none makes the server fail."""

import json
import logging

import httpx
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import JSON, ODD_TEXT, almost, fuzzed, slowly_fuzzed
from support.inline import open_inline

from kvfs.core.errors import UserError
from kvfs.server.app import build_app
from kvfs.server.fault_rules import Faults
from kvfs.server.fault_words import WORDS, parse_faults
from kvfs.server.staleness import KeyHistory

ROOT = "/client/v4/accounts/0123456789abcdef0123456789abcdef/storage/kv/namespaces"
PIECES = st.sampled_from(
    ["", "keys", "values", "metadata", "bulk", "bulk/get", "bulk/delete", "%2F", "..", "a"]
)
PATHS = st.builds(
    lambda parts: ROOT + "".join(f"/{part}" for part in parts),
    st.lists(PIECES | st.just("{ns}") | st.binary(max_size=3).map(lambda t: "%" + t.hex()), max_size=4),
)  # fmt: skip
QUERIES = st.dictionaries(
    st.sampled_from(
        ["page", "per_page", "limit", "cursor", "prefix", "expiration", "expiration_ttl", "order"]
    ),
    ODD_TEXT.map(lambda text: text.encode("utf-8", "replace").decode()) | st.integers().map(str),
    max_size=3,
)
BODIES = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | almost(b'[{"key":"a","value":"b","metadata":{"c":1},"expiration_ttl":60}]', b'["a"]', b'{"title":"t"}')
    | almost(b'--x\r\nContent-Disposition: form-data; name="value"\r\n\r\nabc\r\n--x--\r\n')
)
TYPES = st.sampled_from(
    ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "", "x/y"]
)


@fuzzed
@given(
    st.lists(
        st.tuples(st.sampled_from(["GET", "PUT", "POST", "DELETE"]), PATHS, QUERIES, BODIES, TYPES),
        min_size=1,
        max_size=8,
    )
)
def test_every_request_is_answered(tmp_path_factory, requests):
    """Paths, queries, forms and bodies of any kind get a status below 500, as JSON, or raw as a value."""
    directory = tmp_path_factory.mktemp("fuzz")

    async def main() -> None:
        with open_inline(directory / "store.db") as store:
            namespace = await store.accounts.for_account("0123456789abcdef0123456789abcdef").create_namespace(
                "ns"
            )
            transport = httpx.ASGITransport(
                build_app(store.accounts.for_account, token="t"), raise_app_exceptions=True
            )
            headers = {"authorization": "Bearer t"}
            async with httpx.AsyncClient(transport=transport, base_url="http://x", headers=headers) as http:
                for method, path, query, body, kind in requests:
                    url = httpx.URL("http://x", raw_path=path.replace("{ns}", namespace.id).encode())
                    answer = await http.request(
                        method, url.copy_merge_params(query), content=body, headers={"content-type": kind}
                    )
                    assert answer.status_code < 500, answer.text
                    if answer.status_code >= 400:
                        assert answer.json()["success"] is False

    logging.getLogger("kvfs.access").setLevel(logging.ERROR)
    trio.run(main)


VALUES = st.sampled_from(
    ["", "1", "0.5", "50ms", "1.5s", "2m", "503", "503:0.1", "1s:1", "9" * 30, "1e9", "nan", "-1"]
)


@fuzzed
@given(st.lists(st.tuples(st.sampled_from([*WORDS, "bogus", "status"]), VALUES | ODD_TEXT), max_size=4))
def test_a_spec_of_faults_is_rules_or_a_clear_error(words):
    """Every word with any value makes rules or a clear error, and accepted rules can be asked about requests."""
    try:
        faults = parse_faults(",".join(f"{word}={value}" for word, value in words))
    except UserError:
        return
    faults.fire("GET", "/")
    assert faults.stale_seconds() >= 0


@fuzzed
@given(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | almost(b'[{"fault":"status","status":503,"probability":0.5,"path":"/keys","times":2,"after":1}]')
)
def test_rules_over_http_are_rules_or_a_value_error(body):
    """`PUT /_kvfs/faults` takes rules, and answers 400 for everything else."""
    try:
        rules = Faults.decode(body)
    except ValueError:
        return
    Faults(rules).fire("GET", "/client/v4")


@slowly_fuzzed
@given(cursor=ODD_TEXT | almost(b"stale-YQ==").map(lambda text: text.decode("latin-1")))
def test_a_cursor_is_gone_on_from_or_refused(tmp_path_factory, cursor):
    """Any cursor is continued or refused, also one of a stale listing, because cursors come back from any client."""
    directory = tmp_path_factory.mktemp("fuzz")
    faults = parse_faults("stale=60s")
    assert KeyHistory(faults.stale_seconds)

    async def main() -> None:
        with open_inline(directory / "store.db") as store:
            namespace = await store.accounts.for_account("a" * 32).create_namespace("ns")
            app = build_app(store.accounts.for_account, token="t", faults=faults)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, headers={"authorization": "Bearer t"}) as http:
                url = f"http://x/client/v4/accounts/{'a' * 32}/storage/kv/namespaces/{namespace.id}/keys"
                text = cursor.encode("utf-8", "replace").decode()
                assert (await http.get(url, params={"cursor": text})).status_code in (200, 400)

    logging.getLogger("kvfs.access").setLevel(logging.ERROR)
    trio.run(main)
