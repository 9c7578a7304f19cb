"""Spans against a plain model: a dict of what is known of each text of a small universe."""

import random
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock

from kvfs.cache.listings import Listings
from kvfs.cache.spans import Span, SpanIndex, successor
from kvfs.core.model import Key, KeyInfo, KeyPage, NamespaceId

NS = NamespaceId("n")
LETTERS = "\0a/\ud7ff\ue000\U0010fffe\U0010ffff"
TEXTS = st.text(LETTERS, max_size=4)
KEYS = st.text(LETTERS, min_size=1, max_size=4)


@given(TEXTS, st.lists(TEXTS, max_size=30))
def test_the_successor_divides_what_starts_with_a_prefix_from_what_comes_later(prefix, texts) -> None:
    """Every text from the prefix on starts with it exactly if it is below the successor."""
    end = successor(prefix)
    for text in [*texts, *(prefix + text for text in texts)]:
        below = prefix <= text and (end is None or text < end)
        assert text.startswith(prefix) == below


@given(KEYS, st.sets(KEYS, max_size=12), st.none() | TEXTS)
def test_a_span_tells_what_is_below_a_prefix(prefix, keys, high) -> None:
    """A span names the first key below a prefix, and says whether it reaches far enough to know them all."""
    held = sorted(text for text in keys if high is None or text < high)
    span = Span("", high, held, 0.0)
    if not span.holds(prefix):
        return
    assert span.first_below(prefix) == next((text for text in held if text.startswith(prefix)), None)
    assert span.knows_all(prefix) == (high is None or prefix + "\U0010ffff" * 9 < high)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        *[("", None), ("\U0010ffff", None), ("\U0010ffff\U0010ffff", None), ("a", "b"), ("a\U0010ffff", "b")],
        ("\ud7ff", "\ue000"),
        ("x\ud7ff\U0010ffff", "x\ue000"),
    ],
)
def test_the_successor_is_text(prefix: str, end: str | None) -> None:
    """The successor has no surrogate, and its last character carries over."""
    assert successor(prefix) == end


class Model:
    """The store's keys, and the knowledge that the listings should have of them: text → (exists, attributes, when)."""

    def __init__(self, universe: list[str]) -> None:
        self.universe = universe
        self.known: dict[str, tuple[bool, object, float]] = {}

    def learn(self, low: str, high: str | None, infos: dict[str, object], now: float) -> None:
        for text in self.universe:
            if low <= text and (high is None or text < high):
                self.known[text] = (text in infos, infos.get(text), now)


@st.composite
def _steps(draw):
    kinds = st.sampled_from(["page", "rest", "drop", "apply", "amend", "forget", "join", "wait"])
    return draw(st.lists(st.tuples(kinds, TEXTS, st.integers(1, 4)), max_size=25))


@given(st.frozensets(KEYS, min_size=1, max_size=12), _steps(), st.randoms(use_true_random=False))
def test_listings_know_what_a_dict_of_every_text_knows(universe, steps, rng: random.Random) -> None:
    """After any pages, drops and changes the listings know what exists, what does not, and how old that is."""
    clock = Clock()
    listings = Listings(60.0, clock)
    model = Model(sorted(universe))
    listing: tuple[str, str] | None = None  # a prefix, and where its listing stopped
    for kind, text, number in steps:
        there = {key: None if rng.random() < 0.5 else number for key in universe if rng.random() < 0.7}
        if kind == "page" or (kind == "rest" and listing is None):
            listing = _page(listings, model, there, text, text, number)
        elif kind == "rest":
            assert listing is not None
            listing = _page(listings, model, there, *listing, number)
        elif kind in ("drop", "forget"):
            prefix = text if kind == "drop" else text[:1]
            listings.forget(NS, prefix)
            for key in [key for key in model.known if key.startswith(prefix)]:
                del model.known[key]
        elif kind == "apply":
            _apply(listings, model, there, universe)
        elif kind == "amend":
            key = rng.choice(model.universe)
            listings.amend(NS, _info(key, number))
            if model.known.get(key, (False,))[0]:
                model.known[key] = (True, number, model.known[key][2])
        elif kind == "join":
            listings.complete(NS, text, stale=True)
        else:
            clock.advance(number * 10)
        listings.check_invariants()
        _compare(listings, model)


def _page(listings, model, there, prefix: str, low: str, number: int) -> tuple[str, str] | None:
    keys = sorted(key for key in there if key.startswith(prefix) and key >= low)
    page = keys[:number] if len(keys) > number else keys
    cursor = "more" if len(keys) > number else None
    infos = tuple(_info(key, there[key]) for key in page)
    listings.learn(NS, prefix, KeyPage(infos, cursor), low=low)
    high = page[-1] + "\0" if cursor else successor(prefix)
    model.learn(low, high, {key: there[key] for key in page}, listings._now())
    return (prefix, high) if cursor and high is not None else None


def _info(key: str, number: int | None) -> KeyInfo:
    return KeyInfo(Key(key)) if number is None else KeyInfo(Key(key), b"%d" % number, number)


def _apply(listings, model, there, universe) -> None:
    absent = [key for key in universe if key not in there]
    listings.apply(NS, [_info(key, number) for key, number in there.items()] * 2, absent)
    for key in universe:
        if key in model.known:
            model.known[key] = (key in there, there.get(key), model.known[key][2])


def _compare(listings: Listings, model: Model) -> None:
    for key in model.universe:
        span = listings.span_of(NS, key, stale=True)
        if key not in model.known:
            assert span is None
            assert listings.attributes(NS, Key(key)).expiration is None
            continue
        exists, number, since = model.known[key]
        assert span is not None
        assert span.has(key) == exists
        assert listings.attributes(NS, Key(key)).expiration == (number if exists else None)
        assert span.known_at <= since, "never fresher than it is"
    run = [key for key in model.universe if model.known.get(key, (False,))[0]]
    for key in run:
        following = listings.index(NS).following(Key(key), 3)
        assert following == [k for k in run if k >= key][: len(following)]


def test_a_listing_that_grows_is_as_old_as_its_first_page() -> None:
    """Pages that come within half the ttl share a span.

    Later ones begin another, so no key counts as fresh for too long.
    """
    clock = Clock()
    listings = Listings(60.0, clock)
    low = ""
    for number in range(10):
        page = KeyPage((KeyInfo(Key(f"k{number}")),), "more")
        span = listings.learn(NS, "", page, low=low)
        assert span is not None
        low = span.high or ""
        clock.advance(20)
    assert listings.statistics().spans == 5
    assert listings.span_of(NS, "k0") is None
    assert listings.span_of(NS, "k9") is not None
    assert listings.index(NS).following(Key("k3"), 5) == [f"k{n}" for n in range(3, 8)]


def test_a_page_that_goes_backwards_does_no_harm() -> None:
    """Keys of a cursor's page that lie before the cursor are left out."""
    listings = Listings(60.0, Clock())
    listings.learn(NS, "", KeyPage((KeyInfo(Key("m")),), "more"))
    assert listings.learn(NS, "", KeyPage((KeyInfo(Key("a")),), "more"), low="m\0") is None
    listings.learn(NS, "", KeyPage((KeyInfo(Key("a")), KeyInfo(Key("z"))), None), low="m\0")
    listings.check_invariants()
    span = listings.complete(NS, "")
    assert span is not None
    assert span.keys == ["m", "z"]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 18, 500])
def test_many_changes_at_once_are_as_many_single_ones(count: int) -> None:
    """A batch of any size leaves the keys in order, none lost and none too many."""
    rng = random.Random(count)
    universe = [f"{n:04}" for n in range(1000)]
    there = set(rng.sample(universe, 500))
    listings = Listings(60.0, Clock())
    listings.learn(NS, "", KeyPage(tuple(KeyInfo(Key(k)) for k in sorted(there)), None))
    present, absent = rng.sample(universe, count), rng.sample(universe, count)
    listings.apply(NS, [KeyInfo(Key(key)) for key in present], [Key(key) for key in absent])
    span = listings.complete(NS, "")
    assert span is not None
    assert span.keys == sorted((there - set(absent)) | set(present))


def test_a_million_keys() -> None:
    """A million keys take less than 150 MB, a lookup microseconds, and ten thousand changes less than a second."""
    listings = Listings(60.0, Clock())
    low = None
    for number in range(1000):
        infos = tuple(KeyInfo(Key(f"some/path/{number * 1000 + k:09}.json")) for k in range(1000))
        span = listings.learn(NS, "", KeyPage(infos, "more" if number < 999 else None), low=low)
        assert span is not None
        low = span.high
    span = listings.complete(NS, "")
    assert span is not None
    held = sys.getsizeof(span.keys) + sum(map(sys.getsizeof, span.keys))
    assert held < 150e6
    keys = [f"some/path/{number:09}.json" for number in random.Random(3).sample(range(2_000_000), 10_000)]
    began = time.perf_counter()
    found = sum(span.has(key) for key in keys if (span := listings.span_of(NS, key)) is not None)
    lookup = (time.perf_counter() - began) / len(keys)
    there = [KeyInfo(Key(key)) for key in keys[:5000]]
    began = time.perf_counter()
    listings.apply(NS, there, [Key(key) for key in keys[5000:]])
    applied = time.perf_counter() - began
    assert 4500 < found < 5500
    assert lookup < 500e-6  # a walk over the keys would take milliseconds
    assert applied < 1.0
    print(f"{held / 1e6:.0f} MB, {lookup * 1e6:.2f} µs a lookup, {applied * 1e3:.0f} ms for 10,000 changes")


def test_ten_thousand_small_spans_stay_quick() -> None:
    """Learning and dropping one of many spans does not look at the others."""
    index = SpanIndex()
    began = time.perf_counter()
    for number in range(10_000):
        index.learn(f"{number:05}/", f"{number:05}0", [KeyInfo(Key(f"{number:05}/a"))], 0.0, join=1.0)
    assert time.perf_counter() - began < 8.0  # looking at the others would take minutes
    assert isinstance(index.span_of("00500/a"), Span)
    assert index.span_of("00500") is None
