"""A readdir that stays stable while the directory changes.

Entries are numbered as they are found, in listing order, and a number means the same entry for as long as
the handle is open: the kernel may come back to any of them. Pages of a long listing are handed on as they
arrive. What this mount wrote and made beside the listing comes at the end.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from kvfs.cache.spans import successor
from kvfs.core.errors import DeniedError, UnavailableError
from kvfs.core.model import Key, NamespaceId
from kvfs.core.names import SELF, DirRef
from kvfs.vfs.view.overlay import Overlay, View
from kvfs.vfs.view.types import Attr, Face

KEPT_ENTRIES: Final = 5_000  # entries of which the kernel's answer is kept: some 400 bytes an entry
KEPT_KEYS: Final = 1 << 20  # entries of all listings that are kept for the next reader: 8 bytes each
_BITE = 2048  # entries found at a time, so that no directory holds the loop for long

Target = Key | DirRef


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
    """`Known.stamp` when it began."""
    until: float = float("inf")
    """Epoch seconds; until then, and while the stamp is the same, another reading would find the same."""
    faces: list[Face | None] = field(default_factory=list)
    """Of a listing of moderate size; None: to be made anew. While the stream is current, they are but for sizes."""
    has_escapes: bool = False
    """Whether the name of a file in it may be another text than the rest of its key."""
    template: Attr | None = None
    """Attributes of a file of which nothing is kept; number, size and time-outs are whoever was told last."""
    _names: set[str] = field(default_factory=set)
    _doubtful: list[Key] = field(default_factory=list)
    """Where a page ended before it was known whether more keys lie below: file or directory, the end tells."""
    _position: str = ""

    def __post_init__(self) -> None:
        self._position = self.ref.prefix
        self.stamp = self.overlay.known.stamp

    def is_current(self, now: float) -> bool:
        """Return whether reading the directory now would find the same entries."""
        return self.complete and now < self.until and self.stamp == self.overlay.known.stamp

    def remember(self, index: int, face: Face | None) -> None:
        """Keep what the kernel was just told of an entry of a listing of moderate size."""
        faces = self.faces
        if index >= len(faces):
            faces.extend([None] * (index + 1 - len(faces)))
        faces[index] = face

    @property
    def dear(self) -> int:
        """Entries of which more is kept than a key; an empty directory's listing costs something, too."""
        return len(self._names) + (len(self.entries) if len(self.entries) <= KEPT_ENTRIES else 0) + 4

    def note_reader(self, *, is_first: bool = True) -> None:
        """Note that a program reads the entries, now or still, so that its reads of the files may be foreseen."""
        ref, naming = self.ref, self.overlay.naming
        parent = naming.parent_of(ref).prefix if ref.prefix else None
        self.overlay.loader.scans.note(self.namespace, ref.prefix, parent, self.entries, is_first=is_first)

    async def reach(self, index: int) -> bool:
        """Make entry `index` known, waiting for pages if need be; return False when there are not so many."""
        while len(self.entries) <= index and not self.complete:
            await self._more()
            self.note_reader(is_first=False)
        return len(self.entries) > index

    def entry(self, index: int) -> tuple[str, Target]:
        """Return the name of an entry that is known, and what it is."""
        found = self.entries[index]
        if isinstance(found, tuple):
            return found
        return self.overlay.naming.split_child(self.ref, found)[0], found

    async def _more(self) -> None:
        listings = self.overlay.listings
        span = listings.span_of(self.namespace, self._position)
        if span is None:
            old = listings.span_of(self.namespace, self._position, stale=True)
            if old is not None and self.overlay.haste.does_for_now():
                span = old
            else:
                try:
                    await self._advance(is_hurried=old is not None and not self.overlay.haste.is_patient())
                    return
                except (UnavailableError, DeniedError):
                    span = listings.span_of(self.namespace, self._position, stale=True)
                    if span is None:
                        raise
        own: Key | None = None
        if span.knows_all(self.ref.prefix):
            own = await self._own()
            # the wait may have cut the span in place, so that its first or last keys are in others now
            found = listings.span_of(self.namespace, self._position, stale=True)
            if found is None or self.complete:
                return
            span = found
        # no await from here on, because what was taken once must not be taken again
        self.until = min(self.until, listings.fresh_until(span))
        if self._take(span.keys):
            if span.knows_all(self.ref.prefix):
                self._finish(own)
            elif span.high is not None:
                self._position = span.high
                self.overlay.lister.consumed(self.namespace, self.ref.prefix, span.high)

    async def _own(self) -> Key | None:
        """Return the key that shows as `%self`, if it is there."""
        own = self.overlay.naming.self_key(self.ref)
        return own if own is not None and await self.overlay.view(self.namespace, own) is not None else None

    async def _advance(self, *, is_hurried: bool) -> None:
        advance = partial(self.overlay.lister.advance, self.namespace, self.ref.prefix, self._position)
        await (self.overlay.haste.patience.ask(advance) if is_hurried else advance())

    def _take(self, keys: list[str]) -> bool:
        """Add entries from the position on; return True when the keys known here are used up."""
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
                self.has_escapes = self.has_escapes or len(name) != len(key) - ref.start
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
        """Settle the last key of a page, as soon as the next page tells that nothing is below it."""
        doubtful = [(key, self._is_directory_too(key)) for key in self._doubtful]
        self._doubtful = [key for key, is_directory in doubtful if is_directory is None]
        plain = [key for key, is_directory in doubtful if is_directory is False]
        self.entries.extend(plain)
        return len(plain)

    def _is_live(self, key: Key) -> bool:
        view = self.overlay.known.peek(self.namespace, key, stale=True)
        if not isinstance(view, View):
            return False
        self._lasts_until(view.expiration)
        return True

    def _lasts_until(self, expiration: int | None) -> None:
        if expiration is not None:
            self.until = min(self.until, expiration)

    def _is_directory_too(self, key: Key) -> bool | None:
        """Return whether key `a` beside keys `a/…` shows as `a/%self`; None when it is not known if there are any."""
        separator = self.overlay.naming.separator
        if not separator:
            return False
        prefix = key + separator
        return self.overlay.known.has_directory(self.namespace, DirRef(prefix, len(prefix)), stale=True)

    def _add(self, name: str, target: Target) -> int:
        if name in self._names:
            return 0
        self._names.add(name)
        self.entries.append((name, target))
        return 1

    def _finish(self, own: Key | None) -> None:
        """Add the names that the listing cannot know: changes and directories of this mount, and `%self`."""
        overlay, naming, ref = self.overlay, self.overlay.naming, self.ref
        for key in self._doubtful:
            if naming.name_of_key(key) not in self._names:
                self.entries.append(key)
        written: list[Key] = []
        for change in overlay.known.written_below(self.namespace, ref):
            self._lasts_until(change.expiration)
            written.append(change.key)
        files: list[tuple[str, Key]] = []
        for key in (*written, *overlay.unsaved.below(self.namespace, ref.prefix)):
            name, below = naming.split_child(ref, key)
            if below is not None:
                self._add(name, below)
            elif name:
                files.append((name, key))
        for row in overlay.journal.attributes.dirs_under(self.namespace, ref.prefix):
            if row.prefix != ref.prefix:
                self._add_directory(DirRef(row.prefix, row.start))
        listed = set(self.entries) if files else ()
        for (
            name,
            key,
        ) in files:  # last, because one that shares its name with a directory is that one's `%self`
            if key not in listed:
                self._add(name, key)
        if own is not None:
            self._add(SELF, own)
        self.complete = True

    def _add_directory(self, made: DirRef) -> None:
        """Add the directory here in which a directory made on this machine lies, or that it is."""
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
    """Listings that were read to their end, for the next reader: `KEPT_KEYS` entries and `KEPT_ENTRIES` dear ones.

    An entry is dear of which more is kept than a key. Those that changes have outdated go when another is kept,
    and the keys with them. Invariant: `_entries` and `_dear` are sums over `_streams`, whose first was kept first.
    """

    def __init__(self) -> None:
        self._streams: dict[tuple[NamespaceId, DirRef], tuple[DirStream, int, int]] = {}
        self._entries = 0
        self._dear = 0

    def get(self, place: tuple[NamespaceId, DirRef]) -> DirStream | None:
        """Return the last listing of a directory, current or not."""
        found = self._streams.get(place)
        return found[0] if found is not None else None

    def keep(self, stream: DirStream) -> None:
        """Keep a listing that was read to its end."""
        stamp = stream.overlay.known.stamp
        outdated = [place for place, (kept, _, _) in self._streams.items() if kept.stamp != stamp]
        for place in (*outdated, (stream.namespace, stream.ref)):
            self._drop(place)
        if len(stream.entries) > KEPT_ENTRIES:
            stream.faces.clear()
        entries, dear = len(stream.entries), stream.dear
        if stream.stamp != stamp or entries > KEPT_KEYS or dear > KEPT_ENTRIES:
            return
        self._streams[stream.namespace, stream.ref] = (stream, entries, dear)
        self._entries += entries
        self._dear += dear
        while self._entries > KEPT_KEYS or self._dear > KEPT_ENTRIES:
            self._drop(next(iter(self._streams)))

    def _drop(self, place: tuple[NamespaceId, DirRef]) -> None:
        _, entries, dear = self._streams.pop(place, (None, 0, 0))
        self._entries -= entries
        self._dear -= dear

    def __len__(self) -> int:
        return len(self._streams)
