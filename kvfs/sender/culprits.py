"""Culprits: decides which of the changes that the store refuses are set aside for good.

A known code of KV for content is a verdict. A page of a firewall and a code nobody knows prove nothing by themselves:
the change is a suspect, and is set aside only when the store took another write to its namespace in the same round. Of
a body of many a few are tried alone first, as witnesses.
"""

import random
from typing import Final

import trio

from kvfs.core.errors import BlockedError, KvfsError, NamespaceNotFoundError, StoreError, UnavailableError
from kvfs.core.model import Change, NamespaceId
from kvfs.core.packing import Batch, BatchKind
from kvfs.journal.journal import Journal
from kvfs.sender.disguise import can_be_disguised
from kvfs.sender.events import Event, EventKind
from kvfs.sender.outcome import Counts, Outcome, Reports
from kvfs.store.base import Store

GONE_SECONDS: Final = 10.0  # a namespace just made may be unknown for a moment
WITNESSES: Final = 3  # when so many, drawn at random, are refused alone, it is not the content


class Culprits:
    """Sets changes aside, and reports it."""

    def __init__(
        self, journal: Journal, store: Store, counts: Counts, reports: Reports, timeout: float
    ) -> None:
        self._journal = journal
        self._store = store
        self._counts = counts
        self._reports = reports
        self._timeout = timeout
        self._missing_since: dict[NamespaceId, float] = {}
        self._refusing: set[NamespaceId] = set()  # namespaces for which not even a witness was taken

    def refuse(self, change: Change, error: KvfsError, outcome: Outcome) -> None:
        """Set a change aside that can never be sent."""
        self._journal.reject(change.seq, str(error))
        outcome.done += 1
        self._counts.rejected += 1
        self._reports.resolved(change, error)
        text = f"{change.key!r} was refused by the store: {error}"
        self._reports.event(Event(EventKind.REJECTED, text, change.namespace, change.key))

    # suspects

    def witnesses(self, part: Batch) -> list[Batch]:
        """Return single changes of a refused body, each to be sent alone, before the body is halved.

        When none of them is taken it is not the fault of a few: halves would all be refused, and each costs a
        request. They are drawn anew each time, *because* those of this time may be culprits. After a body of which
        none was taken one is enough, and it goes before the body.
        """
        count = 1 if part.namespace in self._refusing else WITNESSES
        drawn = random.sample(part.changes, min(count, len(part.changes)))
        is_put = part.kind is not BatchKind.DELETE
        kind = BatchKind.PUT if is_put else BatchKind.DELETE
        return [
            Batch(part.namespace, kind, (change,), disguised=is_put)
            for change in drawn
            if change.is_tombstone or can_be_disguised(change)
        ]

    def is_refusing(self, namespace: NamespaceId) -> bool:
        """True after a body of which not even a witness was taken, until a write is."""
        return namespace in self._refusing

    def note_refusing(self, namespace: NamespaceId) -> None:
        """Note that no witness was taken."""
        self._refusing.add(namespace)

    async def judge(self, outcome: Outcome) -> None:
        """Set suspects aside, or keep all of them for later; called at the end of a round."""
        suspects, outcome.suspects = outcome.suspects, []
        for change, error in suspects:
            if change.namespace in outcome.accepted or await self._is_alone(change, error, suspects):
                outcome.answered = True
                self.refuse(change, _verdict(error), outcome)
            else:
                self._counts.failures += 1
                outcome.fail(error)

    async def _is_alone(
        self, change: Change, error: StoreError, suspects: list[tuple[Change, StoreError]]
    ) -> bool:
        """True for the one change of a round, stopped by a firewall that lets other requests through."""
        is_only = isinstance(error, BlockedError) and len(suspects) == 1 and self._journal.pending_count == 1
        return is_only and bool(await self._is_there(change.namespace))

    # namespaces that are gone

    def known(self, namespace: NamespaceId) -> None:
        """Note that the namespace is there."""
        self._missing_since.pop(namespace, None)
        self._refusing.discard(namespace)

    async def missing(self, namespace: NamespaceId, error: NamespaceNotFoundError, outcome: Outcome) -> None:
        """Note that the namespace is unknown; if it stays so for a while its changes are set aside."""
        now = trio.current_time()
        since = self._missing_since.setdefault(namespace, now)
        if now - since >= GONE_SECONDS and await self._is_gone(namespace):
            self._set_aside(namespace, error, outcome)
            return
        self._counts.failures += 1
        outcome.fail(UnavailableError(f"namespace {namespace} is unknown to the store: {error}"))

    async def _is_gone(self, namespace: NamespaceId) -> bool:
        """Ask for the namespace itself: all that is pending for it hangs on the answer."""
        there = await self._is_there(namespace)
        if there:
            self.known(namespace)
        return there is False

    async def _is_there(self, namespace: NamespaceId) -> bool | None:
        """Return whether the store has it; None when it does not say."""
        self._counts.requests += 1
        try:
            with trio.move_on_after(self._timeout):
                await self._store.get_namespace(namespace)
                return True
        except NamespaceNotFoundError:
            return False
        except StoreError:
            pass
        return None

    def _set_aside(self, namespace: NamespaceId, error: NamespaceNotFoundError, outcome: Outcome) -> None:
        changes = self._journal.reject_namespace(namespace, f"namespace {namespace} is gone: {error}")
        outcome.done += len(changes)
        self._counts.rejected += len(changes)
        for change in changes:
            self._reports.resolved(change, error)
        text = f"namespace {namespace} is gone; {len(changes)} changes of it are set aside"
        self._reports.event(Event(EventKind.REJECTED, text, namespace))


def _verdict(error: StoreError) -> StoreError:
    """Return the error with the words in which a suspect is set aside."""
    if not isinstance(error, BlockedError):
        return error
    who = "Cloudflare's firewall" if error.is_firewall else "a filter on the way to the API"
    ray = f", ray {error.ray}" if error.ray else ""
    return BlockedError(
        f"{who} refused this content (HTTP {error.status}{ray})",
        status=error.status,
        ray=error.ray,
        is_firewall=error.is_firewall,
    )
