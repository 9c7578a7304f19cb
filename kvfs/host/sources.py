"""The sources that this machine has mounted: their names, and all that a mount without the server needs.

`STATE/sources/<hash of the identity>/source.json`, beside the journal. It goes with that.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kvfs.core.model import Namespace, NamespaceId
from kvfs.core.names import CONTROL, Naming
from kvfs.host.state import read_as, write_record

NAME = "source.json"
HISTORY = "history"
"""The directory beside the journal with what was overwritten and deleted through the mount."""


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """A source that was mounted. `mountpoint` is where it was last, `since` when, in epoch seconds.

    `namespace` and `prefix` are where the root of the mount is; "" and "": the list of namespaces. `namespaces`
    are titles by id, as last listed.
    """

    source: str
    identity: str
    mountpoint: str
    separator: str = "/"
    namespace: str = ""
    prefix: str = ""
    since: float = 0.0
    namespaces: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> str:
        """Return the store that the source is a part of: see `store_of`."""
        return store_of(self.identity)

    @property
    def naming(self) -> Naming:
        """Return the naming rules of the source's keys."""
        return Naming(self.separator, frozenset({CONTROL} if self.namespace else ()))

    def listed(self) -> list[Namespace]:
        """Return the namespaces, as last listed."""
        return [Namespace(NamespaceId(id_), title) for id_, title in self.namespaces.items()]


def store_of(identity: str) -> str:
    """Return the account, the project or the file that a source of this identity (`source_identity`) is a part of."""
    lines = identity.split("\n")
    return "\n".join(lines[:2]) if identity.startswith("cloudflare:") else lines[0]


def write_source(journal: Path, record: SourceRecord) -> None:
    """Keep a record beside its journal. Raises OSError."""
    write_record(record, journal.parent / NAME)


def read_source(journal: Path) -> SourceRecord | None:
    """Return the record beside a journal; None when there is none, or none that makes sense."""
    return read_as(SourceRecord, journal.parent / NAME)


def last_used(journal: Path) -> float:
    """Return when a mount of the source was last there, to the day (epoch seconds). `kvfs status` is not a use."""
    times = [0.0]
    for file in (journal.parent / NAME, *journal.parent.glob(f"{journal.name}-log.*")):
        with suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times) or journal.stat().st_mtime


def was_used(journal: Path) -> None:
    """Note that a mount of the source is there now, or ended."""
    with suppress(OSError):
        os.utime(journal.parent / NAME)


def journals(state_dir: Path) -> list[Path]:
    """Return the journals on this machine, of mounted and unmounted sources."""
    return sorted((state_dir / "sources").glob("*/journal.sqlite"))


def known_sources(*state_dirs: Path) -> list[tuple[Path, SourceRecord]]:
    """Return the journals whose sources are known by name, with their records."""
    found = [(journal, read_source(journal)) for directory in state_dirs for journal in journals(directory)]
    return [(journal, record) for journal, record in found if record is not None]
