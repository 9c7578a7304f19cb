"""A check of the journal's invariants, recomputed from the log.

It compares memory with what a replay of the log, as it is on the disk now, comes to; nothing is altered.
"""

from operator import attrgetter

from msgspec.structs import replace

from kvfs.changes.index import Index
from kvfs.changes.rules import Row
from kvfs.core.errors import JournalError
from kvfs.core.model import KeyRef, NamespaceId, Seq
from kvfs.journal.journal import Journal
from kvfs.journal.recovery import LOST
from kvfs.journal.replay import Replay
from kvfs.journal.transaction import Transactions
from kvfs.kept.facts import LocalFacts


def check_journal(journal: Journal) -> None:
    """AssertionError when memory and log differ or a content is missing or superfluous."""
    found = faults(journal._transactions)
    assert not found, found


def faults(transactions: Transactions) -> list[str]:
    """Return the invariants that are broken; an empty list when all hold."""
    index = transactions.index
    replay = Replay(transactions.log.path)
    found = [text for text in (replay.fault, replay.lost) if text is not None]
    mine, theirs = _rows(index.all()), _rows(replay.recorded.index.all())
    if mine != theirs:
        found.append(
            f"rows differ: {[row for row in (*mine, *theirs) if row not in mine or row not in theirs]}"
        )
    if replay.last != transactions.log.last:
        found.append(f"the log ends at {replay.last}, not at {transactions.log.last}")
    return (
        found
        + _index_faults(index)
        + _kept_faults(transactions.kept, replay.recorded.kept)
        + _content_faults(transactions)
    )


def _rows(rows: list[Row]) -> list[tuple[object, ...]]:
    """Rows without the segments that contents are in: these change with a snapshot."""
    return sorted(
        (
            row.seq,
            row.content and row.content.identity,
            row.content and row.content.spool,
            replace(row, content=None),
        )
        for row in rows
    )


def _index_faults(index: Index) -> list[str]:
    found, rows = [], index.all()
    for state, by_seq in index.by_state.items():
        if list(by_seq.values()) != sorted(
            (row for row in rows if row.state is state), key=attrgetter("seq")
        ):
            found.append(f"index of {state} differs")
        if len(by_seq) != sum(by_seq.get(row.seq) is row for row in rows):
            found.append(f"numbers or count of {state} differ")
    for namespace, by_key in index.rows.items():
        dead = sorted(key for key, row in by_key.items() if row.is_tombstone)
        if list(index.dead[namespace]) != dead or list(index.live[namespace]) != sorted({*by_key} - {*dead}):
            found.append(f"sorted keys of {namespace} differ")
    if index.pending_bytes != sum(row.size for row in index.pending.values()):
        found.append("pending_bytes differs")
    inline = [row.size for row in rows if row.content is not None and row.content.spool is None]
    if (index.count, index.inline_bytes) != (len(rows), sum(inline)):
        found.append("count or inline_bytes differs")
    waiting: dict[Seq, set[KeyRef]] = {}
    for row in rows:
        if row.waits_for is not None:
            waiting.setdefault(row.waits_for, set()).add((row.namespace, row.key))
    if waiting != index.waiting:
        found.append("waiting differs")
    return found + tally_faults(index)


def tally_faults(index: Index) -> list[str]:
    """Return how the counts that are kept differ from those of all changes."""
    found = []
    spaces: dict[NamespaceId, list[int]] = {}
    errors: dict[str, dict[Seq, None]] = {}
    failures: dict[str, dict[Seq, None]] = {}
    for row in index.pending.values():
        space = spaces.setdefault(row.namespace, [0, 0])
        space[0], space[1] = space[0] + 1, space[1] + row.size
    for row in (*index.pending.values(), *index.rejected.values()):
        if row.error:
            errors.setdefault(row.error, {})[row.seq] = None
        elif row.failed is not None and row.seq in index.pending:
            failures.setdefault(row.failed.text, {})[row.seq] = None
    if index.tally.spaces != spaces:
        found.append("counts by namespace differ")
    if (index.tally.errors, index.tally.failures) != (errors, failures):
        found.append("errors or failures differ")
    if index.tally.oldest(index.pending) != min((row.since for row in index.pending.values()), default=None):
        found.append("the oldest pending change differs")
    return found


def _kept_faults(kept: LocalFacts, logged: LocalFacts) -> list[str]:
    found = []
    directories = [
        {namespace: dict(rows) for namespace, rows in facts.directories.items() if rows}
        for facts in (kept, logged)
    ]
    if directories[0] != directories[1] or kept.seen != logged.seen:
        found.append("directories or namespaces differ")
    for place, attrs in logged.unsaved.items():
        if kept.file(place) != attrs:
            found.append(f"attributes of {place} differ: {kept.file(place)}, not {attrs}")
    return found


def _content_faults(transactions: Transactions) -> list[str]:
    found, needed = [], dict[str, int]()
    for row in transactions.index.all():
        if (row.content is None) is not row.is_tombstone:
            return [f"content of {row.key!r} is wrong"]
        if row.content is None:
            continue
        if row.content.spool is not None:
            needed[row.content.spool] = needed.get(row.content.spool, 0) + 1
        if row.error == LOST:
            continue
        try:
            transactions.contents.read(row)
        except JournalError as exc:
            found.append(str(exc))
    if needed != transactions.contents.files.needed:
        found.append(
            f"files of the spool: {needed} are needed, {transactions.contents.files.needed} are counted"
        )
    return found
