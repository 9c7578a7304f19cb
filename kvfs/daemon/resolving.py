"""`kvfs conflicts`: lists the open conflicts of a mount, and settles them through its journal."""

from collections.abc import Mapping
from typing import Final

import trio

from kvfs.core.errors import KvfsError, NotFoundError, NotPermittedError, TimedOutError
from kvfs.core.model import Key, NamespaceId
from kvfs.daemon.conflict_report import ConflictLog
from kvfs.daemon.status import Reporter
from kvfs.host.control import Send
from kvfs.host.open_conflicts import Conflict
from kvfs.host.replies import ConflictItem, FailedItem, ItemList, KeepReport
from kvfs.host.requests import ConflictsRequest, KeepRequest
from kvfs.sender.chunks import turn
from kvfs.vfs.filesystem import FileSystem

LOOK_SECONDS: Final = 3.0  # for the sizes: what cannot be told by then is not
YOUNG_SECONDS: Final = 10.0  # a copy that is not there yet is about to be written
SHOWN: Final = 1000


class Resolving:
    """Conflict handlers for the control socket."""

    def __init__(self, fs: FileSystem, reporter: Reporter) -> None:
        self._fs = fs
        self._reporter = reporter
        self._log: ConflictLog = reporter.conflicts
        fs.xattrs.conflict_of = self.others_of

    def others_of(self, namespace: NamespaceId, key: Key) -> str:
        """Return the paths of the other sides of a key, a line each."""
        found = self._log.others_of(namespace, key)
        return "\n".join(self._reporter.path_at(namespace, other) for other in found)

    async def list(self, request: ConflictsRequest, send: Send) -> ItemList[ConflictItem]:
        """Return the open conflicts, with both sizes where they are known."""
        looked: dict[tuple[str, Key], int | None] = {}
        with trio.move_on_after(LOOK_SECONDS):
            for conflict in self._log.open()[:SHOWN]:
                for key in (conflict.copy, conflict.key):
                    looked[conflict.namespace, key] = await self._size(conflict, key)
        return ItemList([self._item(conflict, looked) for conflict in self._log.open()])

    async def _size(self, conflict: Conflict, key: Key) -> int | None:
        """Return the size of one side; a copy that is found to be gone settles its conflict."""
        try:
            return await self._fs.overlay.reads.size(conflict.namespace, key)
        except NotFoundError:
            if key == conflict.copy and self._fs.now() - conflict.at > YOUNG_SECONDS:
                self._log.settle(conflict.namespace, conflict.copy)
        except KvfsError:
            pass
        return None

    def _item(self, conflict: Conflict, sizes: Mapping[tuple[str, Key], int | None]) -> ConflictItem:
        namespace, key, copy = conflict.namespace, conflict.key, conflict.copy
        return ConflictItem(
            self._reporter.path_at(namespace, key),
            self._reporter.path_at(namespace, copy),
            conflict.at,
            sizes.get((namespace, key)),
            sizes.get((namespace, copy)),
        )

    async def keep(self, request: KeepRequest, send: Send) -> KeepReport:
        """Settle the conflicts of these copies. One that fails stays open and is reported."""
        if self._fs.options.read_only:
            raise NotPermittedError("the mount is read-only")
        wanted = set(request.copies)
        chosen = [c for c in self._log.open() if self._reporter.path_at(c.namespace, c.copy) in wanted]
        failed = []
        for number, conflict in enumerate(chosen):
            await turn(number)
            try:
                if self._log.is_open(conflict):  # or somebody settled it meanwhile
                    await self._settle(conflict, mine=request.keep == "mine")
            except KvfsError as exc:
                path = self._reporter.path_at(conflict.namespace, conflict.key)
                failed.append(FailedItem(path, str(exc)))
        await self._fs.forgetting.reach_kernel()
        return KeepReport(len(chosen) - len(failed), failed)

    async def _settle(self, conflict: Conflict, *, mine: bool) -> None:
        namespace, key, copy = conflict.namespace, conflict.key, conflict.copy
        if mine:
            await self._put_in_place(conflict)
        else:
            parent = self._fs.inodes.peek_directory(namespace, self._fs.overlay.naming.parent_of_key(copy))
            self._fs.tree.removals.delete_key(namespace, copy, parent)
        for changed in (key, copy):
            self._fs.forgetting.forget_kernel_name(namespace, changed)
        self._log.settle(namespace, copy)

    async def _put_in_place(self, conflict: Conflict) -> None:
        """Make the copy the value of the name. Raises `TimedOutError`, store errors."""
        seconds = self._fs.options.timeout
        with trio.move_on_after(seconds):
            await self._fs.renames.put_in_place(conflict.namespace, conflict.copy, conflict.key)
            return
        raise TimedOutError(f"no answer within {seconds:g} s")
