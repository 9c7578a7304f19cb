"""Opening a journal: the time it takes for each change that waits, as a user waits for the mount as long."""

import time

from journal.test_change_memory import record
from support.journals import open_journal

MOST = 10e-6  # seconds of CPU a change: 100,000 in one second


def test_a_journal_opens_in_a_second_for_a_hundred_thousand_changes(tmp_path):
    """Opening takes at most ten microseconds of CPU for each change that waits, so a second for 100,000."""
    with open_journal(tmp_path / "journal") as journal:
        record(journal)
        count = journal.pending_count
    taken = []
    for _ in range(3):  # the quickest counts: others may use the same memory and caches
        begun = time.process_time()
        with open_journal(tmp_path / "journal"):
            taken.append(time.process_time() - begun)
    assert min(taken) < count * MOST
