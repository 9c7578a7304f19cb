"""Refusals of the token: each is doubted, then believed, and not repeated at the API."""

import pytest
import trio
from support.faults import FaultStore
from support.inline import open_inline
from support.tokens import Fixed

from kvfs.core.errors import AccountError, DeniedError, QuotaError, RejectedError
from kvfs.core.model import Entry, Key
from kvfs.store.denials import DOUBTS, FIRST_REST, LONGEST_REST, Doubting, Refusals

KEY = Key("key")
PASSING = DeniedError("Authentication error", code=10000, status=403)
LASTING = DeniedError("Invalid access token", code=9109, status=403)


class Renewed(Fixed):
    """A token that another program replaces: `ready` when it can be seen, `answers` when it can be asked for."""

    ready = False
    answers = False

    def has_changed(self) -> bool:
        ready, self.ready = self.ready, False
        return ready

    async def renew(self) -> bool:
        answers, self.answers = self.answers, False
        return answers


@pytest.fixture
def store(tmp_path):
    with open_inline(tmp_path / "store.db") as backend:
        yield FaultStore(backend)


@pytest.fixture
async def namespace(store):
    made = (await store.create_namespace("ns")).id
    store.calls.clear()
    return made


async def test_a_refusal_that_passes_is_survived(store, autojump_clock):
    """A refusal that passes, as 10000 does for good tokens now and then, is asked again after about 1, 2 and 4 s."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("list_namespaces", PASSING, times=3)
    assert await doubting.list_namespaces() == []
    assert trio.current_time() == sum(DOUBTS)


@pytest.mark.parametrize("patience", [1, 3, 10, 30, 300])
async def test_who_waits_hears_of_a_refusal_in_time(store, autojump_clock, patience):
    """The doubts leave more than half of a caller's time, because an fsync is to fail as refused, not as too late."""
    doubting = Doubting(store, Refusals(Fixed(), patience))
    store.fail("list_namespaces", PASSING)
    with pytest.raises(DeniedError):
        await doubting.list_namespaces()
    assert store.count() == 1 + len(DOUBTS)
    assert trio.current_time() <= min(patience / 2, sum(DOUBTS))


async def test_a_refusal_that_stays_counts_and_calls_fail_without_a_request(store, autojump_clock):
    """After a lasting refusal calls fail without a request for 30 s, then twice as long each time, at most 5 min."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("list_namespaces", PASSING)
    with pytest.raises(DeniedError):
        await doubting.list_namespaces()
    assert store.count() == 1 + len(DOUBTS)
    rest = FIRST_REST
    while rest < LONGEST_REST:
        before = store.count()
        for _ in range(50):
            with pytest.raises(DeniedError, match="next request is in"):
                await doubting.list_namespaces()
        assert store.count() == before
        await trio.sleep(rest)
        with pytest.raises(DeniedError):
            await doubting.list_namespaces()
        assert store.count() == before + 1
        rest = min(2 * rest, LONGEST_REST)
    await trio.sleep(LONGEST_REST)
    store.clear()
    assert await doubting.list_namespaces() == []
    assert await doubting.list_namespaces() == []


async def test_a_crowd_of_refused_calls_asks_once(store, autojump_clock):
    """Sixteen refused calls under way share one doubt: one asks again, and the others learn the result."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("list_namespaces", PASSING)

    async def ask() -> None:
        with pytest.raises(DeniedError):
            await doubting.list_namespaces()

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask)
    assert store.count() == 16 + len(DOUBTS)
    await trio.sleep(FIRST_REST)
    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(ask)
    assert store.count() == 16 + len(DOUBTS) + 1


async def test_a_token_that_may_only_read_goes_on_reading(store, namespace, autojump_clock):
    """A token that may only read goes on reading, because refusals of reads and writes are kept apart."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("bulk_put", PASSING)
    with pytest.raises(DeniedError):
        await doubting.bulk_put(namespace, {KEY: Entry(b"v")})
    assert await doubting.get(namespace, KEY) is None
    with pytest.raises(DeniedError, match="next request"):
        await doubting.bulk_put(namespace, {KEY: Entry(b"v")})


async def test_a_refusal_of_the_token_itself_counts_for_all_at_once(store, namespace, autojump_clock):
    """A refusal of the token itself counts for all operations at once, without a doubt."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("get", LASTING)
    with pytest.raises(DeniedError):
        await doubting.get(namespace, KEY)
    assert (store.count(), trio.current_time()) == (1, 0)
    for call in (lambda: doubting.bulk_put(namespace, {KEY: Entry(b"v")}), doubting.list_namespaces):
        with pytest.raises(DeniedError, match="next request"):
            await call()
    assert store.count() == 1


@pytest.mark.parametrize(
    "error",
    [
        QuotaError("used up", code=10048),
        AccountError("plan", code=10026),
        DeniedError("no permission", code=10037),
        RejectedError("no", code=10033),
    ],
    ids=str,
)
async def test_what_is_not_about_the_token_closes_nothing(store, namespace, autojump_clock, error):
    """A quota, a plan or a permission closes nothing, because it does not concern the token."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("get", error, times=1)
    with pytest.raises(type(error)):
        await doubting.get(namespace, KEY)
    assert await doubting.get(namespace, KEY) is None
    assert trio.current_time() == 0


async def test_a_new_token_is_tried_at_once(store, autojump_clock):
    """A new token is tried at once, from the command after the refusal, or from the file while nothing is asked."""
    token = Renewed()
    doubting = Doubting(store, Refusals(token))
    store.fail("list_namespaces", LASTING, times=1)
    token.answers = True
    assert await doubting.list_namespaces() == []
    store.fail("list_namespaces", LASTING, times=1)
    with pytest.raises(DeniedError):
        await doubting.list_namespaces()
    with pytest.raises(DeniedError, match="next request"):
        await doubting.list_namespaces()
    token.ready = True
    assert await doubting.list_namespaces() == []
    assert trio.current_time() == 0


async def test_a_person_who_asks_is_not_made_to_wait(store, autojump_clock):
    """`kvfs sync` asks at once, because the permission may have been given in the dashboard."""
    refusals = Refusals(Fixed())
    doubting = Doubting(store, refusals)
    store.fail("list_namespaces", LASTING, times=1)
    with pytest.raises(DeniedError):
        await doubting.list_namespaces()
    refusals.ask_again()
    assert await doubting.list_namespaces() == []
    assert trio.current_time() == 0


async def test_a_doubt_ends_before_the_callers_deadline(store, autojump_clock):
    """A doubt ends before the caller's deadline, so the refusal is raised and not a time-out."""
    doubting = Doubting(store, Refusals(Fixed()))
    store.fail("list_namespaces", PASSING)
    with trio.fail_after(2), pytest.raises(DeniedError):
        await doubting.list_namespaces()
