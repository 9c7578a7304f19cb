"""Which values to ask for before anybody does: pure decisions over listing order.

A walk (`grep -r`, `ls -l`, `cp -r`) touches keys in listing order. The first miss somewhere asks for one
value; a second miss that continues it asks for a window, which doubles up to a full bulk get; from then on
hits that pass a mark keep the requests ahead of the reader. Reading here and there is no walk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvfs.cache.listings import Listings
from kvfs.cache.values import Place
from kvfs.core.limits import BULK_GET_BYTES, BULK_GET_KEYS
from kvfs.core.model import Key, NamespaceId

_FIRST = 8  # keys of the first window
_STREAMS = 16  # walks remembered at once
_AHEAD = 4  # full windows kept ahead of a steady reader
_GAP = 32  # keys a walk may skip (locally known, filtered by the tool) and still be the same walk
_SCAN = 8  # keys looked at for each that is to be asked for: what is cached is passed over
_LARGE = 1 << 20  # bytes; a value of this size says more of its neighbours than a small one
_NOTHING: Sequence[Key] = ()


@dataclass(slots=True, eq=False)
class _Stream:
    """One walk: the last key it is known to have touched, the end of what was asked, how much at a time."""

    namespace: NamespaceId
    directory: str
    last: Key
    end: Key
    window: int = 1
    mark: Key | None = None  # a hit from here to `end` asks for more
    wide: bool = False  # it went from one directory to another, so it will again


class Readahead:
    """Remembers a few walks and says what to fetch next.

    `is_wanted` tells keys that are neither held nor under way; `room` is how many bytes the cache holds.
    """

    def __init__(self, listings: Listings, is_wanted: Callable[[Place], bool], room: int) -> None:
        # dependencies and constants
        self._listings = listings
        self._is_wanted = is_wanted
        self._room = room
        # mutable state. Invariant: most recently used last, at most _STREAMS; _marks are the marked ones.
        self._streams: list[_Stream] = []
        self._marks: list[tuple[Key, Key, _Stream]] = []
        self._average = 1024.0  # bytes a value, smoothed

    def observe(self, size: int) -> None:
        """A value of so many bytes arrived: what is asked for fits one answer, and the cache."""
        self._average += (size - self._average) * (0.05 if size < _LARGE else 0.5)

    @property
    def batch(self) -> int:
        """Keys of a full window: as many as go into one answer with room to spare."""
        return max(1, min(BULK_GET_KEYS, int(BULK_GET_BYTES / 2 / max(self._average, 1.0))))

    def _depth(self) -> int:
        """The most keys asked for ahead of a reader; half the cache stays for what was read."""
        return min(_AHEAD * self.batch, int(self._room / 2 / max(self._average, 1.0)))

    def miss(self, namespace: NamespaceId, directory: str, key: Key) -> Sequence[Key]:
        """The keys to ask for now that `key` is missing; `key` is the first of them."""
        stream = self._continued(namespace, key)
        if stream is None:
            self._use(_Stream(namespace, directory, key, key))
            return [key]
        if key == stream.last:  # the same again
            return [key]
        if key <= stream.end:  # asked for, and gone again: less at a time
            stream.window = _FIRST
        else:
            stream.end = key
            stream.window = max(_FIRST, stream.window * 2)
        stream.window = max(1, min(stream.window, self.batch, self._depth()))
        ahead = self._further(stream, directory, key, stream.window - 1)
        return [key, *ahead]

    def hit(self, namespace: NamespaceId, directory: str, key: Key) -> Sequence[Key]:
        """The keys to ask for now that `key` was answered from the cache; mostly none."""
        for mark, end, stream in self._marks:
            if mark <= key <= end and stream.namespace == namespace:
                break
        else:
            return _NOTHING
        batch, depth = self.batch, self._depth()
        stream.window = max(1, min(stream.window * 2, batch, depth))
        asked = self._between(namespace, key, stream.end, depth)
        if stream.window < batch or depth < 2 * batch:
            return self._further(stream, directory, key, min(stream.window, depth - asked))
        return self._further(stream, directory, key, (depth - asked) // batch * batch)

    def _further(self, stream: _Stream, directory: str, key: Key, count: int) -> Sequence[Key]:
        """Up to `count` wanted keys after what the stream asked for; the next hit that asks is marked."""
        stream.wide = stream.wide or directory != stream.directory
        stream.directory, stream.last = directory, key
        found, end = self._wanted(stream, count)
        if end == stream.end:
            stream.mark = end if key < end else None  # the end of what is known: perhaps it goes on then
        elif stream.window < self.batch:
            stream.mark = found[0] if found else end
        else:
            walk = self._listings.following(stream.namespace, key, stream.window + 1)
            stream.mark = min(walk[-1], end) if walk else end
        stream.end = end
        self._use(stream)
        return found

    def _wanted(self, stream: _Stream, count: int) -> tuple[list[Key], Key]:
        """The keys to ask for, and the last key looked at."""
        found: list[Key] = []
        end = stream.end
        if count <= 0:
            return found, end
        for key in self._listings.following(stream.namespace, end + "\0", count * _SCAN):
            if not stream.wide and not key.startswith(stream.directory):
                break
            end = key
            if self._is_wanted((stream.namespace, key)):
                found.append(key)
                if len(found) == count:
                    break
        return found, end

    def _between(self, namespace: NamespaceId, key: Key, end: Key, most: int) -> int:
        walk = self._listings.following(namespace, key + "\0", most)
        return sum(1 for known in walk if known <= end)

    def _continued(self, namespace: NamespaceId, key: Key) -> _Stream | None:
        near = self._listings.before(namespace, key, _GAP)
        for stream in reversed(self._streams):
            if stream.namespace != namespace or key < stream.last:
                continue
            if key <= stream.end or (near is not None and near <= stream.end):
                return stream
        return None

    def _use(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        if len(self._streams) >= _STREAMS:  # what was read but once goes before what is a walk
            self._streams.remove(next((s for s in self._streams if s.window == 1), self._streams[0]))
        self._streams.append(stream)
        self._marks = [(s.mark, s.end, s) for s in self._streams if s.mark is not None]
