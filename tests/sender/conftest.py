"""A journal, a store with faults and a sender between them, all in simulated time and without threads."""

from dataclasses import dataclass, field

import pytest
from support.faults import FaultStore
from support.inline import open_inline
from support.journal_check import check_journal
from support.journals import open_journal, simulated_now

from kvfs.core.model import NamespaceId
from kvfs.journal.journal import Journal
from kvfs.sender.events import Event, EventKind, OnConflict, SenderOptions
from kvfs.sender.sender import Sender
from kvfs.store.embedded.sqlite_store import SqliteStore


@dataclass
class Setting:
    """Journal, store and sender of a test. `sender(**options)` makes another sender on the same journal.

    `on_conflict`: by default nothing is compared, so that a test that is not about conflicts counts writes alone.
    """

    journal: Journal
    backend: SqliteStore
    store: FaultStore
    namespace: NamespaceId
    events: list[Event] = field(default_factory=list)
    settled: list = field(default_factory=list)
    on_conflict: OnConflict = OnConflict.OVERWRITE

    def sender(self, **options) -> Sender:
        """Return a sender with these options."""
        return Sender(
            self.journal,
            self.store,
            now=simulated_now,
            options=SenderOptions(**{"host": "host", "on_conflict": self.on_conflict} | options),
            on_settled=self.settled.extend,
            on_event=self.events.append,
        )

    def happened(self) -> list[EventKind]:
        """Return the kinds of the events so far."""
        return [event.kind for event in self.events]

    def operations(self) -> list[str]:
        """Return the operations asked of the store, in order."""
        return [call.operation for call in self.store.calls]


@pytest.fixture
async def setting(tmp_path, request):
    """Yield a journal and a store with one namespace. The test itself must ask for `autojump_clock`.

    A test file that sets ON_CONFLICT has its senders do that.
    """
    with open_inline(tmp_path / "store.db", now=simulated_now) as backend:
        namespace = await backend.create_namespace("namespace")
        journal = open_journal(tmp_path / "journal.db", now=simulated_now)
        setting = Setting(journal, backend, FaultStore(backend), namespace.id)
        setting.on_conflict = getattr(request.module, "ON_CONFLICT", setting.on_conflict)
        yield setting
        check_journal(setting.journal)
        setting.journal.close()
