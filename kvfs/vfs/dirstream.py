"""A readdir that stays stable while the directory changes.

Entries are numbered as they are found, in listing order, and a number means the same entry for as long as
the handle is open: the kernel may come back to any of them. Pages of a long listing are handed on as they
arrive. What this mount wrote and made beside the listing comes at the end.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any, Final

from kvfs.cache.spans import successor
from kvfs.core.errors import DeniedError, UnavailableError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import SELF, DirRef
from kvfs.vfs.view.overlay import Overlay, View

KEPT_ENTRIES: Final = 5_000  # of a listing that is kept for the next reader: some 400 bytes an entry
_BITE = 2048  # entries found at a time, so that no directory holds the loop for long

Target = Key | DirRef


@dataclass(slots=True, eq=False)
class Face:
    """What the kernel was told of a file. `attributes` are in its own form, with their time-outs.

    `until`: epoch seconds at which they stop to hold, None: never, as long as the stream is current. `sizes`:
    `Values.changes` when the size was looked up, `size` what `Values.known` answered then.
    """

    name: bytes
    attributes: Any
    ino: int
    until: float | None
    sizes: int
    size: object = None


@dataclass(slots=True, eq=False)
class DirStream:
    """The entries of one open directory, as far as anybody has asked."""

    overlay: Overlay
    namespace: NamespaceId
    ref: DirRef
    entries: list[Key | tuple[str, Target]] = field(default_factory=list)
    """See `entry`; a listed file is its key alone, which the listing holds anyway."""
    complete: bool = False
    stamp: int = 0
    """`Overlay.stamp` when it began."""
    until: float = float("inf")
    """Epoch seconds; until then, and while the stamp is the same, another reading would find the same."""
    faces: list[Face | None] = field(default_factory=list)
    """Of the first entries; None: to be made anew. While the stream is current, they are so but for sizes."""
    _names: set[str] = field(default_factory=set)
    _doubtful: list[Key] = field(default_factory=list)
    """Where a page ended before it was known whether more keys lie below: file or directory, the end tells."""
    _position: str = ""

    def __post_init__(self) -> None:
        self._position = self.ref.prefix
        self.stamp = self.overlay.stamp

    def is_current(self, now: float) -> bool:
        """Whether reading the directory now would find the same entries."""
        return self.complete and now < self.until and self.stamp == self.overlay.stamp

    def remember(self, index: int, face: Face | None) -> None:
        """What the kernel was just told of an entry; of a long listing only the beginning is kept."""
        if index >= KEPT_ENTRIES:
            return
        faces = self.faces
        if index >= len(faces):
            faces.extend([None] * (index + 1 - len(faces)))
        faces[index] = face

    def note_reader(self, *, is_first: bool = True) -> None:
        """Somebody reads the entries, from now on or still: what he reads of the files next may be foreseen."""
        ref, naming = self.ref, self.overlay.naming
        parent = naming.parent_of(ref).prefix if ref.prefix else None
        self.overlay.loader.scans.note(self.namespace, ref.prefix, parent, self.entries, is_first=is_first)

    async def reach(self, index: int) -> bool:
        """Make entry `index` known, waiting for pages if need be; false when there are not so many."""
        while len(self.entries) <= index and not self.complete:
            await self._more()
            self.note_reader(is_first=False)
        return len(self.entries) > index

    def entry(self, index: int) -> tuple[str, Target]:
        """Name of an entry that is known, and what it is."""
        found = self.entries[index]
        if isinstance(found, tuple):
            return found
        return self.overlay.naming.split_child(self.ref, found)[0], found

    async def _more(self) -> None:
        listings = self.overlay.listings
        span = listings.span_of(self.namespace, self._position)
        if span is None:
            if self.overlay.lister.is_down():
                span = listings.span_of(self.namespace, self._position, stale=True)
            if span is None:
                try:
                    await self.overlay.lister.advance(self.namespace, self.ref.prefix, self._position)
                    return
                except (UnavailableError, DeniedError):
                    span = listings.span_of(self.namespace, self._position, stale=True)
                    if span is None:
                        raise
        self.until = min(self.until, listings.fresh_until(span))
        if self._take(span.keys):
            if span.reaches(successor(self.ref.prefix)):
                await self._finish()
            elif span.high is not None:
                self._position = span.high
                self.overlay.lister.consumed(self.namespace, self.ref.prefix, span.high)

    def _take(self, keys: list[str]) -> bool:
        """Add entries from the position on; true when the keys known here are used up."""
        naming, ref = self.overlay.naming, self.ref
        end = successor(ref.prefix)
        found = self._settle_doubts()
        index = bisect_left(keys, self._position)
        while index < len(keys):
            key = Key(keys[index])
            if end is not None and key >= end:
                return True
            if found >= _BITE:
                self._position = key
                return False
            index += 1
            name, below = naming.split_child(ref, key)
            if not name or not self._is_live(key):
                continue
            if below is None:
                is_directory = self._is_directory_too(key)
                if is_directory is None:
                    self._doubtful.append(key)
                elif not is_directory:
                    self.entries.append(key)
                    found += 1
                continue
            found += self._add(name, below)
            if not below.is_chunk:  # the rest of a plain directory's keys say nothing new here
                after = successor(below.prefix)
                index = len(keys) if after is None else bisect_left(keys, after, index)
        return True

    def _settle_doubts(self) -> int:
        """The last key of a page, in its order as soon as the next page tells that nothing is below it."""
        doubtful = [(key, self._is_directory_too(key)) for key in self._doubtful]
        self._doubtful = [key for key, is_directory in doubtful if is_directory is None]
        plain = [key for key, is_directory in doubtful if is_directory is False]
        self.entries.extend(plain)
        return len(plain)

    def _is_live(self, key: Key) -> bool:
        view = self.overlay.peek(self.namespace, key, stale=True)
        if not isinstance(view, View):
            return False
        self._lasts_until(view.expiration)
        return True

    def _lasts_until(self, expiration: int | None) -> None:
        if expiration is not None:
            self.until = min(self.until, expiration)

    def _is_directory_too(self, key: Key) -> bool | None:
        """Key `a` beside keys `a/…` shows as `a/%self`; None when it is not known whether there are any."""
        separator = self.overlay.naming.separator
        if not separator:
            return False
        prefix = key + separator
        return self.overlay.has_directory(self.namespace, DirRef(prefix, len(prefix)), stale=True)

    def _add(self, name: str, target: Target) -> int:
        if name in self._names:
            return 0
        self._names.add(name)
        self.entries.append((name, target))
        return 1

    async def _finish(self) -> None:
        """What the listing cannot know: changes and directories of this mount, and `%self`."""
        overlay, naming, ref = self.overlay, self.overlay.naming, self.ref
        for key in self._doubtful:
            if naming.name_of_key(key) not in self._names:
                self.entries.append(key)
        listed: set[object] | None = None
        for change in overlay.written_below(self.namespace, ref):
            listed = set(self.entries) if listed is None else listed
            name, below = naming.split_child(ref, change.key)
            self._lasts_until(change.expiration)
            if name and (below is not None or not self._is_hidden(change.key, listed)):
                self._add(name, below if below is not None else change.key)
        for key in overlay.creating_below(self.namespace, ref.prefix):
            listed = set(self.entries) if listed is None else listed
            name, below = naming.split_child(ref, key)
            if name and (below is not None or key not in listed):
                self._add(name, below if below is not None else key)
        for row in overlay.journal.attributes.dirs_under(self.namespace, ref.prefix):
            if row.prefix != ref.prefix:
                self._add_directory(DirRef(row.prefix, row.start))
        own = naming.self_key(ref)
        if own is not None and await overlay.view(self.namespace, own) is not None:
            self._add(SELF, own)
        self.complete = True

    def _is_hidden(self, key: Key, listed: set[object]) -> bool:
        """Whether a file written here shows already, or as a directory's `%self`."""
        return key in listed or bool(self._is_directory_too(key))

    def _add_directory(self, made: DirRef) -> None:
        """The directory here in which a directory made on this machine lies, or that it is."""
        naming = self.overlay.naming
        while True:
            parent = naming.parent_of(made)
            if parent == self.ref:
                self._add(naming.name_in_parent(made), made)
                return
            if len(parent.prefix) < len(self.ref.prefix) or not parent.prefix:
                return
            made = parent


class KeptStreams:
    """Listings that were read to their end, for the next reader: of moderate size, KEPT_ENTRIES in all.

    Invariant: `_kept` is the sum of the costs of `_streams`, whose first was kept first.
    """

    def __init__(self) -> None:
        self._streams: dict[tuple[NamespaceId, DirRef], DirStream] = {}
        self._kept = 0

    def get(self, place: tuple[NamespaceId, DirRef]) -> DirStream | None:
        """The last one of a directory; whether it is current is another question."""
        return self._streams.get(place)

    def keep(self, stream: DirStream) -> None:
        """A listing was read to its end."""
        place = (stream.namespace, stream.ref)
        self._drop(place)
        if self._cost(stream) > KEPT_ENTRIES:
            return
        self._streams[place] = stream
        self._kept += self._cost(stream)
        while self._kept > KEPT_ENTRIES:
            self._drop(next(iter(self._streams)))

    def _drop(self, place: tuple[NamespaceId, DirRef]) -> None:
        dropped = self._streams.pop(place, None)
        if dropped is not None:
            self._kept -= self._cost(dropped)

    @staticmethod
    def _cost(stream: DirStream) -> int:
        """In entries; an empty directory's listing costs something, too."""
        return len(stream.entries) + 4

    def __len__(self) -> int:
        return len(self._streams)
