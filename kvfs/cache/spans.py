"""Sorted knowledge of one namespace's keys: which intervals are known, and what is in them.

A `Span` is an interval of key space together with every key in it, as some listing answered it. Absence is
knowledge too: a key inside a span that is not in its list does not exist. Attributes are kept beside the
keys only for the keys that have any, so a million plain keys cost one sorted list.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from kvfs.core.model import Key, KeyInfo, Metadata

_LAST = "\U0010ffff"
_FEW = 16  # up to this many changes are made in place, one by one


def successor(prefix: str) -> str | None:
    """Return the least text above every text that starts with `prefix`; None when there is none."""
    trimmed = prefix.rstrip(_LAST)
    if not trimmed:
        return None
    last = ord(trimmed[-1]) + 1
    if last == 0xD800:  # surrogates are not text
        last = 0xE000
    return trimmed[:-1] + chr(last)


@dataclass(slots=True, eq=False)
class Span:
    """Everything in `[low, high)` (high None: to the end), as known at `known_at` (epoch seconds).

    The index changes its spans in place: what is read of one counts until the next checkpoint.
    """

    low: str
    high: str | None
    keys: list[str]
    known_at: float

    def holds(self, key: str) -> bool:
        """Return whether the span knows about `key`."""
        return self.low <= key and (self.high is None or key < self.high)

    def reaches(self, high: str | None) -> bool:
        """Return whether everything from a key of the span up to `high` is inside it."""
        return self.high is None or (high is not None and high <= self.high)

    def has(self, key: str) -> bool:
        """Return whether `key`, which the span holds, exists."""
        index = bisect_left(self.keys, key)
        return index < len(self.keys) and self.keys[index] == key

    def first_below(self, prefix: str) -> str | None:
        """Return the first key that starts with `prefix`, which the span holds; None if there is none here."""
        index = bisect_left(self.keys, prefix)
        if index < len(self.keys) and (key := self.keys[index]).startswith(prefix):
            return key
        return None

    def knows_all(self, prefix: str) -> bool:
        """Return whether the span, which holds `prefix`, holds every text that starts with it."""
        return self.high is None or self.reaches(successor(prefix))


class SpanIndex:
    """Disjoint spans of one namespace in key order, and the attributes of its keys."""

    def __init__(self) -> None:
        # Invariants: see check_invariants.
        self._spans: list[Span] = []
        self._lows: list[str] = []
        self.attributes: dict[str, tuple[Metadata | None, int | None]] = {}

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def span_of(self, key: str) -> Span | None:
        """Return the span that holds `key`."""
        spans = self._spans
        if len(spans) == 1:  # a namespace listed whole: the ordinary case
            return spans[0] if spans[0].holds(key) else None
        index = bisect_right(self._lows, key) - 1
        return spans[index] if index >= 0 and spans[index].holds(key) else None

    def run(self, key: str) -> Iterator[Span]:
        """Return the span that holds `key`, and those that follow it without a gap."""
        span = self.span_of(key)
        index = bisect_right(self._lows, key)
        while span is not None:
            yield span
            following = self._spans[index] if index < len(self._spans) else None
            span = following if following is not None and following.low == span.high else None
            index += 1

    def following(self, key: str, count: int) -> list[Key]:
        """Return up to `count` known keys from `key` on, in listing order; for reading ahead."""
        found: list[str] = []
        for span in self.run(key):
            start = bisect_left(span.keys, key)
            found += span.keys[start : start + count - len(found)]
            if len(found) >= count:
                break
        return cast(list[Key], found)

    def before(self, key: str, count: int) -> str | None:
        """Return the text from which on at most `count` known keys lie before `key`; None when `key` is unknown."""
        span = self.span_of(key)
        if span is None:
            return None
        index = bisect_left(span.keys, key)
        return span.keys[index - count] if index >= count else span.low

    def learn(
        self, low: str, high: str | None, infos: Iterable[KeyInfo], known_at: float, *, join: float
    ) -> Span:
        """Make `[low, high)` known anew; older knowledge of it is forgotten.

        It grows the span before it, unless that is older than `join` (epoch seconds), because all of one span shares
        one age, the oldest. `infos` are in key order; what lies outside is left out.
        """
        self.drop(low, high)
        index = bisect_left(self._lows, low)
        before = self._spans[index - 1] if index else None
        if before is not None and before.high == low and before.known_at >= join:
            span, before.high = before, high
        else:
            span = Span(low, high, [], known_at)
            self._spans.insert(index, span)
            self._lows.insert(index, low)
        for info in infos:
            if span.holds(info.key) and low <= info.key:
                span.keys.append(info.key)
                if info.metadata is not None or info.expiration is not None:
                    self.attributes[info.key] = (info.metadata, info.expiration)
        return span

    def drop(self, low: str, high: str | None) -> None:
        """Forget `[low, high)`; spans that reach beyond it keep what lies outside."""
        first = max(bisect_right(self._lows, low) - 1, 0)
        last = len(self._spans) if high is None else bisect_left(self._lows, high)
        kept = [piece for span in self._spans[first:last] for piece in self._cut(span, low, high)]
        self._spans[first:last] = kept
        self._lows[first:last] = [span.low for span in kept]

    def _cut(self, span: Span, low: str, high: str | None) -> list[Span]:
        """Cut a range out of a span in place, because moving a million keys costs more; return the rest."""
        if span.high is not None and span.high <= low:
            return [span]
        first = bisect_left(span.keys, low)
        last = len(span.keys) if high is None else bisect_left(span.keys, high)
        if self.attributes:
            for key in span.keys[first:last]:
                self.attributes.pop(key, None)
        rest = []
        if high is not None and (span.high is None or high < span.high):
            if span.low >= low:
                del span.keys[:last]
                span.low = high
                return [span]
            rest.append(Span(high, span.high, span.keys[last:], span.known_at))
        if span.low >= low:
            return rest
        del span.keys[first:]
        span.high = low
        return [span, *rest]

    def join(self, key: str, high: str | None) -> Span | None:
        """Make one span of those that know everything from `key` to `high`, as old as the oldest of them.

        Return None when not everything is known.
        """
        pieces: list[Span] = []
        for span in self.run(key):
            pieces.append(span)
            if span.reaches(high):
                break
        else:
            return None
        first = pieces[0]
        if len(pieces) > 1:
            start = bisect_left(self._lows, first.low)
            del self._spans[start + 1 : start + len(pieces)], self._lows[start + 1 : start + len(pieces)]
            first.keys = [text for span in pieces for text in span.keys]
            first.high = pieces[-1].high
            first.known_at = min(span.known_at for span in pieces)
        return first

    def apply(self, present: Iterable[KeyInfo], absent: Iterable[str]) -> None:
        """Bring the spans up to date with keys that this mount wrote or deleted at the store.

        A key that no span holds stays unknown. A key that is in both is present.
        """
        gone = list(absent)
        for key in gone:
            self.attributes.pop(key, None)
        self._set(gone, is_there=False)
        there = [info for info in present if self.span_of(info.key) is not None]
        for info in there:
            if info.metadata is not None or info.expiration is not None:
                self.attributes[info.key] = (info.metadata, info.expiration)
            else:
                self.attributes.pop(info.key, None)
        self._set([info.key for info in there], is_there=True)

    def _set(self, keys: Iterable[str], *, is_there: bool) -> None:
        """Make known keys present or absent."""
        edits: dict[int, tuple[Span, set[str]]] = {}
        for key in keys:
            if (span := self.span_of(key)) is not None and span.has(key) != is_there:
                edits.setdefault(id(span), (span, set()))[1].add(key)
        for span, changed in edits.values():
            _edit(span, changed, is_there=is_there)

    def check_invariants(self) -> None:
        """Raise AssertionError unless spans are in order and disjoint, and attributes belong to keys."""
        assert self._lows == [span.low for span in self._spans]
        keys: set[str] = set()
        end: str | None = ""
        for span in self._spans:
            assert end is not None, "nothing can lie beyond the end"
            assert end <= span.low, "spans overlap"
            assert span.high is None or span.low < span.high, "an empty span"
            assert all(span.holds(key) for key in span.keys)
            assert all(a < b for a, b in zip(span.keys, span.keys[1:], strict=False)), "out of order"
            keys.update(span.keys)
            end = span.high
        assert self.attributes.keys() <= keys, "attributes of unknown keys"


def _edit(span: Span, keys: set[str], *, is_there: bool) -> None:
    """Put keys in that are missing, or take out those that are there.

    Many go in slices between their places: a million keys are copied, not compared.
    """
    if len(keys) <= _FEW:
        for key in keys:
            index = bisect_left(span.keys, key)
            span.keys[index : index + (not is_there)] = [key] if is_there else []
        return
    edited: list[str] = []
    start = 0
    for key in sorted(keys):
        index = bisect_left(span.keys, key, start)
        edited += span.keys[start:index]
        edited += [key] if is_there else []
        start = index if is_there else index + 1
    span.keys = edited + span.keys[start:]
