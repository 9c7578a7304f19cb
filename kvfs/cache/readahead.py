"""Read-ahead: decides which values to ask for before a program does, from the order of the listing alone.

A walk (`grep -r`, `ls -l`, `cp -r`) touches keys in listing order. When its beginning is seen (`scans`: the
first file of a directory whose entries were just read), the first miss asks for a full bulk get: of a tree in
listing order, or of one directory's files. In a tree the second key, a hit by then, fills the depth: some bulk
gets at once, in windows that follow each other without a hole. So n values cost n/100 requests and two round
trips. Of a tree nothing is asked for that lies outside it, of a directory no other.

Any other first miss asks for one value. When the next one is the very next key, it asks for a full bulk get at
once; when it is only near, for a window that doubles up to that: keys are billed, and two reads in a large
directory are no walk yet. From then on hits that pass a mark keep the requests ahead of the reader. Reading
here and there is no walk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvfs.cache.listings import Listings
from kvfs.cache.scans import Walk
from kvfs.core.limits import BULK_GET_BYTES, BULK_GET_KEYS
from kvfs.core.model import Key, KeyRef, NamespaceId

_FIRST = 8  # keys of the first window, and read from a full one before more is asked for
_SOON = 1 << 20  # bytes that a second read in order may wait for; of larger values the window doubles
_STREAMS = 16  # walks remembered at once
_AHEAD = 5  # full windows kept ahead of a steady reader
_AT_ONCE = 2  # of these, how many are asked for at one mark, unless a walk over a tree is certain
_GAP = 32  # keys a walk may skip (locally known, filtered by the tool) and still be the same walk
_SCAN = 8  # keys looked at for each that is to be asked for: what is cached is passed over
_STEADY = 20  # values after which one more changes the average by a twentieth
_LARGE = 1 << 20  # bytes; a value of this size says more of its neighbours than a small one
_NOTHING: Sequence[Key] = ()


@dataclass(slots=True, eq=False)
class _Stream:
    """One walk: the last key it is known to have touched, the end of its requests so far, and its window's size."""

    namespace: NamespaceId
    directory: str
    last: Key
    end: Key
    window: int = 1
    passed: int = 0  # keys from the first to the last
    mark: Key | None = None  # a hit from here to `end` asks for more
    root: str = ""  # no key is asked for that does not start with it
    is_sure: bool = False  # entries were read one directory below another


class Readahead:
    """Remembers a few walks and says what to fetch next.

    `is_wanted` is true for keys that are neither held nor under way, `is_single` for those that cost a request each;
    `room` is how many bytes the cache holds.
    """

    def __init__(
        self,
        listings: Listings,
        is_wanted: Callable[[KeyRef], bool],
        is_single: Callable[[KeyRef], bool],
        room: int,
    ) -> None:
        # dependencies and constants
        self._listings = listings
        self._is_wanted = is_wanted
        self._is_single = is_single
        self._room = room
        # mutable state. Invariant: most recently used last, at most _STREAMS; _marks are the marked ones.
        self._streams: list[_Stream] = []
        self._marks: list[tuple[Key, Key, _Stream]] = []
        self._average = 1024.0  # bytes a value, smoothed
        self._observed = 0  # values in it, as far as that matters

    def observe(self, size: int) -> None:
        """Note that a value of so many bytes arrived, so that requests fit one answer, and the cache."""
        self._observed = min(self._observed + 1, _STEADY)
        self._average += (size - self._average) * max(1 / self._observed, 0.5 if size >= _LARGE else 0.0)

    @property
    def _mean(self) -> float:
        return max(self._average, 1.0)

    @property
    def batch(self) -> int:
        """Return the number of keys of a full window: as many as go into one answer with room to spare."""
        return max(1, min(BULK_GET_KEYS, int(BULK_GET_BYTES / 2 / self._mean)))

    def _depth(self) -> int:
        """Return the most keys to ask for ahead of a reader; half the cache stays for values that were read."""
        return min(_AHEAD * self.batch, int(self._room / 2 / self._mean))

    def miss(
        self, namespace: NamespaceId, directory: str, key: Key, walk: Walk | None = None
    ) -> Sequence[Key]:
        """Return the keys to ask for now that `key` is missing, perhaps of a walk; `key` is the first of them."""
        stream = self._continued(namespace, key)
        if stream is None or (walk is not None and self._is_new(stream, directory, walk)):
            stream = _Stream(namespace, directory, key, key, root=directory)
            self._use(stream)
            return [key, *(self._begun(stream, walk) if walk is not None else ())]
        if walk is not None and walk.is_recursive:
            stream.root, stream.is_sure = walk.root, True
        if key == stream.last:  # the key that was read before
            return [key]
        batch, depth = self.batch, self._depth()
        pace = _FIRST if depth >= 2 * batch else batch
        windows = 1
        if key <= stream.end:  # asked for, and gone again: less at a time
            stream.window = _FIRST
            after = self._following(namespace, key + "\0", 1)
            if any(self._is_wanted((namespace, other)) for other in after):  # more went: again from here
                stream.end = key
        else:
            leap = self._leap(stream, key)
            if leap >= batch and (stream.is_sure or stream.passed >= _FIRST):
                # a walk for long, out of its directory now; or of a tree, whose sizes were told with the entries
                windows, pace = _AHEAD if stream.is_sure else 1 + _AT_ONCE, batch
            stream.window = max(_FIRST, stream.window * 2, leap)
            stream.end = key
        stream.window = max(1, min(stream.window, batch, depth))
        ahead = min(windows * stream.window, depth // batch * batch or depth)
        return [key, *self._further(stream, directory, key, max(0, ahead - 1), pace)]

    def _leap(self, stream: _Stream, key: Key) -> int:
        """Return how many keys a walk in order may have at once: a full window, up to one that is single or slow."""
        passed = self._following(stream.namespace, stream.end + "\0", _GAP)
        following = next((k for k in passed if k == key or self._is_wanted((stream.namespace, k))), None)
        if following != key:
            return 0
        soon = self._soon()
        return self._shared(stream.namespace, self._following(stream.namespace, key, soon), soon)

    def _soon(self) -> int:
        return min(self.batch, int(_SOON / self._mean), self._depth())

    def _shared(self, namespace: NamespaceId, keys: Sequence[Key], most: int) -> int:
        """Count the keys that go into one request: those before the first that is asked singly, at most `most`."""
        return next((n for n, key in enumerate(keys) if self._is_single((namespace, key))), most)

    def _is_new(self, stream: _Stream, directory: str, walk: Walk) -> bool:
        """Return whether a walk is independent of the few reads that happened to end where it begins."""
        return not walk.is_recursive and directory != stream.directory and stream.passed < _FIRST

    def _begun(self, stream: _Stream, walk: Walk) -> Sequence[Key]:
        """Return the keys to ask for after the first key of a walk: the rest of its window."""
        namespace, key = stream.namespace, stream.last
        soon = self._soon()
        if walk.is_recursive:
            stream.root, stream.is_sure = walk.root, True
            order = self._following(namespace, key, soon)
            stream.window = max(1, self._shared(namespace, order, soon))
            return self._further(stream, stream.directory, key, stream.window - 1, 1)
        files = [key, *(file for file in walk.siblings if self._is_wanted((namespace, file)))]
        stream.window = max(1, self._shared(namespace, files[:soon], min(soon, len(files))))
        found = files[1 : stream.window]
        stream.end = found[-1] if found else key
        if stream.window < len(files):  # else that is all of the directory
            self._mark(stream, key, found, _FIRST)
            self._use(stream)
        return found

    def is_marked(self, namespace: NamespaceId, key: Key) -> bool:
        """Return whether `hit` has something to do."""
        if not self._marks:
            return False
        return any(mark <= key <= end and at.namespace == namespace for mark, end, at in self._marks)

    def hit(self, namespace: NamespaceId, directory: str, key: Key) -> Sequence[Key]:
        """Return the keys to ask for now that `key` was answered from the cache; mostly none."""
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
        at_once = _AHEAD if stream.is_sure else _AT_ONCE
        return self._further(stream, directory, key, min((depth - asked) // batch, at_once) * batch)

    def _further(
        self, stream: _Stream, directory: str, key: Key, count: int, pace: int | None = None
    ) -> Sequence[Key]:
        """Return up to `count` wanted keys after those the stream asked for, and mark the next hit that asks.

        With full windows that is `pace` keys from here, or a window.
        """
        if not directory.startswith(stream.root):  # it went from one directory to another, so it will again
            stream.root, stream.is_sure = "", False
        stream.passed += self._between(stream.namespace, stream.last, key, self.batch)
        stream.directory, stream.last = directory, key
        found, end = self._wanted(stream, count)
        if end == stream.end:
            stream.mark = end if key < end else None  # the end of what is known: perhaps it goes on then
        else:
            stream.end = end
            self._mark(stream, key, found, pace)
        self._use(stream)
        return found

    def _mark(self, stream: _Stream, key: Key, found: Sequence[Key], pace: int | None) -> None:
        """Set the key whose hit asks for more than was found from `key` on."""
        if stream.window < self.batch:
            stream.mark = found[0] if found else stream.end
        else:
            walk = self._following(stream.namespace, key, (pace or stream.window) + 1)
            stream.mark = min(walk[-1], stream.end) if walk else stream.end

    def _wanted(self, stream: _Stream, count: int) -> tuple[list[Key], Key]:
        """Return the keys to ask for, and the last key looked at."""
        found: list[Key] = []
        end = stream.end
        if count <= 0:
            return found, end
        for key in self._following(stream.namespace, end + "\0", count * _SCAN):
            if not key.startswith(stream.root):
                break
            end = key
            if self._is_wanted((stream.namespace, key)):
                found.append(key)
                if len(found) == count:
                    break
        return found, end

    def _following(self, namespace: NamespaceId, key: str, count: int) -> list[Key]:
        return self._listings.index(namespace).following(key, count)

    def _between(self, namespace: NamespaceId, key: Key, end: Key, most: int) -> int:
        walk = self._following(namespace, key + "\0", most)
        return sum(1 for known in walk if known <= end)

    def _continued(self, namespace: NamespaceId, key: Key) -> _Stream | None:
        near = self._listings.index(namespace).before(key, _GAP)
        for stream in reversed(self._streams):
            if stream.namespace != namespace or key < stream.last:
                continue
            if key <= stream.end or (near is not None and near <= stream.end):
                return stream
        return None

    def _use(self, stream: _Stream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
        if len(self._streams) >= _STREAMS:  # a stream of one read goes before a walk
            self._streams.remove(next((s for s in self._streams if s.window == 1), self._streams[0]))
        self._streams.append(stream)
        self._marks = [(s.mark, s.end, s) for s in self._streams if s.mark is not None]
