"""`kill -9` at any moment: every record that was confirmed is there, and none is half there."""

import random
import select
import signal
import subprocess
import sys

import pytest
from crash import sites
from support.journal_check import check_journal
from support.journals import NS, open_journal

from kvfs.core.digest import digest
from kvfs.core.model import ChangeState

ROUNDS = 20

# Records, renames, deletes and acknowledges for ever; says on stdout what it was promised, when it was.
WRITER = """
import random, sys
import trio
from support.journals import NS, START, open_journal
from kvfs.core.model import Key
from kvfs.core.digest import INLINE_BYTES
from kvfs.journal.writer import Move
from pathlib import Path

async def main(path, seed):
    rng = random.Random(seed)
    with open_journal(Path(path)) as journal:
        model = {c.key: None if c.is_tombstone else c.size for c in journal.under(NS, "")}
        while True:
            key = f"k{rng.randrange(20)}"
            other = f"r{rng.randrange(20)}"
            choice = rng.random()
            print("try", flush=True)
            if choice < 0.5:
                value = rng.randbytes(rng.choice([0, 10, 5000, INLINE_BYTES]))
                body = journal.stage(value)
                if choice < 0.02:
                    body = await journal.spool(value * 2 + rng.randbytes(INLINE_BYTES))
                journal.record_put(NS, Key(key), body, metadata=None, expiration=None, base=None)
                print("put", key, body.digest.hex(), flush=True)
            elif choice < 0.7:
                journal.record_delete(NS, Key(key), base=None)
                print("delete", key, flush=True)
            elif choice < 0.85:
                change = journal.get(NS, Key(key))
                if change and not change.is_tombstone:
                    journal.move(NS, [Move(Key(key), Key(other), None, None)])
                    print("move", key, other, flush=True)
            else:
                seqs = [change.seq for change in journal.pending()][:5]
                journal.mark_attempted(seqs)
                journal.ack(seqs, START)
                print("ack", *seqs, flush=True)
            await journal.tidy() if choice > 0.98 else None

trio.run(main, sys.argv[1], int(sys.argv[2]))
"""


def _run_and_kill(path, seed: int) -> list[list[str]]:
    """Run the writer and kill it; return the promises that it was given."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed)], stdout=subprocess.PIPE, env=_environment()
    )
    lines = b""
    wanted = random.Random(seed).randrange(200, 6000)
    while len(lines) < wanted:
        lines += process.stdout.read1(65536)
        if process.poll() is not None:
            pytest.fail("the writer ended by itself")
    process.send_signal(signal.SIGKILL)
    while select.select([process.stdout], [], [], None)[0] and (more := process.stdout.read1(65536)):
        lines += more
    process.wait()
    process.stdout.close()
    return [line.split() for line in lines.decode().rpartition("\n")[0].split("\n")]


def _environment():
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


def _states(promised, model: dict) -> tuple[dict, set]:
    """Return digests by key as promised, and the numbers acknowledged; None is a tombstone."""
    acked = set()
    for kind, *words in (line for line in promised if line != ["try"]):
        if kind == "put":
            model[words[0]] = words[1]
        elif kind == "delete":
            model[words[0]] = None
        elif kind == "move":
            model[words[1]], model[words[0]] = model[words[0]], None
        else:
            acked |= set(map(int, words))
    return model, acked


def test_a_killed_writer_loses_nothing_it_was_promised(tmp_path):
    """Twenty kills at random moments, each on the journal that the last one left, lose nothing promised.

    Only the change under way may differ.
    """
    path = tmp_path / "journal.db"
    model: dict[str, str | None] = {}
    for round_ in range(ROUNDS):
        model, acked = _states(_run_and_kill(path, round_), model)
        with open_journal(path) as journal:
            check_journal(journal)
            found = {
                c.key: None if c.is_tombstone else digest(journal.value(c)).hex()
                for c in journal.under(NS, "")
            }
            assert not acked & {change.seq for change in journal.pending()}
            assert all(c.state is not ChangeState.REJECTED for c in journal.under(NS, ""))
        differing = {key for key in model.keys() | found.keys() if model.get(key) != found.get(key)}
        assert len(differing) <= 2, differing  # a rename under way touches two
        model = found


def test_the_lists_of_the_crash_harness_name_functions_that_are_there(monkeypatch):
    """The lists of the crash harness name existing functions, because a stale name would fail an hour's run."""
    assert sites.UNREACHABLE.keys() <= {site.where for site in sites.all_sites()}
    inner = sites.INNER
    monkeypatch.setattr(sites, "INNER", set())
    assert inner <= sites.operations()
