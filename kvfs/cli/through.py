"""Paths inside a mount of this user: each stands for its source, with its pending changes, or after they were sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvfs.cli.daemons import ask, ask_mount, ask_to_send, daemon_of, recorded_path
from kvfs.cli.output import complain
from kvfs.core.errors import KvfsError, UserError
from kvfs.core.model import Key, KeyRef, NamespaceId
from kvfs.core.names import Naming
from kvfs.data.overlaid import PendingChange, PendingStore
from kvfs.host.control import Client
from kvfs.host.replies import PendingItem
from kvfs.host.requests import PendingRequest, RefreshRequest, SyncRequest, ToldRequest
from kvfs.host.told import ToldWrite, told_file
from kvfs.store.base import Store
from kvfs.store.noting import NotedWrite


@dataclass(frozen=True, slots=True)
class Through:
    """A mount that a path lies in."""

    mountpoint: Path
    source: str
    names: tuple[str, ...]
    state_dir: Path

    def over(self, store: Store, namespace: NamespaceId) -> Store:
        """Return the store under the mount's pending changes. Raises `ControlError` when the daemon does not answer."""
        answer = ask_mount(self.mountpoint, self.state_dir, PendingRequest(namespace))
        changes = list(map(_change, answer.items))
        if not changes:
            return store
        return PendingStore(store, namespace, changes, lambda path: (self.mountpoint / path).read_bytes())

    def send_pending(self) -> None:
        """Send pending changes, so that they do not overwrite what is written now. Raises `UserError`."""
        with daemon_of(self.mountpoint, self.state_dir) as client:
            answer = ask_to_send(client, SyncRequest())
        if count := answer.left_count:
            raise UserError(
                f"{count} changes of {self.mountpoint} are not at the server yet and would meet what is written:"
                f" kvfs sync {self.mountpoint} says why"
            )

    def show(self, written: Mapping[KeyRef, NotedWrite]) -> None:
        """Make the mount show what was written, and look anew at everything else."""
        try:
            with daemon_of(self.mountpoint, self.state_dir) as client:
                try:
                    if written:
                        self._tell(client, written)
                finally:
                    ask(client, RefreshRequest())
        except (OSError, KvfsError) as exc:  # all is written: the mount shows it when it looks by itself
            complain(f"{self.mountpoint} shows what was written later: {exc}")

    def _tell(self, client: Client, written: Mapping[KeyRef, NotedWrite]) -> None:
        with told_file(self.state_dir, [_told(*pair) for pair in written.items()]) as file:
            ask(client, ToldRequest(str(file)))


def _told(place: KeyRef, write: NotedWrite) -> ToldWrite:
    if write.entry is None:
        return ToldWrite(*place, write.at)
    return ToldWrite(*place, write.at, write.entry.value, write.entry.metadata, write.entry.expiration)


def _change(item: PendingItem) -> PendingChange:
    metadata = None if item.metadata is None else item.metadata.encode()
    return PendingChange(Key(item.key), item.path, item.deleted, metadata, item.expiration)


def find_through(text: str, state_dir: Path) -> Through | None:
    """Return the mount that a path lies in; None when it lies in none, or when this system has no such list."""
    found = recorded_path(text, state_dir)
    if found is None:
        return None
    record, mountpoint, names = found
    return Through(mountpoint, record.source, names, state_dir)


def key_of(names: Sequence[str]) -> str:
    """Return the key or prefix that names inside a namespace's directory stand for. Raises `UserError`."""
    try:
        return Naming("/").key_of(names) if names else ""
    except KvfsError as exc:
        raise UserError(f"{'/'.join(names)}: {exc}") from exc
