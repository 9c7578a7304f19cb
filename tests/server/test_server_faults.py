"""Faults by name: the answers of the client, their effect, and that a seed repeats them."""

import contextlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.serving import served

from kvfs.core import errors
from kvfs.core.model import Entry, Key, NamespaceId
from kvfs.server.fault_rules import Faults, Rule
from kvfs.server.fault_words import parse_faults
from kvfs.server.quotas import spend
from kvfs.server.staleness import KeyHistory, staleness
from kvfs.store.rest import client

K = Key("k")
GET = {"method": "GET", "path": "/values/"}
PUT = {"method": "PUT", "path": "/values/"}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"fault": "status"}, errors.UnavailableError),
        ({"fault": "status", "status": 503, "retry_after": 7}, errors.UnavailableError),
        ({"fault": "status", "status": 429}, errors.RateLimitedError),
        ({"fault": "status", "status": 403, "code": 10000}, errors.DeniedError),
        ({"fault": "status", "status": 413}, errors.BodyTooLargeError),
        ({"fault": "html", "status": 404}, errors.UnavailableError),
        ({"fault": "garbage", "status": 500}, errors.UnavailableError),
        ({"fault": "quota"}, errors.QuotaError),
        ({"fault": "redirect"}, errors.UnavailableError),
        ({"fault": "reset"}, errors.UnavailableError),
        ({"fault": "truncate"}, errors.UnavailableError),
        ({"fault": "gzip_bomb", "count": 40}, errors.UnavailableError),
    ],
)
async def test_a_read_that_meets_a_fault_fails_once(server, store, namespace, rule, expected):
    """A read that meets a fault fails with its error and `retry_after`, and the next one is answered."""
    await store.put(namespace, K, Entry(b"value"))
    await server.set_faults({**GET, "times": 1, **rule})
    with pytest.raises(errors.StoreError) as caught:
        await store.get(namespace, K)
    assert type(caught.value) is expected or issubclass(type(caught.value), expected)
    assert getattr(caught.value, "retry_after", None) == rule.get("retry_after")
    assert (await store.get(namespace, K)).value == b"value"


@pytest.mark.parametrize(("fault", "effect"), [("reset", False), ("lost_ack", True), ("truncate", True)])
async def test_a_write_whose_connection_dies_may_have_taken_effect(server, store, namespace, fault, effect):
    """A write that ends in `lost_ack` is done and not confirmed, and one that ends in `reset` is not done."""
    await server.set_faults({**PUT, "fault": fault, "times": 1})
    with pytest.raises(errors.UnavailableError):
        await store.put(namespace, K, Entry(b"value"))
    assert ((await store.get(namespace, K)) is not None) == effect


async def test_a_torn_bulk_write_reports_exactly_what_it_left_out(server, store, namespace):
    """A torn put or delete names as unsuccessful exactly the keys that did not change."""
    entries = {Key(f"k{number}"): Entry(b"v") for number in range(10)}
    await server.set_faults({"fault": "torn_bulk", "count": 3})
    failed = await store.bulk_put(namespace, entries)
    assert len(failed) == 3
    assert {line.key for line in (await store.list_keys(namespace)).keys} == set(entries) - failed
    await server.set_faults()
    await store.bulk_put(namespace, entries)
    await server.set_faults({"fault": "torn_bulk"})
    left = await store.bulk_delete(namespace, list(entries))
    assert len(left) == 5
    assert {line.key for line in (await store.list_keys(namespace)).keys} == left


async def test_a_torn_write_that_stalls_does_not_stop_the_server(server, store, namespace, monkeypatch):
    """After a torn write that stalls the client leaves, and the next one is answered."""
    monkeypatch.setitem(client._LEAST_SECONDS, "bulk_put", 0.0)  # it would wait two minutes for a bulk write
    await server.set_faults({"fault": "torn_bulk", "count": 1}, {"fault": "stall", "method": "PUT"})
    async with server.open_rest(timeout=0.2) as impatient:
        with pytest.raises(errors.UnavailableError, match="no progress"):
            await impatient.bulk_put(namespace, {K: Entry(b"v"), Key("other"): Entry(b"v")})
    with trio.fail_after(5):
        assert await store.get(namespace, K) is None


async def test_latency_delays_and_then_answers(server, store, namespace):
    """Latency delays an answer by its seconds, give or take the jitter."""
    await server.set_faults({"fault": "latency", "seconds": 0.2, "jitter": 0.05, **GET})
    started = trio.current_time()
    await store.get(namespace, K)
    assert 0.15 <= trio.current_time() - started < 2


async def test_a_stall_outlasts_the_patience_of_a_client(server, namespace):
    """A stall outlasts the client's patience, and ends when the client leaves."""
    await server.set_faults({"fault": "stall", **GET})
    async with server.open_rest(timeout=0.2) as store:
        with pytest.raises(errors.UnavailableError, match="no progress"):
            await store.get(namespace, K)


async def test_a_slow_drip_outlasts_it_too(server, store, namespace):
    """A slow drip outlasts the client's patience, although bytes keep coming."""
    await store.put(namespace, K, Entry(bytes(1000)))
    await server.set_faults({"fault": "slow_drip", "seconds": 0.05, **GET})
    async with server.open_rest(timeout=0.3) as impatient:
        with pytest.raises(errors.UnavailableError, match="no progress"):
            await impatient.get(namespace, K)


async def test_the_rate_budget_blocks_for_a_whole_window(server, http, base):
    """The rate budget puts the API's headers on every answer, and Retry-After on the refusals."""
    await server.set_faults({"fault": "rate_budget", "count": 3, "seconds": 300})
    answers = [await http.get(f"{base}/keys") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[0].headers["ratelimit"].startswith('"default";r=2;t=')
    assert answers[0].headers["ratelimit-policy"] == '"default";q=3;w=300'
    assert 298 <= int(answers[3].headers["retry-after"]) <= 301
    assert answers[3].json()["errors"][0]["code"] == 971


def test_the_rate_budget_comes_back_after_its_window():
    """A window without excess begins anew, and an excess blocks for a whole window from then on."""
    budget: dict[str, float] = {}
    moments = [0, 1, 2, 50, 101.9, 102, 103, 203, 204]
    left = [spend(budget, 2, 100, moment)[0] for moment in moments]
    assert left == [1, 0, -1, -1, -1, 1, 0, 1, 0]


async def test_an_endless_cursor_leads_on_for_ever(server, store, namespace):
    """An endless listing gives always new cursors, or one again and again."""
    await store.put(namespace, K, Entry(b""))
    await server.set_faults({"fault": "endless_cursor"})
    cursor, seen = None, set()
    for _ in range(5):
        cursor = (await store.list_keys(namespace, cursor=cursor)).cursor
        seen.add(cursor)
    assert len(seen) == 5
    await server.set_faults({"fault": "endless_cursor", "count": 1})
    cursor = (await store.list_keys(namespace)).cursor
    with pytest.raises(errors.UnavailableError):
        await store.list_keys(namespace, cursor=cursor)


async def test_stale_reads_answer_what_was(server, store, namespace):
    """Stale reads answer values, metadata, absences and listings as of some time ago, never of before the rule."""
    old, new, gone = Key("old"), Key("new"), Key("gone")
    await store.bulk_put(namespace, {old: Entry(b"1", b"{}"), gone: Entry(b"was")})
    stale = {"fault": "stale", "seconds": 1e6, "method": "GET|POST", "path": "keys|values|metadata|bulk/get"}
    await server.set_faults(stale)
    assert (await store.get(namespace, old)).value == b"1"
    await store.put(namespace, old, Entry(b"2"))
    await store.bulk_put(namespace, {new: Entry(b"new")})
    await store.delete(namespace, gone)
    assert (await store.get(namespace, old)).value == b"1"
    assert await store.get_metadata(namespace, old) == b"{}"
    assert await store.get(namespace, new) is None
    assert await store.bulk_get(namespace, [old, new, gone]) == {
        old: Entry(b"1", b"{}"),
        new: None,
        gone: Entry(b"was"),
    }
    assert [line.key for line in (await store.list_keys(namespace)).keys] == [gone, old]
    await server.set_faults()
    assert (await store.get(namespace, old)).value == b"2"
    assert [line.key for line in (await store.list_keys(namespace)).keys] == [new, old]


async def test_staleness_is_the_state_of_a_moment(autojump_clock):
    """A stale answer is the state of one moment, exactly as old as asked for."""
    history = KeyHistory(Faults([Rule("stale", seconds=60)]).stale_seconds)
    namespace = NamespaceId("n")
    for before in (None, Entry(b"first"), Entry(b"second")):  # changed at 0, 10 and 20 seconds
        history.record(namespace, K, before)
        await trio.sleep(10)
    seen = {}
    for age in (5, 15, 25, 35):
        with staleness(age):
            seen[age] = history.past(namespace)
    assert seen == {5: {}, 15: {K: Entry(b"second")}, 25: {K: Entry(b"first")}, 35: {K: None}}
    assert history.past(namespace) == {}


async def test_a_stale_listing_still_goes_by_pages(server, store, namespace):
    """A stale listing in pages has every key once, in order."""
    keys = [Key(f"k{number:02}") for number in range(25)]
    await store.bulk_put(namespace, {key: Entry(b"") for key in keys})
    await server.set_faults({"fault": "stale", "probability": 0.5})
    await store.delete(namespace, keys[3])
    found, cursor = [], None
    while not found or cursor:
        page = await store.list_keys(namespace, cursor=cursor, limit=10)
        found += [line.key for line in page.keys]
        cursor = page.cursor
    assert [key for key in found if key != keys[3]] == [key for key in keys if key != keys[3]]


async def test_rules_are_shown_counted_and_ended(server, http, base):
    """`after` spares the first requests, `times` the later ones.

    DELETE ends the rules, and malformed ones change nothing.
    """
    control = f"{server.root}/_kvfs/faults"
    await server.set_faults({"fault": "status", "after": 1, "times": 2, "path": "/keys"})
    assert [(await http.get(f"{base}/keys")).status_code for _ in range(4)] == [200, 500, 500, 200]
    (shown,) = (await http.get(control)).json()["result"]
    assert (shown["seen"], shown["fired"], shown["rule"]["fault"]) == (4, 2, "status")
    for nonsense in (
        b"{",
        b"{}",
        b'[{"fault":"nothing"}]',
        b'[{"fault":"reset","path":"("}]',
        b'[{"fault":"reset","probability":2}]',
        b'[{"fault":"reset","typo":1}]',
        b'[{"fault":"status","status":99}]',
        b'[{"fault":"latency","seconds":-1}]',
    ):
        assert (await http.put(control, content=nonsense)).status_code == 400, nonsense
    assert len((await http.get(control)).json()["result"]) == 1
    assert (await http.delete(control)).json()["result"] == []


async def test_without_the_option_there_is_no_control_of_faults(tmp_path):
    """Without the option the control of faults answers 404, as any unknown path."""
    async with served(tmp_path) as server, server.client() as client:
        assert (await client.get(f"{server.root}/_kvfs/faults")).status_code == 404


async def test_faults_may_be_given_at_the_start(tmp_path):
    """Faults may be given at the start, as `kvfs serve --faults` does."""
    async with served(tmp_path, faults="error=503:1,seed=7") as server, server.open_rest() as store:
        with pytest.raises(errors.UnavailableError):
            await store.list_namespaces()
        assert await server.requests() == {"list_namespaces": 1}


def test_the_text_of_the_command_line_becomes_rules():
    """The command line's text becomes rules with durations, probabilities and counts.

    Jitter belongs to the latency wherever it stands.
    """
    faults = parse_faults(
        "jitter=10ms, latency=50ms,error=503:0.1,error=429,lost_ack=0.05,stale=1.5m:0.2,"
        "rate_budget=100,torn_bulk=0.5,reset,gzip_bomb=3:0.25,seed=7"
    )
    assert faults.seed == 7
    assert [armed.rule for armed in faults.armed] == [
        Rule("latency", seconds=0.05, jitter=0.01),
        Rule("status", status=503, probability=0.1),
        Rule("status", status=429),
        Rule("lost_ack", probability=0.05),
        Rule("stale", seconds=90.0, probability=0.2),
        Rule("rate_budget", count=100),
        Rule("torn_bulk", probability=0.5),
        Rule("reset"),
        Rule("gzip_bomb", count=3, probability=0.25),
    ]


@pytest.mark.parametrize(
    "text", ["nonsense", "latency=fast", "latency", "error=", "error=999", "reset=2", "seed=x", "stall=-1s"]
)
def test_wrong_text_is_a_clear_error(text):
    """A wrong text is refused with the word that is wrong."""
    with pytest.raises(errors.UserError, match=text):
        parse_faults(text)


@given(text=st.text(max_size=30) | st.from_regex(r"[a-z_]{1,10}=[0-9.:smx]{0,6}"))
def test_no_text_makes_the_parser_fail_in_any_other_way(text):
    """Any text gives rules or a `UserError`."""
    with contextlib.suppress(errors.UserError):
        parse_faults(text)


@given(seed=st.integers(), probability=st.floats(0, 1))
def test_the_same_seed_meets_the_same_faults(seed, probability):
    """With one seed the faults repeat, and rules do not disturb each other's chances."""
    rule = Rule("reset", probability=probability)

    def pattern(rules):
        faults = Faults(rules, seed=seed)
        return [any(armed.rule is rule for armed in faults.fire("GET", "/")) for _ in range(30)]

    assert pattern([rule]) == pattern([rule]) == pattern([rule, Rule("stall", probability=0.5)])


async def test_clients_that_go_in_the_middle_of_a_broken_request_do_not_end_the_server(tmp_path):
    """After a client leaves in a broken request, with a body that never comes, the next one is served."""
    async with served(tmp_path, faults="reset") as server:
        path = server.namespaces.partition(str(server.port))[2]
        head = f"PUT {path}/x/bulk HTTP/1.1\r\nhost: x\r\ncontent-length: 56\r\n\r\n".encode()
        for number in range(40):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            await stream.send_all(head)
            await trio.sleep(0.0005 * (number % 9))
            await stream.aclose()
        await server.set_faults()
