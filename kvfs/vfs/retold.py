"""Entries of a listing that can be told without looking anything up: nothing changed since it was read to its end.

A listing that is current holds live keys only, so what is left to say of a file is a handful of dict lookups: its
number, its size, and what this machine keeps of it. The first entries of a listing keep the very answer they got.
"""

from collections.abc import Callable

from kvfs.core.freshness import fresh_until, seconds_left
from kvfs.core.model import Key, NamespaceId
from kvfs.vfs.attributes import Attributes
from kvfs.vfs.dirstream import KEPT_ENTRIES, DirStream
from kvfs.vfs.inode.nodes import File, Node
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.view.overlay import Overlay, View
from kvfs.vfs.view.types import Attr, Face, SeenView, Tell, told_size

_MOMENT = 0.01  # seconds between two looks at the clock
_NOTHING = (None, None)  # metadata and expiration of most keys


class Retold:
    """Decides what may be told again, and remembers what was told. Reads caches; never waits, never asks."""

    def __init__(
        self, overlay: Overlay, inodes: InodeTable, attributes: Attributes, now: Callable[[], float]
    ) -> None:
        self._overlay = overlay
        self._inodes = inodes
        self._attributes = attributes
        self._now = now
        self._values, self._sizes = overlay.values, overlay.values.sizes
        self._ttl = overlay.ttl
        self.unsized: dict[int, Face] = {}  # by inode number: told without a size, so the kernel asks for it

    def tell(self, stream: DirStream, index: int, now: float, tell: Tell) -> tuple[int, bool]:
        """Tell entries of a current stream from `index` on; return the index after, and if there was no room for more.

        Each counts as a lookup of its number. It ends before the first one that takes more than this.
        """
        entries, faces, show_again = stream.entries, stream.faces, self._inodes.listed.show_again
        faced, attr_of = len(faces), None
        for at in range(index, len(entries)):
            face = faces[at] if at < faced else None
            if face is not None:
                name, attr, is_changed = face.name, face.attr, face.until is not None
                if is_changed and not self._still_holds(stream, at, face, now):
                    return at, False
                if not show_again(attr.ino):
                    return at, False
            else:
                key = entries[at]
                if isinstance(key, tuple):
                    return at, False
                attr_of = attr_of or self._attributes_of(stream, now)
                found = attr_of(key)
                if found is None:
                    return at, False
                name, attr, is_changed = self._name(stream, key), found, True
            if not tell(name, attr, at + 3, is_changed):
                self._inodes.forget(attr.ino, 1)
                return at, True
        return len(entries), False

    def _name(self, stream: DirStream, key: Key) -> bytes:
        ref = stream.ref
        name = self._overlay.naming.split_child(ref, key)[0] if stream.has_escapes else key[ref.start :]
        return name.encode()

    def _attributes_of(self, stream: DirStream, now: float) -> Callable[[Key], Attr | None]:
        """Return a function from a key to its attributes; None for an open file or one that must be looked at.

        Most files have nothing of their own but a number and a size: they share one `Attr`. What is the same
        for all of them is looked up once, because this is the whole cost of a large listing.
        """
        overlay, namespace, ttl = self._overlay, stream.namespace, self._ttl
        journal, attributes = overlay.journal, overlay.listings.index(stream.namespace).attributes
        is_changed = journal.any_under(namespace, stream.ref.prefix)
        known, peek, local_of = self._sizes.known, self._values.peek, journal.attributes.file_attrs
        listed_key, template = self._inodes.listed.show_key, stream.template
        most, before, any_sizes = seconds_left(stream.until, ttl, now), 0, len(self._sizes) > 0

        def attr_of(key: Key) -> Attr | None:
            nonlocal template, before
            listed = attributes.get(key, _NOTHING) if attributes else _NOTHING
            if listed[1] is not None or (is_changed and journal.get(namespace, key) is not None):
                return self._singly(stream, key, now)
            sized, left = known((namespace, key)) if any_sizes else None, most
            if sized is not None:
                held, left = (
                    peek((namespace, key)),
                    min(most, seconds_left(fresh_until(sized[1], ttl), ttl, now)),
                )
                if left <= 0 or (held is not None and (held.metadata, held.expiration) != listed):
                    return self._singly(stream, key, now)
            if template is None or local_of(namespace, key) is not None:
                attr = self._singly(stream, key, now)
                if attr is not None and local_of(namespace, key) is None:
                    template = stream.template = attr
                return attr
            ino = listed_key(namespace, key, before)
            if ino is None:
                return None
            template.ino = before = ino
            template.entry_timeout = left
            if sized is None:
                template.size, template.attr_timeout = 0, 0.0
            else:
                template.size, template.attr_timeout = sized[0], left
            return template

        return attr_of

    def _singly(self, stream: DirStream, key: Key, now: float) -> Attr | None:
        """Return attributes of a file that has some of its own; None as above."""
        namespace = stream.namespace
        seen = self._overlay.known.peek(namespace, key, stale=True)
        if not isinstance(seen, View) or told_size(seen, now, self._ttl)[2] <= 0:
            return None
        ino = self._inodes.listed.show_key(namespace, key)
        return None if ino is None else self._attributes.peek(File(ino, 0, namespace, key), seen)

    def _still_holds(self, stream: DirStream, index: int, face: Face, now: float) -> bool:
        """Return whether what was told of a file can be told again: its size and time-outs are as of now, then."""
        attr, key = face.attr, stream.entries[index]
        if isinstance(key, tuple):  # `%self`, or one that came here beside the listing
            return False
        place = (stream.namespace, key)
        if face.until is not None and self._is_size_the_same(face, place):
            attr.entry_timeout = left = seconds_left(face.until, self._ttl, now)
            if attr.attr_timeout:  # none: the size is not known
                attr.attr_timeout = left
            return left > 0
        seen = self._overlay.known.peek(*place, stale=True)
        if not isinstance(seen, View) or self._inodes.listed.is_open(attr.ino):
            return False
        attr.size, attr.attr_timeout, left = told_size(seen, now, self._ttl)
        attr.entry_timeout = left
        face.until, face.sizes, face.size = now + left, self._generation(), self._sizes.known(place)
        return left > 0

    def _is_size_the_same(self, face: Face, place: tuple[NamespaceId, Key]) -> bool:
        """Return whether the size is unchanged: by one counter if no size changed at all, else by asking."""
        generation = self._generation()
        if face.sizes != generation:
            if face.size is None or face.size is not self._sizes.known(place):
                return False
            face.sizes = generation
        return True

    def _generation(self) -> int:
        return self._sizes.generation.number

    def remember(
        self, stream: DirStream, index: int, name: bytes, node: Node, attr: Attr, seen: SeenView
    ) -> None:
        """Remember an entry told the long way; not of directories, whose times move, nor of files that are open."""
        if len(stream.entries) > KEPT_ENTRIES:
            return
        left = min(attr.attr_timeout or attr.entry_timeout, attr.entry_timeout)
        if not isinstance(node, File) or node.open is not None or left <= 0:
            stream.remember(index, None)
            return
        change = seen.change if isinstance(seen, View) else None
        is_ours = change is not None and change.expiration is None and left > self._ttl - _MOMENT
        until = None if is_ours else self._now() + left  # ours, and for ever: as good later as it is now
        size = self._sizes.known((node.namespace, node.key))
        face = Face(name, attr, until, self._generation(), size)
        stream.remember(index, face)
        if not attr.attr_timeout:
            if len(self.unsized) >= KEPT_ENTRIES:
                self.unsized.clear()
            self.unsized[attr.ino] = face

    def sized(self, node: Node, attr: Attr) -> None:
        """Note that the kernel was told a size that a listing could not tell: the next listing can."""
        face = self.unsized.pop(node.ino, None)
        if face is None or face.until is None or not isinstance(node, File) or node.open is not None:
            return
        left = min(attr.attr_timeout, attr.entry_timeout)
        face.size = self._sizes.known((node.namespace, node.key))
        if left > 0 and face.size is not None and not node.detached:
            face.attr, face.until, face.sizes = attr, self._now() + left, self._generation()
