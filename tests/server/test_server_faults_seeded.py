"""Faults as the real API has them, counted over real sockets: rates, budgets, jitter, and that a seed repeats."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
import trio
from support.serving import served

from kvfs.core.errors import RateLimitedError, UserError
from kvfs.core.model import Entry, Key
from kvfs.server.fault_words import WORDS, parse_faults

PAGE = Path(__file__).parents[2] / "docs" / "server.md"
K = Key("k")


async def fates(server, http, count: int) -> list[int]:
    """Return by status what becomes of the same requests; 0: the connection died."""
    found = []
    for number in range(count):
        try:
            found.append((await http.put(f"{server.namespaces}/x/values/{number}", content=b"")).status_code)
        except httpx.HTTPError:
            found.append(0)
    return found


async def test_the_same_seed_meets_the_same_faults_over_sockets(tmp_path):
    """With one seed the faults over sockets repeat request by request, and with another they differ."""
    met = {}
    for place, seed in enumerate((7, 7, 8)):
        (tmp_path / f"{place}").mkdir()
        faults = f"error=503:0.3,reset=0.2,error=429:0.1,seed={seed}"
        async with served(tmp_path / f"{place}", faults=faults) as server, server.client() as http:
            met[place] = await fates(server, http, 60)
    assert met[0] == met[1] != met[2]
    assert set(met[0]) == {0, 400, 429, 503}


async def test_each_status_comes_at_its_rate(server, http):
    """Each status comes at its rate, within 5 sigma: a third 503, and of the rest a third 500."""
    await server.set_faults(
        {"fault": "status", "status": 503, "probability": 1 / 3},
        {"fault": "status", "status": 500, "probability": 1 / 3},
    )
    counted = Counter(await fates(server, http, 300))
    assert abs(counted[503] - 100) < 41
    assert abs(counted[500] - 200 / 3) < 36
    assert set(counted) == {503, 500, 400}


async def test_jitter_spreads_the_latency(server, http):
    """Jitter spreads the latency within its bounds."""
    await server.set_faults({"fault": "latency", "seconds": 0.05, "jitter": 0.045})
    seen = []
    for _ in range(10):
        started = trio.current_time()
        await http.get(f"{server.url}/user/tokens/verify")
        seen.append(trio.current_time() - started)
    assert min(seen) >= 0.005
    assert max(seen) - min(seen) > 0.01


async def test_the_budget_of_the_api_is_1200_in_five_minutes(tmp_path):
    """The 1,201st request in five minutes and all after it are refused with the API's headers and Retry-After."""
    async with served(tmp_path, faults="rate_budget") as server, server.client() as http:
        answers = []

        async def ask(count: int) -> None:
            for _ in range(count):
                answers.append(await http.get(f"{server.url}/user/tokens/verify"))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask, 300)
        assert {answer.status_code for answer in answers} == {200}
        assert answers[0].headers["ratelimit-policy"] == '"default";q=1200;w=300'
        assert any(answer.headers["ratelimit"].startswith('"default";r=0;') for answer in answers)
        refused = await http.get(f"{server.url}/user/tokens/verify")
        assert refused.status_code == 429
        assert 290 <= int(refused.headers["retry-after"]) <= 301


async def test_a_key_is_written_once_a_second(server, store, http, namespace, base):
    """A second write of a key within a second gets 429 with the API's code and Retry-After.

    Other keys, reads and deletes go on.
    """
    await server.set_faults({"fault": "key_rate", "seconds": 0.5})
    await store.put(namespace, K, Entry(b"1"))
    with pytest.raises(RateLimitedError) as caught:
        await store.put(namespace, K, Entry(b"2"))
    assert (caught.value.code, caught.value.retry_after) == (971, 1)
    await store.put(namespace, Key("other"), Entry(b"3"))
    assert (await store.get(namespace, K)).value == b"1"
    await trio.sleep(0.5)
    await store.put(namespace, K, Entry(b"4"))
    await store.delete(namespace, K)
    assert (await http.put(f"{base}/bulk", content=b'[{"no":"key"}]')).status_code == 400


async def test_a_bulk_write_leaves_keys_out_that_come_too_soon(server, store, namespace):
    """Keys of a bulk write that come too soon are unsuccessful and unchanged, and the others are written."""
    await server.set_faults({"fault": "key_rate", "seconds": 60})
    old, new = Key("a/b c"), Key("new")
    await store.put(namespace, old, Entry(b"1"))
    failed = await store.bulk_put(namespace, {old: Entry(b"2"), new: Entry(b"2")})
    assert failed == {old}
    assert (await store.get(namespace, old)).value == b"1"
    assert (await store.get(namespace, new)).value == b"2"


async def test_without_the_fault_nobody_counts_writes(store, namespace):
    """Without the fault writes are not limited."""
    for number in range(5):
        await store.put(namespace, K, Entry(b"%d" % number))


# words


def test_every_word_is_documented():
    """The table of docs/server.md has exactly the words that the parser knows."""
    _, _, table = PAGE.read_text().partition("## Faults")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = [word for row in rows for word in re.findall(r"`(\w+)(?:=|`)", row)]
    assert sorted(documented) == sorted(WORDS)


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_understood(word):
    """Every word is understood in the form of the table."""
    needed = {
        "latency": "1s",
        "jitter": "1s",
        "error": "503",
        "seed": "1",
        "code": "10026",
        "bad_key": "k",
        "stuck_key": "k",
    }
    rules = parse_faults(f"{word}={needed[word]}" if word in needed else word).armed
    assert bool(rules) == (word not in ("seed", "jitter"))


def test_an_unknown_word_is_answered_with_those_there_are():
    """An unknown word is answered with the known ones, each of which works."""
    with pytest.raises(UserError) as caught:
        parse_faults("bogus")
    _, _, listed = str(caught.value).partition("there are ")
    assert tuple(listed.split(", ")) == WORDS


def test_the_option_that_opens_the_server_is_named(tmp_path):
    """A server that listens everywhere names the option that allows it."""
    command = [sys.executable, "-m", "kvfs", "serve", "--listen=0.0.0.0:0", f"--store={tmp_path / 's'}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PAGE.parents[1])
    assert done.returncode != 0
    assert "--allow-any-host" in done.stderr
    assert "Traceback" not in done.stderr
