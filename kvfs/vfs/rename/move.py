"""One file's part in a rename: its record in the journal, and the changes of nodes and caches after it."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from kvfs.cache.flights import Flight
from kvfs.cache.values import Clean
from kvfs.core.digest import INLINE_BYTES
from kvfs.core.errors import NotFoundError, UnavailableError
from kvfs.core.expiry import is_expired
from kvfs.core.model import Change, Key, NamespaceId
from kvfs.core.names import DirRef
from kvfs.journal.writer import Move
from kvfs.log.spool import Body
from kvfs.vfs.answers import answered
from kvfs.vfs.file.files import Files
from kvfs.vfs.inode.nodes import File
from kvfs.vfs.inode.table import InodeTable
from kvfs.vfs.view.overlay import Overlay, View
from kvfs.vfs.view.types import SeenView


class Stamp(Struct, frozen=True):
    """The version for which a move was prepared: the number of the key's change, and the settled moment."""

    seq: int | None
    moment: int


class Moves:
    """Prepares moves. A move holds until the next checkpoint, and as long as its `Stamp` does."""

    def __init__(
        self,
        overlay: Overlay,
        inodes: InodeTable,
        files: Files,
        now: Callable[[], float],
    ) -> None:
        self._overlay = overlay
        self._journal = overlay.journal
        self._settled = overlay.listings.settled
        self._inodes = inodes
        self._files = files
        self._inheritance = files.inheritance
        self._now = now

    def shown(self, namespace: NamespaceId, key: Key) -> SeenView:
        """Return what is known of a file, to be told to `leave` once it is renamed away."""
        return self._overlay.known.peek(namespace, key, stale=True)

    def leave(self, namespace: NamespaceId, key: Key, view: SeenView) -> None:
        """Remember the attributes of a file that was renamed away, because it may be about to be written anew."""
        if isinstance(view, View):
            self._inheritance.leave(namespace, key, view.metadata, view.expiration)

    async def prepare(
        self,
        namespace: NamespaceId,
        key: Key,
        goal: Key,
        *,
        replaced: Key | DirRef | None,
        inherits: bool = False,
    ) -> Move:
        """Prepare the move of one file; fetch its value if only the store has it."""
        node = self._unsaved(namespace, key)
        if node is not None:
            await answered(self._files.recorder.save(node))
        found, body = await self._source(namespace, key)
        return self._move(namespace, key, goal, found, body, replaced=replaced, inherits=inherits)

    def prepare_now(self, namespace: NamespaceId, key: Key, goal: Key) -> Move | None:
        """Like `prepare` for a free name, if nothing has to be waited for; else None."""
        if self._unsaved(namespace, key) is not None:
            return None
        source = self._source_at_hand(namespace, key)
        return self._move(namespace, key, goal, *source, replaced=None) if source is not None else None

    def ask(self, namespace: NamespaceId, key: Key, then: Callable[[Flight], None]) -> bool:
        """Have the value fetched that a move waits for; return False where more than that is needed."""
        return self._unsaved(namespace, key) is None and self._overlay.reads.ask(namespace, key, then)

    def landed(self, namespace: NamespaceId, key: Key, flight: Flight) -> Clean | None:
        """Return the fetched value, a stale one if the store is away; None: no value. Raises store errors."""
        if flight.error is None:
            return flight.clean
        held = None
        if isinstance(flight.error, UnavailableError):
            held = self._overlay.values.get((namespace, key), stale=True)
        if held is None:
            raise flight.error
        return held

    def prepare_landed(
        self,
        namespace: NamespaceId,
        key: Key,
        goal: Key,
        clean: Clean | None,
        body: Body | None,
        stamp: Stamp,
    ) -> Move | None:
        """Build the move from a value fetched after `stamp`; None if the key changed since. The new name is free.

        None where that does not do: `prepare` sees to it. Raises `NotFoundError`.
        """
        if not self.holds(namespace, key, stamp) or self._unsaved(namespace, key) is not None:
            return None
        if clean is None or is_expired(clean.expiration, self._now()):
            raise NotFoundError(f"{key!r} is gone")
        return self._move(namespace, key, goal, clean, body, replaced=None)

    def _move(
        self,
        namespace: NamespaceId,
        key: Key,
        goal: Key,
        found: Change | Clean,
        body: Body | None,
        *,
        replaced: Key | DirRef | None,
        inherits: bool = False,
    ) -> Move:
        """Build the move from a value in hand. The caller must not await before it records the move."""
        change = self._journal.get(namespace, key)
        base = body.digest if body is not None else None
        metadata, expiration = found.metadata, found.expiration
        if isinstance(replaced, str):  # saved by replacing: what the new file was not given, it inherits
            kept = self._overlay.known.peek(namespace, replaced, stale=True)
            if isinstance(kept, View):
                metadata = kept.metadata if metadata is None else metadata
                expiration = kept.expiration if expiration is None else expiration
        elif (
            inherits and change is not None and (left := self._inheritance.find(namespace, goal)) is not None
        ):
            metadata = left.metadata if metadata is None else metadata  # sed -i.bak: away, then the new one
            expiration = left.expiration if expiration is None else expiration
        is_new = replaced is None or self._overlay.unsaved.has(namespace, goal)
        base_new = self._overlay.last_seen.digest((namespace, goal)) or (b"" if is_new else None)
        return Move(
            key,
            goal,
            metadata,
            expiration,
            body,
            base,
            base_new,
            local=self._files.recorder.is_local(namespace, goal, is_new=is_new),
        )

    async def _source(self, namespace: NamespaceId, key: Key) -> tuple[Change | Clean, Body | None]:
        """Return the content that moves: the journal's own change, or the store's value. Raises `NotFoundError`.

        Others may write, close and delete the file while its value is on its way, and all that may have reached the
        store when it arrives: then it is not what moves.
        """
        with self._settled.asking():
            while True:
                if (source := self._source_at_hand(namespace, key)) is not None:
                    return source
                stamp = self.stamp(namespace, key)
                clean = await self._overlay.reads.content(namespace, key)
                body = await self._files.recorder.body_of(clean.value)
                if self.holds(namespace, key, stamp):
                    return clean, body

    def _source_at_hand(self, namespace: NamespaceId, key: Key) -> tuple[Change | Clean, Body | None] | None:
        """Return what `_source` does, if nothing has to be waited for; else None."""
        change = self._journal.get(namespace, key)
        if change is not None and not change.is_tombstone:
            return change, None
        clean = self._overlay.reads.at_hand(namespace, key, ahead=False)  # of a directory all are wanted
        if clean is None or len(clean.value) > INLINE_BYTES:
            return None
        return clean, self._journal.stage(clean.value)

    def stamp(self, namespace: NamespaceId, key: Key) -> Stamp:
        """Return the key's current version. Valid only inside `Settled.asking()`."""
        return Stamp(self._seq_of(namespace, key), self._settled.moment)

    def _seq_of(self, namespace: NamespaceId, key: Key) -> int | None:
        change = self._journal.get(namespace, key)
        return change.seq if change is not None else None

    @property
    def state(self) -> tuple[int, int]:
        """Return a state; while it is equal, every stamp holds."""
        return self._journal.changes, self._settled.moment

    def holds(self, namespace: NamespaceId, key: Key, stamp: Stamp) -> bool:
        """Return whether the key was not changed here since, not even with the change at the store by now."""
        if self._seq_of(namespace, key) != stamp.seq:
            return False
        return not self._settled.is_newer((namespace, key), stamp.moment)

    def _unsaved(self, namespace: NamespaceId, key: Key) -> File | None:
        """Return the node of a file that the journal was not told all of yet."""
        node = self._inodes.peek_file(namespace, key)
        return node if node is not None and _is_unsaved(node) else None

    def moved(self, namespace: NamespaceId, move: Move) -> None:
        """Let nodes and caches follow a recorded move."""
        goal = move.new
        self._inheritance.take(namespace, goal)  # its heir has come
        self._overlay.values.rename((namespace, move.old), (namespace, goal))
        self._overlay.unsaved.recorded(namespace, goal)
        node = self._inodes.peek_file(namespace, move.old)
        if node is not None:
            if node.open is not None and not _is_unsaved(node):  # else it knows better
                node.open.metadata, node.open.expiration = move.metadata, move.expiration
            self._inodes.names.move_file(node, goal)
            return
        target = self._inodes.peek_file(namespace, goal)
        if target is not None:
            self._inodes.names.detach(target)

    def directory_moved(
        self, namespace: NamespaceId, source: DirRef, goal: DirRef, moves: Sequence[Move]
    ) -> None:
        """Let nodes and caches follow, because all of a directory's moves are in the journal."""
        for move in moves:
            self.moved(namespace, move)
        _, directories = self._inodes.names.below(namespace, source.prefix)
        for node in directories:
            shift = len(goal.prefix) - len(source.prefix)
            prefix = goal.prefix + node.ref.prefix[len(source.prefix) :]
            self._inodes.names.move_directory(node, DirRef(prefix, node.ref.start + shift))


def _is_unsaved(node: File) -> bool:
    """Return whether the file has content, or a name, that the journal was not told yet."""
    return node.open is not None and (node.open.dirty or node.open.created)
