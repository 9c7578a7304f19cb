"""Cloudflare's moods as faults by name: the client's view on the wire, and the effect."""

import json
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.serving import served

from kvfs.core.errors import UserError
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.server.fault_words import CLOUDFLARE, parse_faults
from kvfs.server.pacing import PacedStore, pacing
from kvfs.server.quotas import operation_of

PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def pairs(*keys: str, value: str = "v") -> list[dict[str, object]]:
    return [{"key": key, "value": value} for key in keys]


async def keys_of(http, base) -> list[str]:
    return [row["name"] for row in (await http.get(f"{base}/keys")).json()["result"]]


async def arrival(http, base, names) -> None:
    """Wait until the namespace has these keys."""
    with trio.fail_after(10):
        while await keys_of(http, base) != names:  # noqa: ASYNC110 - the server sets no event
            await trio.sleep(0.02)


# refusals


@pytest.mark.parametrize("where", ["value", "bulk", "key", "query"])
async def test_the_firewall_answers_with_a_page_and_without_an_effect(server, http, base, where):
    """The firewall looks at body, key and query, answers with a page, and spares requests without the text."""
    await server.set_faults({"fault": "firewall", "text": "<script> x"})
    text = "a <script> x b"
    answer = {
        "value": lambda: http.put(f"{base}/values/k", content=text),
        "bulk": lambda: http.put(f"{base}/bulk", json=pairs("k", value=text)),
        "key": lambda: http.get(f"{base}/values/%3Cscript%3E%20x"),
        "query": lambda: http.get(f"{base}/keys", params={"prefix": text}),
    }[where]
    refused = await answer()
    assert refused.status_code == 403
    assert refused.headers["content-type"].startswith("text/html")
    assert refused.headers["cf-ray"]
    assert await keys_of(http, base) == []
    assert (await http.put(f"{base}/values/k", content="<script>y")).status_code == 200


async def test_base64_hides_a_text_from_the_firewall(server, http, base):
    """Base64 hides a text from the firewall, as it does from the real one as far as is known."""
    await server.set_faults({"fault": "firewall"})
    body = [{"key": "k", "value": "VU5JT04gU0VMRUNU", "base64": True}]
    assert (await http.put(f"{base}/bulk", json=body)).status_code == 200
    assert (await http.get(f"{base}/values/k")).text == "UNION SELECT"


async def test_a_passing_denial_has_either_form(server, http, base):
    """A passing denial is 401 with 10000 or 403 with 10001, by chance, and the next request passes."""
    await server.set_faults({"fault": "denied", "times": 40})
    seen = set()
    for _ in range(40):
        answer = await http.get(f"{base}/keys")
        seen.add((answer.status_code, answer.json()["errors"][0]["code"]))
    assert seen == {(401, 10000), (403, 10001)}
    assert (await http.get(f"{base}/keys")).status_code == 200


async def test_a_passing_denial_with_a_code_of_its_own_is_a_denial(server, http, base):
    """A code that is given changes the envelope alone: the answer is still 401 or 403."""
    await server.set_faults({"fault": "denied", "code": 12345, "times": 1})
    answer = await http.get(f"{base}/keys")
    assert answer.status_code in (401, 403)
    assert answer.json()["errors"][0]["code"] == 12345


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("code=10026", 400, 10026),
        ("code=10026:403", 403, 10026),
        ("code=9109", 403, 9109),
        ("code=9106", 400, 9106),
        ("code=10048", 429, 10048),
        ("code=6003", 400, 6003),
    ],
)
async def test_a_code_comes_in_its_status_unless_another_is_named(tmp_path, words, status, code):
    """A code comes in its status unless another is named, with the API's words where they are on record."""
    async with served(tmp_path, faults=words) as server, server.client() as http:
        answer = await http.get(server.namespaces)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)


async def test_a_malformed_token_has_its_reason_in_the_chain(server, http, base):
    """A malformed token is 6003, with 6111 as its reason in the chain."""
    await server.set_faults({"fault": "code", "code": 6003})
    (error,) = (await http.get(f"{base}/keys")).json()["errors"]
    assert error["error_chain"] == [
        {"code": 6111, "message": "Invalid format for Authorization header"},
    ]


async def test_reads_of_a_bad_key_fail_and_others_do_not(server, http, base):
    """Every kind of get of a bad key answers 500 and a page, other keys are read, and the bad one can be written."""
    await server.set_faults({"fault": "bad_key", "key": "a/b"})
    assert (await http.put(f"{base}/bulk", json=pairs("a/b", "good"))).status_code == 200
    for path in ("values/a%2Fb", "metadata/a%2Fb"):
        answer = await http.get(f"{base}/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (500, "text/html; charset=UTF-8")
    both = await http.post(f"{base}/bulk/get", json={"keys": ["good", "a/b"]})
    assert both.status_code == 500
    one = await http.post(f"{base}/bulk/get", json={"keys": ["good"]})
    assert one.json()["result"]["values"] == {"good": "v"}
    assert (await http.get(f"{base}/values/good")).text == "v"


@pytest.mark.parametrize("key", ["a%1fb", "a%5Eb", "a...b"])
async def test_an_odd_key_in_a_url_is_not_found(server, http, base, key):
    """An odd key in a URL is not found, read or written, and in a bulk body it is ordinary, as a dotted one is."""
    name = unquote(key)
    await server.set_faults({"fault": "url_keys"})
    assert (await http.put(f"{base}/bulk", json=pairs(name, "a..b"))).status_code == 200
    assert (await http.get(f"{base}/values/{key}")).status_code == 404
    assert (await http.put(f"{base}/values/{key}", content=b"x")).status_code == 404
    found = await http.post(f"{base}/bulk/get", json={"keys": [name]})
    assert found.json()["result"]["values"] == {name: "v"}
    assert (await http.get(f"{base}/values/a..b")).status_code == 200


# slow bulk writes


async def test_a_bulk_write_that_takes_too_long_is_answered_with_524_and_goes_on(server, http, base):
    """A bulk write above the limit gets a page with 524, and all pairs are there later, though the client has gone."""
    await server.set_faults({"fault": "pair_cost", "seconds": 0.05, "limit": 0.1})
    names = [f"k{number:02}" for number in range(30)]
    answer = await http.put(f"{base}/bulk", json=pairs(*names))
    assert (answer.status_code, answer.headers["content-type"]) == (524, "text/html; charset=UTF-8")
    assert await keys_of(http, base) != names
    await arrival(http, base, names)


async def test_the_writing_goes_on_when_the_client_does_not_wait(server, http, base):
    """A bulk write goes on when the client does not wait, and everything arrives."""
    await server.set_faults({"fault": "pair_cost", "seconds": 0.05})
    impatient = httpx.Timeout(30, read=0.05)
    with pytest.raises(httpx.ReadTimeout):
        await http.put(f"{base}/bulk", json=pairs("a", "b", "c", "d", "e", "f"), timeout=impatient)
    await arrival(http, base, ["a", "b", "c", "d", "e", "f"])


async def test_a_bulk_write_within_the_limit_is_answered_as_ever(server, http, base):
    """A bulk write within the limit is answered as usual: put and both deletes take their time, single writes none."""
    await server.set_faults({"fault": "pair_cost", "seconds": 0.02, "limit": 30})
    began = trio.current_time()
    assert (await http.put(f"{base}/bulk", json=pairs("a", "b"))).json()["result"] == {
        "successful_key_count": 2,
        "unsuccessful_keys": [],
    }
    await http.request("DELETE", f"{base}/bulk", json=["a"])
    await http.post(f"{base}/bulk/delete", json=["b"])
    assert trio.current_time() - began >= 4 * 0.02
    assert await keys_of(http, base) == []


async def test_pairs_are_written_as_their_time_passes(autojump_clock):
    """Pairs are written as their time passes, so a read in between sees a part."""

    class Kept:
        def __init__(self):
            self.written = []

        async def bulk_put(self, namespace, entries):
            self.written.append((trio.current_time(), list(entries)))
            return frozenset()

    kept = Kept()
    entries = {Key(f"k{number}"): Entry(b"v") for number in range(5)}
    began = trio.current_time()
    with pacing(0.1):
        assert await PacedStore(kept).bulk_put(NamespaceId("n"), entries) == frozenset()
    moments = [round(at - began, 6) for at, _ in kept.written]
    assert moments == [0.2, 0.4, 0.5]
    assert [key for _, keys in kept.written for key in keys] == list(entries)


# counts


async def test_a_short_bulk_answer_does_not_add_up(server, http, base):
    """A short bulk answer neither counts nor names the keys left alone."""
    await server.set_faults({"fault": "short_bulk", "count": 2})
    answer = (await http.put(f"{base}/bulk", json=pairs("a", "b", "c"))).json()["result"]
    assert answer == {"successful_key_count": 1, "unsuccessful_keys": []}
    assert len(await keys_of(http, base)) == 1


async def test_the_free_plan_counts_each_operation_apart(server, http, base):
    """The free plan counts each operation apart, and refuses a body larger than the rest as a whole."""
    await server.set_faults({"fault": "free_plan", "count": 3})
    assert (await http.put(f"{base}/bulk", json=pairs("a", "b"))).status_code == 200
    refused = await http.put(f"{base}/bulk", json=pairs("c", "d"))
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (429, 10048)
    assert (await http.put(f"{base}/values/c", content=b"v")).status_code == 200
    assert (await http.put(f"{base}/values/c", content=b"v")).status_code == 429
    assert await keys_of(http, base) == ["a", "b", "c"]
    assert (await http.get(f"{base}/values/a")).status_code == 200
    assert (await http.post(f"{base}/bulk/delete", json=["a", "b", "c"])).status_code == 200
    assert (await http.delete(f"{base}/values/a")).status_code == 429


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/x/values/k", b"", ("read", 1)),
        ("GET", "/x/metadata/k", b"", ("read", 1)),
        ("PUT", "/x/values/k", b"anything", ("written", 1)),
        ("DELETE", "/x/values/k", b"", ("deleted", 1)),
        ("GET", "/x/keys", b"", ("listed", 1)),
        ("PUT", "/x/bulk", b'[{"key":"a"},{"key":"b"}]', ("written", 2)),
        ("DELETE", "/x/bulk", b'["a"]', ("deleted", 1)),
        ("POST", "/x/bulk/delete", b'["a","b","c"]', ("deleted", 3)),
        ("POST", "/x/bulk/get", b'{"keys":["a","b"]}', ("read", 2)),
        ("POST", "/x/bulk/get", b"nonsense", ("read", 0)),
        ("POST", "/x/bulk/get", b"[]", ("read", 0)),
    ],
)
def test_requests_are_billed_by_their_keys(method, path, body, expected):
    """Requests are billed by keys, as Cloudflare's prices say."""
    assert operation_of(method, path, body) == expected


# headers


async def test_every_answer_says_what_is_left(server, http, base):
    """Every answer, good or refused, has the rest of the budget, and nothing is refused for it."""
    await server.set_faults({"fault": "ratelimit", "count": 2, "seconds": 60})
    left = []
    for path in ("keys", "values/missing", "keys"):
        answer = await http.get(f"{base}/{path}")
        assert answer.headers["ratelimit-policy"] == '"default";q=2;w=60'
        left.append(answer.headers["ratelimit"].split(";")[1])
        assert answer.status_code != 429
    assert left == ["r=1", "r=0", "r=0"]


async def test_a_refusal_may_not_say_when_to_try_again(tmp_path):
    """With the word, no refusal says when to try again, wherever the word stands."""
    async with served(tmp_path, faults="rate_budget=1,no_retry_after") as server, server.client() as http:
        await http.get(server.namespaces)
        refused = await http.get(server.namespaces)
        assert refused.status_code == 429
        assert "retry-after" not in refused.headers
        assert "ratelimit" in refused.headers


# shapes


@pytest.fixture
async def filled(http, base):
    """Make two keys; one has metadata that is easily spoiled, and expires."""
    metadata = b'{"n": 1, "f": 1.50, "big": 123456789012345678901234567890}'
    body = (
        b'[{"key":"a","value":"1","expiration":9999999999,"metadata":%b},{"key":"b","value":"2"}]' % metadata
    )
    assert (await http.put(f"{base}/bulk", content=body)).status_code == 200
    return b'{"n":1,"f":1.50,"big":123456789012345678901234567890}'


async def test_an_empty_list_is_null(server, http, base):
    """An empty list of keys, or of namespaces past the end, is null."""
    await server.set_faults({"fault": "null_lists"})
    assert (await http.get(f"{base}/keys")).json()["result"] is None
    assert (await http.get(f"{server.namespaces}?page=9")).json()["result"] is None
    assert (await http.get(server.namespaces)).json()["result"] != []


@pytest.mark.parametrize(("fault", "form"), [("floats", "%d.0"), ("digits", '"%d"')])
async def test_numbers_of_the_envelope_change_and_metadata_does_not(server, http, base, filled, fault, form):
    """Counts, expirations and codes of the envelope change their form, and people's metadata does not."""
    await server.set_faults({"fault": fault})
    listing = await http.get(f"{base}/keys")
    assert f'"count":{form % 2}'.encode() in listing.content
    assert f'"expiration":{form % 9999999999}'.encode() in listing.content
    assert filled in listing.content
    bulk = await http.post(f"{base}/bulk/get", json={"keys": ["a", "b"], "withMetadata": True})
    assert f'"expiration":{form % 9999999999}'.encode() in bulk.content
    assert filled in bulk.content
    missing = await http.get(f"{base}/values/missing")
    assert f'"code":{form % 10009}'.encode() in missing.content
    written = await http.put(f"{base}/bulk", json=pairs("c"))
    assert f'"successful_key_count":{form % 1}'.encode() in written.content
    assert (await http.get(f"{base}/values/a")).content == b"1"


async def test_a_bulk_get_may_leave_out_what_was_asked_for(server, http, base, filled):
    """A bulk get may leave out metadata, or expirations alone."""
    asked = {"keys": ["a", "b", "missing"], "withMetadata": True}
    await server.set_faults({"fault": "bare_bulk"})
    values = (await http.post(f"{base}/bulk/get", json=asked)).json()["result"]["values"]
    assert values == {"a": "1", "b": "2", "missing": None}
    await server.set_faults({"fault": "no_bulk_expiration"})
    answer = await http.post(f"{base}/bulk/get", json=asked)
    assert set(answer.json()["result"]["values"]["a"]) == {"value", "metadata"}
    assert filled in answer.content


async def test_odd_rows_are_among_good_ones(server, http, base, filled):
    """Odd rows are among good ones in lists, in errors, and in one entry of a bulk get."""
    await server.set_faults({"fault": "odd_rows"})
    rows = (await http.get(f"{base}/keys")).json()["result"]
    assert rows[0] is None
    assert [row["name"] for row in rows[2:]] == ["a", "b"]
    asked = {"keys": ["a", "b"], "withMetadata": True}
    values = (await http.post(f"{base}/bulk/get", json=asked)).json()["result"]["values"]
    assert values["a"]["value"] == "1"
    assert values["b"] == {"value": None, "metadata": None}
    assert (await http.get(f"{base}/values/missing")).json()["errors"][0] == "odd"


async def test_a_namespace_may_have_nothing_but_id_and_title(server, http, base, filled):
    """A namespace that is listed or looked at may have only id and title, and rows of keys keep theirs."""
    await server.set_faults({"fault": "plain_namespaces"})
    (listed,) = (await http.get(server.namespaces)).json()["result"]
    one = (await http.get(base)).json()["result"]
    assert set(listed) == set(one) == {"id", "title"}
    assert "expiration" in (await http.get(f"{base}/keys")).json()["result"][0]


async def test_unknown_fields_are_everywhere(server, http, base, filled):
    """Unknown fields are in the envelope, its rows, entries and errors, and not in people's values."""
    await server.set_faults({"fault": "unknown_fields"})
    listing = await http.get(f"{base}/keys")
    found = listing.json()
    assert all("kvfs_unknown" in part for part in (found, found["result_info"], *found["result"]))
    assert filled in listing.content
    bulk = await http.post(f"{base}/bulk/get", json={"keys": ["a"], "withMetadata": True})
    assert "kvfs_unknown" in bulk.json()["result"]["values"]["a"]
    assert "kvfs_unknown" in (await http.get(f"{base}/values/missing")).json()["errors"][0]


# the whole temperament


def test_a_word_beside_cloudflare_replaces_its_part():
    """A word before or after `cloudflare` replaces its part, and the rest stays."""
    usual = [armed.rule.fault for armed in parse_faults("cloudflare").armed]
    assert len(usual) == len(CLOUDFLARE.split(","))
    for words in ("cloudflare,pair_cost=1ms:5s", "pair_cost=1ms:5s,cloudflare"):
        found = {armed.rule.fault: armed.rule for armed in parse_faults(words).armed}
        assert sorted(found) == sorted(usual)
        assert (found["pair_cost"].seconds, found["pair_cost"].limit) == (0.001, 5.0)


async def test_the_whole_temperament_is_served(tmp_path):
    """Under the whole temperament a client that repeats gets what it stored, and answers have the rest of the rate."""
    async with served(tmp_path, faults="cloudflare,stale=0,seed=3") as server, server.client() as http:
        made = await http.post(server.namespaces, json={"title": "t"})
        base = f"{server.namespaces}/{made.json()['result']['id']}"
        assert (await http.put(f"{base}/bulk", json=pairs("a", "b"))).status_code == 200
        listing = await http.get(f"{base}/keys")
        assert [row["name"] for row in listing.json()["result"]] == ["a", "b"]
        assert listing.headers["ratelimit"].startswith('"default";r=1197;')
        assert (await http.put(f"{base}/values/x", content=b"a UNION SELECT b")).status_code == 403


@pytest.mark.parametrize(
    "words", ["bad_key", "code", "code=x", "pair_cost=1ms:x", "denied=2", "cloudflare=1"]
)
def test_a_mood_without_what_it_needs_is_a_clear_error(words):
    """A mood without its parameter is an error that names the word."""
    with pytest.raises(UserError, match=words):
        parse_faults(words)


# the control


async def test_the_control_takes_the_words_of_the_command_line(server, http, base):
    """The control takes the words of the command line as a JSON string."""
    answer = await http.put(f"{server.root}/_kvfs/faults", json="code=10026:403,denied=0")
    assert [shown["rule"]["fault"] for shown in answer.json()["result"]] == ["code", "denied"]
    assert (await http.get(f"{base}/keys")).status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        [{"fault": "nonsense"}],
        [{"fault": "reset", "chance": 1}],
        [{"fault": "bad_key"}],
        {"fault": "reset"},
        "nonsense",
    ],
)
async def test_a_wrong_rule_is_answered_with_the_words_there_are(server, http, body):
    """A wrong rule is answered with the known faults, or for a list with the fields of a rule.

    The rules in force stay.
    """
    await server.set_faults({"fault": "latency", "seconds": 0})
    answer = await http.put(f"{server.root}/_kvfs/faults", json=body)
    assert answer.status_code == 400
    message = answer.json()["errors"][0]["message"]
    assert "pair_cost" in message
    assert "retry_after" in message or body == "nonsense"
    shown = (await http.get(f"{server.root}/_kvfs/faults")).json()["result"]
    assert [one["rule"]["fault"] for one in shown] == ["latency"]


async def test_the_example_of_the_page_is_understood(server, http):
    """The page's example is understood word for word."""
    body = PAGE.read_text().partition("```json\n")[2].partition("```")[0]
    answer = await http.put(f"{server.root}/_kvfs/faults", content=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["result"]) == len(json.loads(body))


@given(text=st.text(max_size=12), body=st.binary(max_size=40))
def test_no_body_makes_the_count_of_keys_fail(text, body):
    """A malformed body counts no keys, and the count never fails."""
    _, keys = operation_of("POST", f"/{text}/bulk/get", body)
    assert keys >= 0
