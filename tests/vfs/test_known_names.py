"""Meaning of names without a request: what a look at every key says, after any work."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.clock import Clock
from support.journals import open_journal

from kvfs.cache.listings import Listings
from kvfs.cache.spans import successor
from kvfs.cache.values import Values
from kvfs.core.errors import InvalidError, NameTooLongError
from kvfs.core.limits import FORBIDDEN_KEYS, KEY_BYTES
from kvfs.core.model import Key, KeyInfo, KeyPage, NamespaceId
from kvfs.core.names import CONTROL, Child, DirRef, Naming
from kvfs.journal.journal import Journal
from kvfs.kept.local import DirRow
from kvfs.vfs.file.open_file import OpenFile
from kvfs.vfs.file.rope import Rope
from kvfs.vfs.view.known import Known
from kvfs.vfs.view.types import UNKNOWN, View

HERE, THERE = NamespaceId("n" * 32), NamespaceId("m" * 32)
TTL = 60.0
LONG = "x" * 253

PARTS = st.sampled_from(["a", "a", "b", "ab", "", "%", "é", LONG, LONG + "y", "a!", "a0", "\U0010ffff"])
NAMES = st.sampled_from(
    ["a", "b", "ab", "%", "%self", "é", LONG, LONG + "%+", LONG + "y", "y", "a!", "a0", "c", "\U0010ffff"]
)
NAMESPACES = st.sampled_from([HERE, HERE, HERE, THERE])
AHEAD = st.sampled_from([None, None, -1, 30, 100])


def _keys(separator: str) -> st.SearchStrategy[Key]:
    """Return keys, few enough to meet again."""
    texts = st.lists(PARTS, min_size=1, max_size=3).map((separator or "/").join)
    return texts.filter(lambda key: 0 < len(key.encode()) <= KEY_BYTES and key not in FORBIDDEN_KEYS).map(Key)


class World:
    """Two namespaces, the knowledge of them, and the work that led to it."""

    def __init__(self, journal: Journal, naming: Naming, clock: Clock) -> None:
        self.journal, self.naming, self.clock = journal, naming, clock
        self.listings = Listings(TTL, clock)
        self.known = Known(journal, self.listings, Values(1 << 20, TTL, clock), naming, clock, TTL)

    def expiration(self, ahead: int | None) -> int | None:
        """Return an expiration so many seconds from now."""
        return None if ahead is None else int(self.clock()) + ahead

    def put(self, namespace: NamespaceId, key: Key, ahead: int | None) -> None:
        """Close a file."""
        self.journal.record_put(
            namespace,
            key,
            self.journal.stage(b"x"),
            metadata=None,
            expiration=self.expiration(ahead),
            base=b"",
        )

    def delete(self, namespace: NamespaceId, key: Key) -> None:
        """Delete a key, which the store is to learn."""
        self.journal.record_delete(namespace, key, base=None)

    def create(self, namespace: NamespaceId, key: Key, *, is_made: bool) -> None:
        """Begin to make a file, or stop."""
        if is_made:
            self.known.unsaved.created(namespace, key, OpenFile(Rope.of(), created=True))
        else:
            self.known.unsaved.recorded(namespace, key)

    def listed(
        self, namespace: NamespaceId, prefix: str, keys: list[Key], ahead: int | None, *, is_last: bool
    ) -> None:
        """Learn a page; the part after it is unknown unless it is the last."""
        found = sorted({key for key in keys if key.startswith(prefix)})
        infos = tuple(KeyInfo(key, None, self.expiration(ahead)) for key in found)
        self.listings.learn(namespace, prefix, KeyPage(infos, None if is_last else "more"))

    def settle(self, namespace: NamespaceId, present: list[Key], absent: list[Key]) -> None:
        """Let the store show what was sent."""
        self.listings.apply(namespace, [KeyInfo(key) for key in sorted(set(present))], set(absent))

    def directory(self, path: list[str]) -> DirRef:
        """Return the directory to which names lead, as far as they do."""
        ref = DirRef.ROOT
        for name in path:
            below = self.child(ref, name)
            if below is None or below.directory is None:
                break
            ref = below.directory
        return ref

    def mkdir(self, namespace: NamespaceId, path: list[str], *, is_made: bool) -> None:
        """Make a directory here, or remove it."""
        ref = self.directory(path)
        if is_made:
            self.journal.attributes.add_dir(namespace, DirRow(ref.prefix, ref.start))
        else:
            self.journal.attributes.remove_dir(namespace, ref.prefix, ref.start)

    def child(self, ref: DirRef, name: str) -> Child | None:
        """Return what a name stands for, if for anything."""
        try:
            return self.naming.child(ref, name.encode())
        except (InvalidError, NameTooLongError):
            return None

    def check(self, namespace: NamespaceId, path: list[str], name: str) -> None:
        """Check that a name is said to be what a look at every key says, or not to be known."""
        ref = self.directory(path)
        child = self.child(ref, name)
        if child is None:
            return
        found = self.known.peek_child(namespace, child)
        if child.directory is not None and self._has(namespace, child.directory):
            truth = child.directory
        else:
            truth = child.key if child.key is not None and self._is_live(namespace, child.key) else None
        assert found in (truth, UNKNOWN)
        if truth is None and child.key is not None and self._is_untouched(namespace, child):
            assert found is None, "one fresh span says so"

    def _is_live(self, namespace: NamespaceId, key: Key) -> bool:
        return isinstance(self.known.peek(namespace, key), View)

    def _has(self, namespace: NamespaceId, ref: DirRef) -> bool:
        """Return whether a directory is there, by a look at every key and every directory that was made."""
        keys = [key for span in self.listings.index(namespace) for key in span.keys]
        keys += [change.key for change in self.journal.under(namespace, "")]
        keys += self.known.unsaved.below(namespace, "")
        if any(self._is_inside(ref, key) and self._is_live(namespace, key) for key in keys):
            return True
        return any(
            self._lies_in(DirRef(row.prefix, row.start), ref)
            for row in self.journal.attributes.dirs_under(namespace, "")
        )

    def _is_inside(self, ref: DirRef, key: Key) -> bool:
        return key.startswith(ref.prefix) and bool(self.naming.split_child(ref, key)[0])

    def _lies_in(self, made: DirRef, ref: DirRef) -> bool:
        """Return whether a directory is another one, or lies in it."""
        while made != ref and made.prefix:
            made = self.naming.parent_of(made)
        return made == ref

    def _is_untouched(self, namespace: NamespaceId, child: Child) -> bool:
        """Return True if one fresh span covers a name, and nothing else does."""
        assert child.key is not None
        end = child.key + "\0" if child.directory is None else successor(child.directory.prefix)
        span = self.listings.span_of(namespace, child.key)
        prefixes = [child.key] if child.directory is None else [child.key, child.directory.prefix]
        return (
            span is not None
            and span.reaches(end)
            and not any(key.startswith(tuple(prefixes)) for key in span.keys)
            and not any(list(self.journal.under(namespace, prefix)) for prefix in prefixes)
            and not any(list(self.journal.attributes.dirs_under(namespace, prefix)) for prefix in prefixes)
        )


def _steps(separator: str) -> st.SearchStrategy[list[tuple[str, dict[str, object]]]]:
    keys = _keys(separator)
    some = st.lists(keys, max_size=6)
    paths = st.lists(NAMES, min_size=1, max_size=3)
    prefixes = st.sampled_from(["", "", "a", "ab", LONG]) | keys.map(lambda key: key + separator)
    made = {
        "put": {"namespace": NAMESPACES, "key": keys, "ahead": AHEAD},
        "delete": {"namespace": NAMESPACES, "key": keys},
        "create": {"namespace": NAMESPACES, "key": keys, "is_made": st.sampled_from([True, False, False])},
        "listed": {
            "namespace": NAMESPACES, "prefix": prefixes, "keys": some, "ahead": AHEAD, "is_last": st.booleans(),
        },
        "settle": {"namespace": NAMESPACES, "present": some, "absent": some},
        "mkdir": {"namespace": NAMESPACES, "path": paths, "is_made": st.booleans()},
        "forget": {"namespace": NAMESPACES, "prefix": prefixes},
        "advance": {"seconds": st.sampled_from([0.5, 20, 50, -5])},
    }  # fmt: skip
    step = st.one_of(
        *(st.tuples(st.just(what), st.fixed_dictionaries(words)) for what, words in made.items())
    )
    return st.lists(step, max_size=8)


ASKED = st.lists(st.tuples(NAMESPACES, st.lists(NAMES, max_size=2), NAMES), min_size=1, max_size=8)


@pytest.mark.parametrize("separator", ["/", "", ":"])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_name_is_what_a_look_at_every_key_says(separator: str, data: st.DataObject) -> None:
    """It is so over changes, files being made, directories, pieces of listings, expirations and time."""
    clock = Clock()
    with TemporaryDirectory() as base, open_journal(Path(base) / "journal.db", now=clock) as journal:
        world = World(journal, Naming(separator, frozenset({CONTROL})), clock)
        if data.draw(st.sampled_from([True, True, False])):
            world.listed(HERE, "", data.draw(st.lists(_keys(separator), max_size=6)), None, is_last=True)
        for what, words in data.draw(_steps(separator)):
            target = {"forget": world.listings.forget, "advance": clock.advance}.get(what)
            (target or getattr(world, what))(**words)
            for namespace, path, name in data.draw(ASKED):
                world.check(namespace, path, name)
