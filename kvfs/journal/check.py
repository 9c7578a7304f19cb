"""What is broken of the journal's invariants, recomputed from the tables: for tests.

It lists what `Ledger`, `Bodies` and the tables say of the same thing; nothing is altered but that SQLite hears of all.
"""

from kvfs.core.model import Seq
from kvfs.journal.index import LOAD, LOST, Ledger, Place, columns, row_of
from kvfs.journal.rules import Row


def faults(ledger: Ledger) -> list[str]:
    """Which invariants are broken, recomputed from the tables; empty when all hold."""
    found = []
    mine = {(*columns(row), row.digest) for rows in ledger.rows.values() for row in rows.values()}
    ledger.tables.apply()
    theirs = {(*columns(row), row.digest) for row in map(row_of, ledger.tables.look(LOAD))}
    if mine != theirs:
        found.append(f"rows differ: {mine ^ theirs}")
    everything = [row for rows in ledger.rows.values() for row in rows.values()]
    for state, by_seq in ledger.by_state.items():
        if by_seq != {row.change.seq: row for row in everything if row.change.state is state}:
            found.append(f"index of {state} differs")
    for namespace, rows in ledger.rows.items():
        dead = sorted(key for key, row in rows.items() if row.change.is_tombstone)
        if list(ledger.dead[namespace]) != dead or list(ledger.live[namespace]) != sorted({*rows} - {*dead}):
            found.append(f"sorted keys of {namespace} differ")
    if ledger.pending_bytes != sum(row.change.size for row in ledger.pending.values()):
        found.append("pending_bytes differs")
    waiting: dict[Seq, set[Place]] = {}
    for row in everything:
        if row.waits_for is not None:
            waiting.setdefault(row.waits_for, set()).add((row.change.namespace, row.change.key))
    if waiting != ledger.waiting:
        found.append("waiting differs")
    return found + _body_faults(ledger, everything)


def _body_faults(ledger: Ledger, everything: list[Row]) -> list[str]:
    references: dict[int, int] = {}
    for row in everything:
        if (row.body is None) is not row.change.is_tombstone:
            return [f"body of {row.change.key!r} is wrong"]
        if row.body is not None:
            references[row.body] = references.get(row.body, 0) + 1
    table = dict(ledger.tables.look("SELECT id, size FROM bodies"))
    if references.keys() != table.keys():
        return [f"bodies without rows or rows without bodies: {references.keys() ^ table.keys()}"]
    if references != {i: stored.refs for i, stored in ledger.bodies.stored.items()}:
        return ["references differ"]
    lost = {row.body for row in everything if row.change.error == LOST}
    return [
        f"body {i} is not whole"
        for i, n in table.items()
        if i not in lost and not ledger.bodies.is_whole(i, n)
    ]
