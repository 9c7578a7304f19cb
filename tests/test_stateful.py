"""A state machine drives the file system through the kernel's calls against a plain model, step by step.

Other clients, expiry, staleness, the sender, outages, refusals, crashes, memory pressure and odd names take part.
`KVFS_STEPS=50000` runs that many steps instead of the quick few; `tests/mounted/test_stateful_mounted.py` does
the like through a real mount.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from model.conflict_steps import ConflictSteps
from model.file_steps import FileSteps
from model.name_steps import NameSteps
from model.world_steps import WorldSteps

PHASES = [p for p in Phase if p is not Phase.shrink or not os.environ.get("KVFS_NO_SHRINK")]
STEPS = int(os.environ.get("KVFS_STEPS", "0"))
LIMIT = 300
"""Seconds for the quick few steps; the many take as long as they take."""


class Machine(FileSteps, NameSteps, WorldSteps, ConflictSteps):
    """The machine of all steps."""


Machine.TestCase.settings = settings(
    max_examples=max(1, STEPS // 100) if STEPS else 30,
    stateful_step_count=int(os.environ.get("KVFS_SPAN", "100" if STEPS else "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=PHASES,
    report_multiple_bugs=False,
)


@pytest.mark.timeout(0 if STEPS else LIMIT)
class TestFileSystem(Machine.TestCase):
    """The machine as pytest runs it."""
